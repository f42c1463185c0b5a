"""This module admits checks to the queue: reuses a verdict, joins a check that is under way, or begins one.

One Lua script decides, for the callers of all processes together, so that a peer that many check at once is probed
once. Checks that come while Redis works on the last ones go in one pipeline: the number of connections does not grow
with the callers.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import redis as sync_redis
import structlog
from redis.exceptions import NoScriptError, RedisError
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from shared import tracing
from shared.reachability import (
    CHECK_FUNCTION,
    RENEWAL,
    Answer,
    address_subject,
    decode_answer,
    job_subject,
    queue_name,
)
from shared.snapshot import Verdict
from shared.store import keys, stored

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from shared.inference import InferenceRequest

ADMITTED_AT_ONCE = 200

# KEYS: verdict, in-flight, workers of the vantage, queue, job, rq:queues.
# ARGV: new job's id, milliseconds left, how many may wait, milliseconds of the in-flight key, 1 for a fresh verdict,
# id of the job joined before, then the new job's fields. Returns one of HIT answer, JOIN id, LEAD id, NOWORKER, FULL.
_ADMIT = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(answer) return type(answer) == 'string' and answer end
if ARGV[5] ~= '1' then
  local verdict = text(redis.pcall('GET', KEYS[1]))
  -- A verdict without an expiry was not written by a worker, and would be returned for ever.
  if verdict and redis.call('PTTL', KEYS[1]) > 0 then return {'HIT', verdict} end
end
if redis.call('ZCOUNT', KEYS[3], now_ms, '+inf') == 0 then return {'NOWORKER'} end
local current = text(redis.pcall('GET', KEYS[2])) or ARGV[6]
local peer = string.match(ARGV[1], '^.*-')
-- An id of another peer's job, or text that is no job id, was written by somebody else.
if string.sub(current, 1, #peer) == peer and string.match(current, '^[%w-]+$') then
  local job = 'rq:job:' .. current
  local status = text(redis.pcall('HGET', job, 'status'))
  -- No worker renews a queued check yet; a started one whose key was not renewed lost its worker.
  if status == 'queued' then
    redis.call('SET', KEYS[2], current, 'PX', ARGV[4])
    return {'JOIN', current}
  end
  if status and redis.call('PTTL', KEYS[2]) > 0 then return {'JOIN', current} end
end
if redis.call('LLEN', KEYS[4]) >= tonumber(ARGV[3]) then return {'FULL'} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[4])
local fields = {}
for i = 7, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', KEYS[5], 'asked_ms', now_ms, 'deadline_ms', now_ms + tonumber(ARGV[2]), unpack(fields))
redis.call('PEXPIRE', KEYS[5], ARGV[2] + 2000)
redis.pcall('SADD', KEYS[6], KEYS[4])  -- for `rq info` alone
redis.call('RPUSH', KEYS[4], ARGV[1])
return {'LEAD', ARGV[1]}
"""

_DECISIONS = {b"HIT": "reused", b"JOIN": "joined", b"LEAD": "began", b"NOWORKER": "no_worker", b"FULL": "full"}
_REFUSALS = {b"NOWORKER": "no worker is looking now", b"FULL": "too many checks are waiting"}


log = structlog.get_logger()


class NoVerdictError(Exception):
    """Nobody could probe the peer; the message says why. It must never be shown as "unreachable"."""


@dataclass(slots=True)
class Check:
    """A check of one peer, or of one given address, from one vantage point.

    Fields that change while it is pending are read when it is sent.
    """

    vantage: str
    peer_id: str
    deadline: float
    """Monotonic seconds."""
    fresh: bool
    """Whether it wants a verdict from after its admission."""
    request_id: str
    """Of the first caller: goes with the job."""
    traceparent: str = ""
    """Of the latest admission: goes with the job, beside the request id."""
    inference: InferenceRequest | None = None
    """What the peer shall compute, where it is reached; such checks are a kind of their own."""
    address: str = ""
    """A multiaddr to be dialled as it was given; `peer_id` is empty then, and the answer is about the address alone."""
    job_id: str = ""
    """The job that was joined or begun last; admitting again recognises it by this."""
    ignores_verdict: bool = False
    """Whether the verdict in Redis could not be read: the check goes on as if there were none. Its key stays."""

    @property
    def subject(self) -> str:
        if self.address:
            return address_subject(self.address)
        return job_subject(self.peer_id, inference=self.inference is not None)

    @property
    def key(self) -> tuple[str, str, bool]:
        """Checks with the same key share one answer: vantage point, subject, and whether a fresh verdict is wanted."""
        return self.vantage, self.subject, self.fresh

    def is_answered_by(self, answer: Answer) -> bool:
        """Whether an answer is about this subject, and complete: a peer that was reached has computed if asked to."""
        if (answer.vantage, answer.peer_id, answer.address) != (self.vantage, self.peer_id, self.address):
            return False
        has_computed = answer.inference is not None or answer.outcome.verdict is not Verdict.REACHABLE
        return self.inference is None or has_computed


