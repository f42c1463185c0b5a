"""What stands in a job is hostile text: one known call about one peer, or nothing."""

import json
import time
import zlib

import pytest

from reachability_worker.job import ANSWER_RESERVE, MAX_JOB_BYTES, BadJobError, read_check, read_job
from shared.given import GivenAddress
from shared.inference import InferenceRequest
from shared.reachability import CHECK_FUNCTION, address_subject
from tests.fakes import peer_id

PEER = peer_id(1)
KNOWN, NAMED = "^not a call of the known function$", "^the job's id names another peer$"
ONE, JSON = "^not one peer id$", "^not RQ's JSON$"
TRACEPARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def packed(call):
    return zlib.compress(json.dumps(call).encode())


def test_a_check_of_a_peer_is_read():
    """The nonce behind the peer id is anything, also something with dashes cut off the right way."""
    assert read_job(f"{PEER}-abc", packed([CHECK_FUNCTION, None, [PEER], {}])) == (PEER, None, None)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (["os.system", None, ["true"], {}], KNOWN),
        ([CHECK_FUNCTION, "builtins", [PEER], {}], KNOWN),
        ([CHECK_FUNCTION, None, [PEER], {"evil": 1}], KNOWN),
        ([CHECK_FUNCTION, None, [peer_id(2)], {}], NAMED),
        ([CHECK_FUNCTION, None, ["nonsense"], {}], "base58|peer id"),
        ([CHECK_FUNCTION, None, [], {}], ONE),
        ([CHECK_FUNCTION, None, [PEER, PEER], {}], ONE),
        ([CHECK_FUNCTION, None, [7], {}], ONE),
        ([CHECK_FUNCTION, None, PEER, {}], ONE),
        ([CHECK_FUNCTION, None, "x", {}], ONE),
        ("text", KNOWN),
        ("longer text", JSON),
        ([[[[]]]], JSON),
        (7, JSON),
    ],
)
def test_only_a_check_of_the_named_peer_is_a_job(call, why):
    """Whoever can write to Redis cannot make a worker do anything else, and is told what was wrong."""
    with pytest.raises(BadJobError, match=why):
        read_job(f"{PEER}-abc", packed(call))


def test_a_job_may_ask_for_a_step_of_inference():
    """Of some blocks of one model, under a name of its own; what is none is no job."""
    asked = {"dht_prefix": "model", "start": 2, "end": 5}
    call = [CHECK_FUNCTION, None, [PEER, asked], {}]
    assert read_job(f"{PEER}-inference-a", packed(call)) == (PEER, InferenceRequest("model", 2, 5), None)
    with pytest.raises(BadJobError, match=NAMED):  # a verdict of a probe would be taken for it
        read_job(f"{PEER}-a", packed(call))
    with pytest.raises(BadJobError, match=NAMED):
        read_job(f"{PEER}-inference-a", packed([CHECK_FUNCTION, None, [PEER], {}]))
    read = read_check((f"{PEER}-inference-a".encode(), packed(call), 5_000, b"", b""))
    assert (read.peer_id, read.inference, read.given) == (PEER, InferenceRequest("model", 2, 5), None)
    for wrong, why in (
        ({"end": 2}, "^no blocks to compute$"), ({"end": 10**9}, "blocks: .*end"), ({"start": -1}, "blocks: .*start"),
        ({"start": "2"}, "blocks: .*start"), ({"dht_prefix": ""}, "blocks: .*dht_prefix"),
        ({"more": 1}, "blocks: .*more"),
    ):  # fmt: skip
        with pytest.raises(BadJobError, match=why):
            read_job(f"{PEER}-inference-a", packed([CHECK_FUNCTION, None, [PEER, asked | wrong], {}]))


