"""The kept changes are found by what a filter names, as a walk through all of them would find them."""

import random
import re

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
    told = ids(log.events(log.newest - 1, ChangeFilter()))
    assert sorted(told) == sorted({each.id for each in batches[-1]})
    assert log.events(log.newest, ChangeFilter()) == ""
    of_model = [change.id for change in log.find(ChangeFilter(model="model-0")) if change.id in told]
    assert ids(log.events(log.newest - 1, ChangeFilter(model="model-0"))) == of_model[::-1]
    assert [each for each in told if each in of_model] == of_model[::-1]  # the oldest first


async def test_streams_of_all_changes_share_the_text(monkeypatch):
    """Nothing is looked up for each stream: 5,000 of them follow everything, and 1,000 changes may come at once."""
    chance = random.Random(2)
    log = ChangeLog(Reader([], [change(chance, number) for number in range(9)]), lambda: None)
    await log._follow()
    monkeypatch.delattr(module._Indexed, "find")
    assert len(ids(log.events(0, ChangeFilter()))) == 9


def ids(events):
    return re.findall(r'"id":"([0-9]+)"', events)
