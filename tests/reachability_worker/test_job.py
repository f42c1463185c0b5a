"""What stands in a job is hostile text: one known call about one peer, or nothing."""

import json
import time
import zlib

import pytest

from reachability_worker.job import ANSWER_RESERVE, MAX_JOB_BYTES, BadJobError, read_check, read_job
from shared.reachability import CHECK_FUNCTION
from tests.fakes import peer_id

PEER = peer_id(1)
TRACEPARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def packed(call):
    return zlib.compress(json.dumps(call).encode())


def test_a_check_of_a_peer_is_read():
    """The nonce behind the peer id is anything, also something with dashes cut off the right way."""
    assert read_job(f"{PEER}-abc", packed([CHECK_FUNCTION, None, [PEER], {}])) == PEER


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (["os.system", None, ["true"], {}], "known function"),
        ([CHECK_FUNCTION, "builtins", [PEER], {}], "known function"),
        ([CHECK_FUNCTION, None, [PEER], {"evil": 1}], "known function"),
        ([CHECK_FUNCTION, None, [peer_id(2)], {}], "names another peer"),
        ([CHECK_FUNCTION, None, ["nonsense"], {}], "base58|peer id"),
        ([CHECK_FUNCTION, None, [], {}], "not one peer id"),
        ([CHECK_FUNCTION, None, [PEER, PEER], {}], "not one peer id"),
        ([CHECK_FUNCTION, None, [7], {}], "not one peer id"),
        ([CHECK_FUNCTION, None, PEER, {}], "not one peer id"),
        ([CHECK_FUNCTION, None, "x", {}], "not one peer id"),
        ("text", "known function"),
        ("longer text", "not RQ's JSON"),
        ([[[[]]]], "not RQ's JSON"),
        (7, "not RQ's JSON"),
    ],
)
def test_only_a_check_of_the_named_peer_is_a_job(call, why):
    """Whoever can write to Redis cannot make a worker do anything else, and is told what was wrong."""
    with pytest.raises(BadJobError, match=why):
        read_job(f"{PEER}-abc", packed(call))


@pytest.mark.parametrize("job_id", [PEER, f"{PEER}-a-b", f"x{PEER}-a", "-a", ""])
def test_a_job_answers_under_its_own_peers_name_alone(job_id):
    with pytest.raises(BadJobError, match="names another peer"):
        read_job(job_id, packed([CHECK_FUNCTION, None, [PEER], {}]))


@pytest.mark.parametrize(
    "junk",
    [b"", b"junk", zlib.compress(b"\x80\x04K\x01."), zlib.compress(b" " * 10**7), zlib.compress(b"[" * 10_000)],
)
def test_pickles_junk_and_bombs_are_refused(junk):
    """Nothing is unpickled, and nothing unpacks to more than a job can be."""
    with pytest.raises(BadJobError, match="not RQ's JSON"):
        read_job(f"{PEER}-abc", junk)


def test_what_is_longer_than_a_job_can_be_is_cut_off():
    """White space around it counts, too."""
    call = json.dumps([CHECK_FUNCTION, None, [PEER], {}]).encode()
    assert read_job(f"{PEER}-a", zlib.compress(call.rjust(MAX_JOB_BYTES))) == PEER
    with pytest.raises(BadJobError):
        read_job(f"{PEER}-a", zlib.compress(call.rjust(MAX_JOB_BYTES + 1)))


def test_a_check_ends_in_time_to_bring_its_answer_back():
    """The deadline is this machine's own monotonic clock; the rest of the question goes with it."""
    before = time.monotonic()
    check = read_check(
        (f"{PEER}-a".encode(), packed([CHECK_FUNCTION, None, [PEER], {}]), 5000, b"id-1", TRACEPARENT.encode())
    )
    assert before + 5.0 - ANSWER_RESERVE <= check.deadline <= time.monotonic() + 5.0 - ANSWER_RESERVE
    assert check == (f"{PEER}-a", PEER, check.deadline, "id-1", TRACEPARENT)


@pytest.mark.parametrize("hostile", [b"", b"\xff\xfe", b"a b", b"x" * 500, b'"\r\nX: y'])
def test_a_request_id_or_trace_that_is_none_is_dropped_and_costs_no_check(hostile):
    check = read_check((f"{PEER}-a".encode(), packed([CHECK_FUNCTION, None, [PEER], {}]), 5000, hostile, hostile))
    assert (check.peer_id, check.request_id, check.traceparent) == (PEER, "", "")