def test_a_job_may_ask_for_one_given_address():
    """Under a name of its own, made of it; blocks with it, and forms that are not dialled, are no job."""
    address = f"/ip4/45.1.1.1/tcp/1/p2p/{PEER}"
    name = f"{address_subject(address)}-a"
    asked, call = (PEER, None, GivenAddress(PEER, "/ip4/45.1.1.1/tcp/1")), packed([CHECK_FUNCTION, None, [address], {}])
    assert read_job(name, call) == asked
    read = read_check((name.encode(), call, 5_000, b"", b""))
    assert (read.peer_id, read.inference, read.given) == asked
    blocks = {"dht_prefix": "model", "start": 2, "end": 5}
    for job_id, args, why in (
        (f"{PEER}-a", [address], "^the job's id names another address$"), (name, [PEER], NAMED),
        (name, [address, blocks], "base58|peer id"),
        (f"{address_subject('/unix/a')}-a", ["/unix/a"], "is no address that is dialled"),
        (name, [address.removesuffix(f"/p2p/{PEER}")], "names no peer"),
    ):  # fmt: skip
        with pytest.raises(BadJobError, match=why):
            read_job(job_id, packed([CHECK_FUNCTION, None, args, {}]))


@pytest.mark.parametrize("job_id", [PEER, f"{PEER}-a-b", f"x{PEER}-a", "-a", ""])
def test_a_job_answers_under_its_own_peers_name_alone(job_id):
    with pytest.raises(BadJobError, match=NAMED):
        read_job(job_id, packed([CHECK_FUNCTION, None, [PEER], {}]))


@pytest.mark.parametrize(
    "junk",
    [b"", b"junk", zlib.compress(b"\x80\x04K\x01."), zlib.compress(b" " * 10**7), zlib.compress(b"[" * 10_000)],
)
def test_pickles_junk_and_bombs_are_refused(junk):
    """Nothing is unpickled, and nothing unpacks to more than a job can be."""
    with pytest.raises(BadJobError, match=JSON):
        read_job(f"{PEER}-abc", junk)


def test_what_is_longer_than_a_job_can_be_is_cut_off():
    """White space around it counts, too."""
    call = json.dumps([CHECK_FUNCTION, None, [PEER], {}]).encode()
    assert read_job(f"{PEER}-a", zlib.compress(call.rjust(MAX_JOB_BYTES))) == (PEER, None, None)
    with pytest.raises(BadJobError):
        read_job(f"{PEER}-a", zlib.compress(call.rjust(MAX_JOB_BYTES + 1)))


def test_a_check_ends_in_time_to_bring_its_answer_back():
    """The deadline is this machine's own monotonic clock; the rest of the question goes with it."""
    before = time.monotonic()
    call = packed([CHECK_FUNCTION, None, [PEER], {}])
    check = read_check((f"{PEER}-a".encode(), call, 5_000, b"id-1", TRACEPARENT.encode()))
    assert before + 5.0 - ANSWER_RESERVE <= check.deadline <= time.monotonic() + 5.0 - ANSWER_RESERVE
    assert check == (f"{PEER}-a", PEER, check.deadline, "id-1", TRACEPARENT, None, None)


@pytest.mark.parametrize("hostile", [b"", b"\xff\xfe", b"a b", b"x" * 500, b'"\r\nX: y'])
def test_a_request_id_or_trace_that_is_none_is_dropped_and_costs_no_check(hostile):
    call = packed([CHECK_FUNCTION, None, [PEER], {}])
    check = read_check((f"{PEER}-a".encode(), call, 5_000, hostile, hostile))
    assert (check.peer_id, check.request_id, check.traceparent) == (PEER, "", "")


@pytest.mark.parametrize("job_id", [b"\xff\xfe-a", "ж-a".encode()])
def test_an_id_that_is_no_ascii_is_no_jobs(job_id):
    """It costs that job, and no other."""
    with pytest.raises(BadJobError, match="^its id is not ASCII$"):
        read_check((job_id, packed([CHECK_FUNCTION, None, [PEER], {}]), 5_000, b"", b""))
