"""Admit questions to the queue: reuse a verdict, join a check that is under way, or begin one.

One Lua script decides, for the callers of all processes together, so that a peer about whom many ask at once is
looked at once. Questions that come while Redis works on the last ones go in one pipeline: the number of
connections does not grow with the callers.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import redis as sync_redis
import structlog
from redis.exceptions import NoScriptError, RedisError
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from shared import tracing
from shared.reachability import CHECK_FUNCTION, RENEWAL, Answer, decode_answer, queue_name
from shared.store import keys, stored

if TYPE_CHECKING:
    from redis.asyncio import Redis

ADMITTED_AT_ONCE = 200

# KEYS: verdict, in-flight, workers of the vantage, queue, job, rq:queues.
# ARGV: new job's id, milliseconds left, how many may wait, milliseconds of the in-flight key, 1 to look afresh,
# id of the job joined before, then the new job's fields. Returns one of HIT answer, JOIN id, LEAD id, NOWORKER, FULL.
_ADMIT = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(answer) return type(answer) == 'string' and answer or nil end
if ARGV[5] ~= '1' then
  local verdict = text(redis.pcall('GET', KEYS[1]))
  -- What does not run out was not written by a worker, and would be told for ever.
  if verdict and redis.call('PTTL', KEYS[1]) > 0 then return {'HIT', verdict} end
end
if redis.call('ZCOUNT', KEYS[3], now_ms, '+inf') == 0 then return {'NOWORKER'} end
local current = text(redis.pcall('GET', KEYS[2]))
if not current and ARGV[6] ~= '' then current = ARGV[6] end
local peer = string.match(ARGV[1], '^.*-')
-- What names another peer, or is no job's id, was written by somebody else.
if current and string.sub(current, 1, #peer) == peer and string.match(current, '^[%w-]+$') then
  local job = 'rq:job:' .. current
  local status = text(redis.pcall('HGET', job, 'status'))
  -- A queued check is nobody's to renew; a started one that is not renewed lost its worker.
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


class NobodyCouldLookError(Exception):
    """No verdict. The message says why; never to be told as "unreachable"."""


@dataclass(slots=True)
class Question:
    """What is asked about one peer from one vantage point. What changes while it stands is read when it is sent."""

    vantage: str
    peer_id: str
    deadline: float
    """Monotonic seconds."""
    fresh: bool
    """Whether a verdict from before the question does not answer it."""
    request_id: str
    """Of the caller who asked first: goes with the job."""
    traceparent: str = ""
    """Of the latest admission: goes with the job, beside the request id."""
    job_id: str = ""
    """The check that was joined or begun last; admitting again recognises it by this."""


class Admitted(NamedTuple):
    """How a question stands: a recent verdict answers it, or a job looks for it."""

    answer: Answer | None
    job_id: str
    began: bool
    """Whether the job is this question's own."""


class Admissions:
    """One a process. `run` keeps it going; `admit` is for each question, as often as it is asked."""

    def __init__(self, redis: Redis, *, max_queued: int) -> None:
        self._redis = redis
        self._max_queued = max_queued
        self._asked: asyncio.Queue[tuple[Question, asyncio.Future[list[Any]]]] = asyncio.Queue()
        self._sha: str | None = None
        # RQ wants a connection to make a job; nothing is sent over this one.
        self._unused = sync_redis.Redis()

    async def admit(self, question: Question) -> Admitted:
        """Raise `NobodyCouldLookError` where no worker lives or too many checks wait; `redis.RedisError`, `OSError`."""
        queue = queue_name(question.vantage)
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
            question.traceparent = span.traceparent
            decided: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
            self._asked.put_nowait((question, decided))
            decision, *rest = await decided
            span.set({"petals.admission": _DECISIONS[decision]})
            if decision in _REFUSALS:
                raise NobodyCouldLookError(_REFUSALS[decision])
            if decision == b"HIT":
                answer = stored.read("verdict", lambda packed: _verdict(packed, question), rest[0])
                if answer is not None:
                    return Admitted(answer, "", began=False)
                question.fresh = True  # asked as if nothing stood there; the new verdict replaces it
                return await self.admit(question)
            job_id = rest[0].decode()
            span.set({"messaging.message.id": job_id})
            return Admitted(None, job_id, began=decision == b"LEAD")

    async def run(self) -> None:
        """Send what has gathered, until cancelled."""
        while True:
            batch = [await self._asked.get()]
            while not self._asked.empty() and len(batch) < ADMITTED_AT_ONCE:
                batch.append(self._asked.get_nowait())
            batch = [(question, decided) for question, decided in batch if not decided.done()]
            if not batch:
                continue
            try:
                results = await self._send([question for question, _ in batch])
            except (RedisError, OSError) as error:
                results = [error] * len(batch)
            except Exception as error:
                log.exception("questions could not be sent")
                results = [error] * len(batch)
            for (_, decided), result in zip(batch, results, strict=True):
                if decided.done():
                    continue
                if isinstance(result, Exception):
                    decided.set_exception(result)
                else:
                    decided.set_result(result)

    async def _send(self, questions: list[Question]) -> list[Any]:
        if self._sha is None:
            self._sha = await self._redis.script_load(_ADMIT)
        calls = [self._call(question) for question in questions]
        for _ in range(2):
            pipeline = self._redis.pipeline(transaction=False)
            for key_names, arguments in calls:
                pipeline.evalsha(self._sha, len(key_names), *key_names, *arguments)
            results: list[Any] = await pipeline.execute(raise_on_error=False)
            if not any(isinstance(result, NoScriptError) for result in results):
                break
            self._sha = await self._redis.script_load(_ADMIT)  # a restarted Redis has forgotten it
        return results

    def _call(self, question: Question) -> tuple[list[str], list[Any]]:
        """Return the script's keys and arguments. The job is made ahead, for the case that none is there to join."""
        queue = queue_name(question.vantage)
        left_ms = max(1, int((question.deadline - time.monotonic()) * 1000))
        job = Job.create(
            CHECK_FUNCTION,
            args=[question.peer_id],
            id=f"{question.peer_id}-{secrets.token_hex(6)}",
            connection=self._unused,
            serializer=JSONSerializer,
            origin=queue,
            status=JobStatus.QUEUED,
            timeout=left_ms // 1000 + 1,
            result_ttl=0,
            failure_ttl=60,
            description=f"look at {question.peer_id}",
        )
        fields = [item for pair in job.to_dict().items() for item in pair] + [
            "request_id", question.request_id, "traceparent", question.traceparent,
        ]  # fmt: skip
        return (
            [
                keys.verdict(question.vantage, question.peer_id),
                keys.inflight(question.vantage, question.peer_id),
                keys.workers(question.vantage),
                Queue.redis_queue_namespace_prefix + queue,
                job.key,
                Queue.redis_queues_keys,
            ],
            [
                job.id, left_ms, self._max_queued, RENEWAL * 1000, int(question.fresh), question.job_id, *fields,
            ],
        )  # fmt: skip


def _verdict(packed: bytes, question: Question) -> Answer:
    answer = decode_answer(packed)
    if (answer.vantage, answer.peer_id) != (question.vantage, question.peer_id):
        raise ValueError("the verdict is about another peer")
    return answer
