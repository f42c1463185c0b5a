"""What became of servers, from crawl to crawl: which changes are made, in which words, and how many are kept."""

from __future__ import annotations

import msgspec

from crawler.history.changes import MAX_LENGTH, Watched, decode_watched, server_changes
from crawler.notify.digest import message
from shared import changes
from shared.changes import ChangeKind
from shared.incidents import Incident, Outcome
from shared.inference import InferenceOutcome, ServerInference
from shared.snapshot import PeerState, Verdict
from shared.store import keys
from tests.crawler.recording import START, record
from tests.fakes import model, peer_id, server, snapshot

NOON = START // 86400 * 86400.0 + 12 * 3600


def reached(number=1, start=0, end=8, **more):
    return server(number, start, end, verdict=Verdict.REACHABLE, **more)


def refused(number=1):
    return server(number, 0, 8, PeerState.UNREACHABLE, verdict=Verdict.UNREACHABLE, error="The port refuses.")


FOUND = {
    "+": (reached(),),
    "-": (refused(),),
    "?": (server(1, 0, 8),),
    ".": (),
    "o": (server(1, 0, 8, PeerState.OFFLINE),),
    "m": (reached(end=4),),
    "v": (reached(version="2"),),
}


class Stored:
    """The two hashes and the stream, as the script of the history changes them."""

    def __init__(self):
        self.watched: dict[str, Watched] = {}
        self.changes = {}

    def crawl(self, at, *servers, **more):
        commands = server_changes(self.watched, snapshot(model(servers=servers), taken_at=at, **more), at)
        for name, *given in commands:
            match name:
                case "CHANGE":
                    self.changes.pop(given[0], None)
                    self.changes[given[0]] = changes.decode(given[1])
                case "HSET":
                    self.watched[given[1]] = decode_watched(given[2])
                case "HDEL":
                    del self.watched[given[1]]
        return commands

    def run(self, pattern, begin=NOON):
        for minute, letter in enumerate(pattern):
            self.crawl(begin + 60 * minute, *FOUND[letter])
        return list(self.changes.values())


def sentences(pattern):
    return [changes.sentence(change) for change in Stored().run(pattern)]


def test_a_server_that_comes_back_is_one_entry_in_words():
    """Since when, why, and after how long it was back: one change, with the id that it began with."""
    stored = Stored()
    (opened,) = stored.run("++--")
    assert changes.sentence(opened) == "Unreachable since 2025-11-23 12:02 UTC: The port refuses."
    (closed,) = stored.run("-++", begin=NOON + 600)
    assert (closed.id, closed.start) == (opened.id, opened.start)
    assert changes.sentence(closed) == "Unreachable since 2025-11-23 12:02 UTC: The port refuses; back after 9 minutes."


def test_one_bad_probe_and_a_crawl_that_could_not_probe_are_no_change():
    """A server that nobody could probe is never unreachable, and a single failure is no change yet."""
    assert sentences("+-+-+") == []
    assert sentences("+????") == []
    assert len(sentences("+-?-")) == 1


def test_what_stops_and_what_vanishes_is_told_apart():
    """A server that says that it stops, and one that nobody announces any more."""
    assert "it announced that it stops" in sentences("+oo")[0]
    assert sentences("+..")[0].startswith("Gone since")
    stored = Stored()
    stored.crawl(NOON, reached())
    for minute in (1, 2, 3):
        stored.crawl(NOON + 60 * minute, unanswered_keys=1)
    assert not stored.changes  # its key did not answer: nothing is known


def test_flapping_is_one_entry_that_says_so():
    """Six times down within the hour is one entry with the count, and not six."""
    (change,) = Stored().run("+" + "--+" * 6)
    assert change.times == 6
    assert changes.sentence(change).startswith("Down 6 times between 2025-11-23 12:01 UTC and")
    assert "12 minutes in all: The port refuses; back since" in changes.sentence(change)
    assert changes.title(change).endswith("was flapping")


