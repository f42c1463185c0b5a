"""Many dials at once: silent peers wait beside the others, never in front of them."""

import asyncio
import time

import pytest

from crawler.observe import probes
from crawler.observe.probes import ProbeQueue
from tests.fakes import REACHED


@pytest.fixture
def small(monkeypatch):
    """Two dials may settle at once, five may be in flight."""
    monkeypatch.setattr(probes, "MAX_STARTING", 2)
    monkeypatch.setattr(probes, "MAX_IN_FLIGHT", 5)
    monkeypatch.setattr(probes, "STARTING_SECONDS", 0.01)


class Peers:
    """Those whose name begins with "silent" answer when told to."""

    def __init__(self):
        self.wake = asyncio.Event()
        self.dialled = []
        self.in_flight = self.most = 0

    async def dial(self, peer):
        self.dialled.append(peer)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            if peer.startswith("silent"):
                await self.wake.wait()
            return REACHED
        finally:
            self.in_flight -= 1


def queue(peers, seconds=60.0):
    return ProbeQueue(peers.dial, timeout=1.0, until=time.monotonic() + seconds)


async def test_silent_peers_hold_up_nobody(small):
    peers = Peers()
    dials = queue(peers)
    names = [f"silent {number}" for number in range(4)] + [f"live {number}" for number in range(20)]
    for turn, name in enumerate(names):
        dials.add(name, known=False, rank=turn)
    while len(dials.outcomes) < 20:
        await asyncio.sleep(0.01)
    assert peers.in_flight == 4
    peers.wake.set()
    await dials.finish()
    assert set(dials.outcomes) == set(names)


async def test_no_more_are_in_flight_than_there_is_room_for(small):
    peers = Peers()
    dials = queue(peers)
    for turn in range(12):
        dials.add(f"silent {turn}", known=False, rank=turn)
    while peers.in_flight < 5:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert peers.in_flight == peers.most == 5
    peers.wake.set()
    await dials.finish()
    assert len(dials.outcomes) == 12
    assert peers.most == 5


async def test_known_peers_go_first(small):
    peers = Peers()
    dials = queue(peers)
    for turn, name in enumerate(["a", "b", "c", "d"]):
        dials.add(name, known=name in "cd", rank=turn)
    await dials.finish()
    assert peers.dialled == ["c", "d", "a", "b"]


async def test_a_first_look_waits_for_those_that_may_still_answer_alone(small):
    """Not for a silent one that has had its seconds; and each of the others gets its own."""
    peers = Peers()
    dials = queue(peers)
    dials.add("silent", known=False, rank=0)
    await dials.settled(0.01)
    assert dials.outcomes == {}
    dials.add("live", known=False, rank=1)
    silent_too = asyncio.create_task(dials.settled(60.0))
    await dials.settled(0.01)
    while "live" not in dials.outcomes:
        await asyncio.sleep(0.01)
    assert not silent_too.done()
    peers.wake.set()
    await silent_too
    assert dials.outcomes.keys() == {"silent", "live"}
    await dials.finish()


@pytest.mark.parametrize("late", [False, True])
async def test_those_that_no_time_is_left_for_are_counted(small, late):
    """Also while the machine is too busy to begin any: it may stay so."""
    peers = Peers()
    dials = ProbeQueue(peers.dial, timeout=1.0, until=time.monotonic() + 0.5, late=lambda: late)
    for number in range(3):
        dials.add(str(number), known=False, rank=number)
    await dials.finish()
    assert (dials.added, peers.dialled, dials.outcomes) == (3, [], {})


async def test_an_error_of_ours_is_raised(small):
    async def broken(peer):
        raise RuntimeError(peer)

    dials = ProbeQueue(broken, timeout=1.0, until=time.monotonic() + 60)
    dials.add("one", known=False, rank=0)
    with pytest.raises(RuntimeError, match="one"):
        await dials.finish()


async def test_nothing_is_begun_while_the_machine_is_busy(small):
    peers, busy = Peers(), [True]
    dials = ProbeQueue(peers.dial, timeout=1.0, until=time.monotonic() + 60, late=lambda: busy[0])
    for turn in range(3):
        dials.add(f"live {turn}", known=False, rank=turn)
    await asyncio.sleep(0.2)
    assert peers.dialled == []
    busy[0] = False
    await dials.finish()
    assert len(dials.outcomes) == 3
