"""The kept changes are found by what a filter names, as a walk through all of them would find them."""

import random

from api.responses import changes as module
from api.responses.changes import ChangeLog
from shared.changes import Change, ChangeFilter, ChangeKind
from tests.fakes import peer_id

NAMES = ("Ada", "Grace", None)


def change(chance, number):
    return Change(
        id=f"{number}",
        kind=ChangeKind.DOWN,
        dht_prefix=f"model-{chance.randrange(3)}",
        model="",
        peer_id=chance.choice((None, peer_id(1), peer_id(2))),
        contributor=chance.choice(NAMES),
        start=1.0,
        updated=float(chance.randrange(1000)),
    )


class Reader:
    """Yields batches of changes, in the place of a Redis stream."""

    def __init__(self, *batches):
        self._batches = batches

    async def follow(self):
        for batch in self._batches:
            yield batch


async def test_a_filter_finds_what_a_walk_finds(monkeypatch):
    """Updated ones move to the front, with another model or name too; the oldest are dropped; news are the batches."""
    monkeypatch.setattr(module, "MAX_CHANGES", 20)
    chance = random.Random(1)
    batches = [[change(chance, chance.randrange(30)) for _ in range(8)] for _ in range(12)]
    told = []
    log = ChangeLog(Reader(*batches), lambda: told.append(log.newest))
    await log._follow()
    walked = {}
    for each in (each for batch in batches for each in batch):
        walked.pop(each.id, None)
        walked[each.id] = each
    kept = list(reversed(walked.values()))[:20]
    filters = [
        ChangeFilter(server, model, contributor)
        for server in (None, peer_id(1), "nobody")
        for model in (None, "model-0")
        for contributor in NAMES
    ]
    for wanted in filters:
        assert log.find(wanted) == [each for each in kept if wanted.takes(each)]
    assert told == list(range(1, len(batches)))  # the first batch was there before
    newest = [f'"id":"{each.id}"' for each in {each.id: each for each in batches[-1]}.values()]
    events = log.events(log.newest - 1, ChangeFilter())
    assert sorted(newest) == sorted(next(one for one in newest if one in event) for event in events)
    assert log.events(log.newest, ChangeFilter()) == []