def test_two_checks_without_numbers_are_a_change_until_one_with_numbers():
    """However many crawls show them. What nobody could make, and what is busy, changes nothing."""
    stored = Stored()

    def crawls(*checks):
        for minute, outcome in checks:
            found = None if outcome is None else ServerInference(outcome, (0, 8), NOON + 60 * (minute // 10 * 10))
            stored.crawl(NOON + 60 * minute, reached(inference=found))
        return list(stored.changes.values())

    good, nan = InferenceOutcome.COMPUTED, InferenceOutcome.NOT_FINITE
    assert not crawls((0, None), (1, good), (10, nan), (11, nan), (12, nan), (20, good), (30, nan))
    (change,) = crawls((41, InferenceOutcome.UNKNOWN), (51, InferenceOutcome.BUSY), (61, nan), (62, nan))
    assert changes.severity(change) is changes.Severity.WARNING
    assert changes.title(change) == f"Server …{peer_id(1)[-6:]} answers, but does not compute"
    assert changes.sentence(change) == "Not computing since 2025-11-23 12:30 UTC: it computes NaN or infinity."
    (change,) = crawls((71, good))
    assert changes.title(change).endswith("computes again")
    assert changes.sentence(change).endswith("; back after 41 minutes.")


def test_who_does_not_answer_is_not_said_to_answer_without_computing():
    """Where it goes away, that is what is told."""
    stored = Stored()
    for minute in (0, 5, 10):
        found = ServerInference(InferenceOutcome.FAILED, (0, 8), NOON + 60 * minute, detail="no luck")
        stored.crawl(NOON + 60 * minute, reached(inference=found))
    assert [change.lasts for change in stored.changes.values()] == [True]
    stored.run("--", begin=NOON + 1200)
    assert {change.kind: change.lasts for change in stored.changes.values()} == {
        ChangeKind.NOT_COMPUTING: False, ChangeKind.DOWN: True
    }  # fmt: skip


def test_flapping_for_ever_makes_an_entry_a_day():
    """However often a server goes up and down or moves, it cannot push out the changes of others."""
    stored = Stored()
    minutes = int(2.5 * MAX_LENGTH / 60)
    stored.run("+m--" * (minutes // 4))
    assert len(stored.changes) <= 2 * 3


def test_moves_updates_and_new_servers():
    """Other blocks, another version, and a server that was not there before: each with from what to what."""
    assert sentences("+m") == ["At 2025-11-23 12:01 UTC: from blocks 0–7 to 0–3."]
    stored = Stored()
    stored.crawl(NOON, reached(version="1"))
    assert not stored.changes  # a monitor that begins finds nothing new
    stored.crawl(NOON + 60, *FOUND["v"], reached(2))
    assert {change.kind for change in stored.changes.values()} == {ChangeKind.UPDATED, ChangeKind.NEW}


def test_a_server_that_no_probe_reached_has_no_changes():
    """Anyone can write records: what never answered a probe fills no list."""
    stored = Stored()
    stored.crawl(NOON, reached())
    for minute in range(1, 5):
        stored.crawl(NOON + 60 * minute, reached(), *(refused(n) for n in range(2, 200)))
    assert (len(stored.watched), stored.changes) == (1, {})


def test_a_quiet_crawl_writes_nothing():
    """A swarm in which nothing happens costs no write."""
    stored = Stored()
    stored.crawl(NOON, reached(), reached(2))
    assert stored.crawl(NOON + 60, reached(), reached(2)) == []


def test_hostile_words_are_harmless_in_a_sentence():
    """Names and errors of others lose their control characters, and are cut."""
    stored = Stored()
    for minute in range(3):
        down = msgspec.structs.replace(refused(), error="\u202e<script>\x00" + "x" * 9_000)
        stored.crawl(NOON + 60 * minute, reached() if not minute else down)
    (change,) = stored.changes.values()
    assert "\u202e" not in changes.sentence(change)
    assert len(changes.sentence(change)) < 400


async def test_a_change_has_one_entry_in_redis(redis, monkeypatch):
    """An update replaces its entry, the oldest leave first, and ids that left are forgotten with them."""
    monkeypatch.setattr(changes, "MAX_CHANGES", 3)
    at = [START + 60.0 * n for n in range(6)]
    three = tuple(reached(n) for n in (1, 2, 3))
    await record(redis, *(snapshot(model(servers=three), taken_at=each) for each in at[:2]))
    down = [snapshot(model(servers=tuple(map(refused, (1, 2, 3)))), taken_at=each) for each in at[2:4]]
    back = snapshot(model(servers=(*three, reached(4))), taken_at=at[4])
    await record(redis, *down, back)
    entries = [changes.decode(fields[b"change"]) for _, fields in await redis.xrange(keys.CHANGES)]
    assert len(entries) == 3
    assert {entry.id.encode() for entry in entries} == set(await redis.hkeys(keys.CHANGE_ENTRIES))
    assert all(entry.end is not None for entry in entries)
    assert await redis.ttl(keys.CHANGES) > 0


async def test_an_incident_is_a_change_of_its_model(redis):
    """A model that breaks and works again is one change, with the blocks that it lost."""
    whole = model(servers=(reached(),), official=True)
    half = model(servers=(reached(end=4),), official=True)
    at = iter(range(9))
    await record(redis, *(snapshot(each, taken_at=START + 60.0 * next(at)) for each in (whole, half, half)))
    entries = [changes.decode(fields[b"change"]) for _, fields in await redis.xrange(keys.CHANGES)]
    outage = next(entry for entry in entries if entry.kind is ChangeKind.OUTAGE)
    assert outage.lasts
    assert "4 of 8 blocks" in changes.sentence(outage)
    await record(redis, *(snapshot(whole, taken_at=START + 60.0 * n) for n in (3, 4)))
    entries = [changes.decode(fields[b"change"]) for _, fields in await redis.xrange(keys.CHANGES)]
    assert [entry.end for entry in entries if entry.id == outage.id] == [START + 180.0]
    assert peer_id(1)[-6:] in changes.sentence(outage)


def test_a_model_that_was_withdrawn_does_not_work_again():
    """Its outage ends after a week without any server: nobody is told that it works."""
    incident = Incident("1", "demo", "Demo", True, START, 8, 0, end=START + 7 * 86400, outcome=Outcome.WITHDRAWN)
    change = changes.of_incident(incident, "Nobody serves it.", START + 7 * 86400)
    assert changes.title(change) == "Demo was withdrawn"
    assert changes.sentence(change).endswith("; withdrawn, as nobody serves it, after 7 days.")
    assert message([change], None).tone == "info"
    again = msgspec.structs.replace(incident, outcome=Outcome.RECOVERED)
    assert changes.title(changes.of_incident(again, "", START)) == "Demo works again"


async def test_a_stream_at_its_end_is_begun_anew(redis):
    """Whoever wrote the last id that a stream can have stops neither the changes nor the history."""
    await redis.xadd(keys.CHANGES, {"id": "x"}, id="18446744073709551615-18446744073709551615")
    at = iter(range(9))
    crawls = (reached(), reached(2)), (reached(), reached(2)), (reached(), refused(2)), (reached(), refused(2))
    await record(redis, *(snapshot(model(servers=each), taken_at=START + 60.0 * next(at)) for each in crawls))
    ((_, fields),) = await redis.xrange(keys.CHANGES)
    assert changes.decode(fields[b"change"]).kind is ChangeKind.DOWN