class Admitted(NamedTuple):
    """How a check stands: a recent verdict answers it, or a job is to find one."""

    answer: Answer | None
    job_id: str
    began: bool
    """Whether the job is this check's own."""


class Admissions:
    """Admits the checks of this process. `run` sends them; `admit` is called at each poll of a check."""

    def __init__(self, redis: Redis, *, max_queued: int) -> None:
        self._redis = redis
        self._max_queued = max_queued
        self._unsent: asyncio.Queue[tuple[Check, asyncio.Future[list[Any]]]] = asyncio.Queue()
        self._sha: str | None = None
        # RQ wants a connection to make a job; nothing is sent over this one.
        self._unused = sync_redis.Redis()

    async def admit(self, check: Check) -> Admitted:
        """Return how a check stands.

        Raises `NoVerdictError` where no worker lives or too many checks wait; `redis.RedisError`, `OSError`.
        """
        queue = queue_name(check.vantage)
        with tracing.span(
            f"admit {queue}",
            tracing.Kind.PRODUCER,
            attributes={
                "messaging.system": "rq",
                "messaging.operation.type": "send",
                "messaging.operation.name": "admit",
                "messaging.destination.name": queue,
            },
        ) as span:
            check.traceparent = span.traceparent
            decided: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
            self._unsent.put_nowait((check, decided))
            decision, *rest = await decided
            span.set({"petals.admission": _DECISIONS[decision]})
            if decision in _REFUSALS:
                raise NoVerdictError(_REFUSALS[decision])
            if decision == b"HIT":
                answer = stored.read("verdict", lambda packed: _verdict(packed, check), rest[0])
                if answer is not None:
                    return Admitted(answer, "", began=False)
                check.ignores_verdict = True  # the new one replaces it
                return await self.admit(check)
            job_id = rest[0].decode()
            span.set({"messaging.message.id": job_id})
            return Admitted(None, job_id, began=decision == b"LEAD")

    async def run(self) -> None:
        """Send the checks that have gathered, until cancelled."""
        while True:
            batch = [await self._unsent.get()]
            while not self._unsent.empty() and len(batch) < ADMITTED_AT_ONCE:
                batch.append(self._unsent.get_nowait())
            batch = [(check, decided) for check, decided in batch if not decided.done()]
            if not batch:
                continue
            try:
                results = await self._send([check for check, _ in batch])
            except (RedisError, OSError) as error:
                results = [error] * len(batch)
            except Exception as error:
                log.exception("checks could not be admitted")
                results = [error] * len(batch)
            for (_, decided), result in zip(batch, results, strict=True):
                if decided.done():
                    continue
                if isinstance(result, Exception):
                    decided.set_exception(result)
                else:
                    decided.set_result(result)

    async def _send(self, checks: list[Check]) -> list[Any]:
        if self._sha is None:
            self._sha = await self._redis.script_load(_ADMIT)
        calls = [self._call(check) for check in checks]
        for _ in range(2):
            pipeline = self._redis.pipeline(transaction=False)
            for key_names, arguments in calls:
                pipeline.evalsha(self._sha, len(key_names), *key_names, *arguments)
            results: list[Any] = await pipeline.execute(raise_on_error=False)
            if not any(isinstance(result, NoScriptError) for result in results):
                break
            self._sha = await self._redis.script_load(_ADMIT)  # a restarted Redis has forgotten it
        return results

    def _call(self, check: Check) -> tuple[list[str], list[Any]]:
        """Return the script's keys and arguments. The job is made in advance, in case there is none to join."""
        queue = queue_name(check.vantage)
        left_ms = max(1, int((check.deadline - time.monotonic()) * 1000))
        about = check.address or check.peer_id
        wants_fresh = int(check.fresh or check.ignores_verdict)
        job = Job.create(
            CHECK_FUNCTION,
            args=[about] if check.inference is None else [about, msgspec.to_builtins(check.inference)],
            id=f"{check.subject}-{secrets.token_hex(6)}",
            connection=self._unused,
            serializer=JSONSerializer,
            origin=queue,
            status=JobStatus.QUEUED,
            timeout=left_ms // 1000 + 1,
            result_ttl=0,
            failure_ttl=60,
            description=f"check {about}",
        )
        fields = [item for pair in job.to_dict().items() for item in pair] + [
            "request_id", check.request_id, "traceparent", check.traceparent,
        ]  # fmt: skip
        return (
            [
                keys.verdict(check.vantage, check.subject),
                keys.inflight(check.vantage, check.subject),
                keys.workers(check.vantage),
                Queue.redis_queue_namespace_prefix + queue,
                job.key,
                Queue.redis_queues_keys,
            ],
            [job.id, left_ms, self._max_queued, RENEWAL * 1000, wants_fresh, check.job_id, *fields],
        )


def _verdict(packed: bytes, check: Check) -> Answer:
    answer = decode_answer(packed)
    if not check.is_answered_by(answer):
        raise ValueError("the verdict is about something else")
    return answer
