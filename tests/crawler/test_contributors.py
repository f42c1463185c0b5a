"""What counts for a public name: only what probes reached, for as long as crawls ran; bounded in size."""

from __future__ import annotations

import pytest

from crawler.history import contributors as counting
from crawler.history.contributors import PERIODS_AT_MOST, contributor_commands
from shared import contributors
from shared.contributors import DAY, DAYS_KEPT, MAX_MODELS
from shared.judgement.contributors import serving
from shared.snapshot import PeerState, Verdict
from tests.crawler.recording import START, record
from tests.fakes import model, peer_id, server, snapshot

NOON = START // DAY * DAY + 43_200.0


def named(number, name="Ada", **more):
    given = {"verdict": Verdict.REACHABLE, "show_public_name": True, "public_name": name, **more}
    return server(number, 0, 10, **given)


def official(*servers, prefix="official"):
    return model(prefix, blocks=10, servers=servers, official=True)


class Counters:
    def __init__(self):
        self.known, self.last = {}, 0.0

    def crawl(self, at, *models, **more):
        for name, *given in contributor_commands(
            self.known, snapshot(*models, taken_at=at, **more), at, last_crawl=self.last
        ):
            if name == "HSET":
                self.known[given[1]] = contributors.decode(given[2])
            elif name == "HDEL":
                del self.known[given[1]]
        self.last = at


@pytest.mark.parametrize(
    "nothing",
    [
        named(1, verdict=Verdict.UNKNOWN),  # nobody probed it
        named(1, state=PeerState.UNREACHABLE, verdict=Verdict.UNREACHABLE),
        named(1, state=PeerState.JOINING),
        named(1, show_public_name=False),
        named(1, name=None),
    ],
)
def test_a_name_without_a_server_behind_it_counts_nothing(nothing):
    """Records that anyone can write take nobody up the ranking, and who shows no name is not counted."""
    assert serving(snapshot(official(nothing))) == {}


def test_a_clock_that_was_ahead_costs_no_day():
    """What was counted of today before it stepped stays, and what was counted of tomorrow goes."""
    counters = Counters()
    for at in (NOON, NOON + 60, NOON + DAY):
        counters.crawl(at, official(named(1)))
    counters.last = NOON + 60
    counters.crawl(NOON + 120, official(named(1)))
    assert [(day.day, day.server_seconds) for day in counters.known["Ada"].days] == [(NOON // DAY, 120.0)]


def test_made_up_models_count_only_where_the_operator_decides_who_joins():
    """A model with a million blocks that anyone announces is no contribution; in a private swarm all models count."""
    made_up = model("made-up", blocks=10, servers=(named(1),))
    assert serving(snapshot(made_up)) == {}
    assert list(serving(snapshot(made_up, private_swarm=True))) == ["Ada"]


def test_hours_are_those_between_crawls_but_no_long_gap():
    """Server-hours and block-hours by day and in all; while no crawl ran nothing is known."""
    counters = Counters()
    for minute in range(61):
        counters.crawl(NOON + 60 * minute, official(named(1), named(2)), official(named(1), prefix="other"))
    ada = counters.known["Ada"]
    assert (ada.server_seconds, ada.block_seconds) == (2 * 3600, 30 * 3600)
    assert ada.models == {"official": 20 * 3600, "other": 10 * 3600}
    counters.crawl(NOON + 9 * 3600, official(named(1)))
    assert counters.known["Ada"].server_seconds - ada.server_seconds == PERIODS_AT_MOST * 60
    assert counters.known["Ada"].within(1, NOON) == (ada.server_seconds + 120, ada.block_seconds + 1200)
    assert counters.known["Ada"].within(1, NOON + DAY) == (0, 0)


def test_what_is_kept_is_bounded(monkeypatch):
    """In names, days and models; those that served least leave first, and names of a year ago."""
    monkeypatch.setattr(counting, "MAX_NAMES", 3)
    counters = Counters()
    for day in range(2 * DAYS_KEPT):
        for minute in (0, 1):
            models = [official(named(1), prefix=f"m{n}") for n in range(2 * MAX_MODELS)]
            counters.crawl(NOON + day * DAY + 60 * minute, *models)
    assert len(counters.known["Ada"].days) == DAYS_KEPT
    assert len(counters.known["Ada"].models) == MAX_MODELS
    counters.crawl(counters.last + 60, official(named(1), *(named(n, name=f"flood {n}") for n in range(2, 50))))
    assert len(counters.known) == 3
    assert "Ada" in counters.known
    counters.crawl(counters.last + 400 * DAY, official(named(2, name="Bob")))
    assert list(counters.known) == ["Bob"]


async def test_a_crawl_is_counted_once(redis):
    """A crawl that was recorded is counted with it, in the same step."""
    await record(redis, *(snapshot(official(named(1)), taken_at=START + 60.0 * n) for n in range(3)))
    (data,) = await redis.hvals("petals:contributors")
    assert contributors.decode(data).server_seconds == 120.0
    assert peer_id(1) not in repr(data)
