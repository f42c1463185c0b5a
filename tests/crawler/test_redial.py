"""Silent servers are dialled less often; nobody else is, and readers learn how old a verdict is."""

from itertools import pairwise

import pytest

from crawler import redial, swarm
from crawler.redial import LONGEST_PAUSE, RedialSchedule
from crawler.report import build_snapshot
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import PeerState, Verdict
from tests.crawler.synthetic_swarm import SyntheticSwarm
from tests.fakes import REACHED, REFUSED, peer_id

FROZEN = DialOutcome(Verdict.UNREACHABLE, Stage.SECURITY, Cause.FROZEN)
TIMEOUT = DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, Cause.TIMEOUT)
NOBODY_LOOKED = DialOutcome.unknown(Cause.NODE_UNFIT)
PEER = peer_id(1)


class Clock:
    """Stands for the schedule's `time`."""

    now = 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        return 5e8 + self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(redial, "time", clock)
    return clock


def dial(schedule, clock, outcome, after=60.0):
    """One crawl, a while after the one before: dial unless paused. Return whether it was dialled."""
    clock.now += after
    silence = schedule.paused(PEER)
    schedule.learn({} if silence else {PEER: outcome}, {PEER: silence} if silence else {})
    return silence is None


@pytest.mark.parametrize("silent", [FROZEN, TIMEOUT])
def test_pauses_grow_and_have_an_end(clock, silent):
    schedule = RedialSchedule()
    dialled = [clock.now for _ in range(60) if dial(schedule, clock, silent)]
    gaps = [later - earlier for earlier, later in pairwise(dialled)]
    assert gaps[:4] == [60, 120, 240, 300]
    assert set(gaps[4:]) == {LONGEST_PAUSE}


@pytest.mark.parametrize("outcome", [REACHED, REFUSED, NOBODY_LOOKED])
def test_only_silence_is_paused(clock, outcome):
    schedule = RedialSchedule()
    assert all(dial(schedule, clock, outcome) for _ in range(5))


def test_an_answer_ends_the_silence(clock):
    schedule = RedialSchedule()
    for _ in range(3):
        dial(schedule, clock, FROZEN)
    assert dial(schedule, clock, REACHED, after=LONGEST_PAUSE)
    assert dial(schedule, clock, FROZEN)
    assert dial(schedule, clock, FROZEN), "one silent dial is no reason to wait"


def test_a_server_that_announced_something_else_meanwhile_is_dialled_at_once(clock):
    schedule = RedialSchedule()
    for _ in range(3):
        dial(schedule, clock, FROZEN)
    assert schedule.paused(PEER)
    schedule.learn({}, {})
    assert schedule.paused(PEER) is None


async def test_a_paused_server_keeps_its_verdict_and_tells_its_age(clock, monkeypatch):
    synthetic = SyntheticSwarm()
    synthetic.announce_model("m-hf", 8)
    synthetic.announce_server("m-hf", peer_id(1), 0, 8, reached=False)
    synthetic.announce_server("m-hf", peer_id(2), 0, 8)
    schedule = RedialSchedule()
    snapshots = []
    for _ in range(3):
        clock.now += 60
        observation = await synthetic.crawl(monkeypatch, redial=schedule).run()
        snapshots.append(build_snapshot(
            observation, started_at=0, ended_at=clock.time(), update_period=60, private_swarm=False
        ))  # fmt: skip
    assert synthetic.dials.count(peer_id(1)) == 2
    assert synthetic.dials.count(peer_id(2)) == 3
    silent, live = ({s.peer_id: s for s in snapshots[2].models[0].servers}[peer_id(number)] for number in (1, 2))
    assert (silent.state, silent.verdict, silent.dialled_at) == (
        PeerState.UNREACHABLE, Verdict.UNREACHABLE, clock.time() - 60
    )  # fmt: skip
    assert (live.verdict, live.dialled_at) == (Verdict.REACHABLE, None)
    assert [issue.peer_id for issue in snapshots[2].reachability_issues] == [peer_id(1)]
    assert all(server.dialled_at is None for snapshot in snapshots[:2] for server in snapshot.models[0].servers)


async def test_a_crawl_that_went_deaf_teaches_nothing(monkeypatch):
    synthetic = SyntheticSwarm()
    synthetic.announce_model("m-hf", 8)
    synthetic.announce_server("m-hf", peer_id(1), 0, 8, reached=False)

    async def deaf():
        return False

    schedule = RedialSchedule()
    monkeypatch.setattr(synthetic, "hears", deaf)
    for _ in range(3):
        with pytest.raises(swarm.SwarmUnavailableError):
            await synthetic.crawl(monkeypatch, redial=schedule).run()
    assert schedule.paused(peer_id(1)) is None
