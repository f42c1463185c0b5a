"""The reachability desk: takes questions, has workers look, and gives each caller an answer in time.

However many callers ask about one peer, in this process or in another, one worker looks once. This process
keeps one watch for each peer that anyone asks about; a watch admits its question to Redis (`_ADMIT` decides
there, for all processes, whether to reuse a verdict, join a check or begin one), and then waits for the reply
on the one stream that all watches share. Every second it admits again: if the worker that had taken the check
was lost, the check begins anew at another.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import redis as sync_redis
import structlog
from redis.exceptions import NoScriptError, RedisError
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from api.request_id import current_request_id
from shared import keys
from shared.reachability import CHECK_FUNCTION, RENEWAL, Answer, decode_answer, queue_name
from shared.snapshot import Verdict
from shared.stream_tail import StreamTail

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

ADMIT_AGAIN = 1.0
"""Seconds after which a watch asks Redis again how its check stands."""
ADMITTED_AT_ONCE = 200
VANTAGES_LAST = 1.0
"""Seconds for which the list of vantage points is used before Redis is asked again."""
RETRY_AFTER = 5
"""Seconds that a refused caller is told to wait."""
RATE_WINDOW_MS = 60_000
OTHER_VANTAGES_WAIT = 0.5
"""Seconds that other vantage points get once one has reached the peer: the verdict stands, evidence is welcome."""

log = structlog.get_logger()

# KEYS: verdict, in-flight, workers of the vantage, queue, job, rq:queues.
# ARGV: new job's id, milliseconds left, how many may wait, milliseconds of the in-flight key, 1 to look afresh,
# id of the job joined before, then the new job's fields. Returns one of HIT answer, JOIN id, LEAD id, NOWORKER, FULL.
_ADMIT = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[5] ~= '1' then
  local verdict = redis.call('GET', KEYS[1])
  if verdict then return {'HIT', verdict} end
end
if redis.call('ZCOUNT', KEYS[3], now_ms, '+inf') == 0 then return {'NOWORKER'} end
local current = redis.call('GET', KEYS[2])
if not current and ARGV[6] ~= '' then current = ARGV[6] end
if current then
  local job = 'rq:job:' .. current
  local status = redis.call('HGET', job, 'status')
  -- A queued check is nobody's to renew; a started one that is not renewed lost its worker.
  if status == 'queued' then
    redis.call('SET', KEYS[2], current, 'PX', ARGV[4])
    return {'JOIN', current}
  end
  if status and redis.call('EXISTS', KEYS[2]) == 1 then return {'JOIN', current} end
end
if redis.call('LLEN', KEYS[4]) >= tonumber(ARGV[3]) then return {'FULL'} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[4])
local fields = {}
for i = 7, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', KEYS[5], 'asked_ms', now_ms, 'deadline_ms', now_ms + tonumber(ARGV[2]), unpack(fields))
redis.call('PEXPIRE', KEYS[5], ARGV[2] + 2000)
redis.call('SADD', KEYS[6], KEYS[4])
redis.call('RPUSH', KEYS[4], ARGV[1])
return {'LEAD', ARGV[1]}
"""

_REFUSALS = {b"NOWORKER": "no worker is looking now", b"FULL": "too many checks are waiting"}

# KEYS: the client's counter. ARGV: window. Returns the count and the milliseconds until it begins anew.
_COUNT = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return {count, redis.call('PTTL', KEYS[1])}
"""


class NobodyCouldLookError(Exception):
    """No verdict. The message says why; never to be told as "unreachable"."""


class Budget(NamedTuple):
    """What a client address has used of its requests a minute."""

    used: int
    resets_in: float
    """Seconds."""


@dataclass(slots=True)
class _Watch:
    """All callers of this process that wait for one peer's verdict from one vantage point."""

    vantage: str
    peer_id: str
    fresh: bool
    deadline: float
    result: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    waiters: int = 0
    job_id: str = ""
    """The check that was joined or begun last; admitting again recognises it by this."""
    pursuit: asyncio.Task[None] | None = None
    request_id: str = field(default_factory=current_request_id)
    """Of the caller who asked first: goes with the job."""


class ReachabilityDesk:
    """One a process. `run` keeps it going; `ask` is for each request."""

    def __init__(self, redis: Redis, *, max_queued: int) -> None:
        self._redis = redis
        self._max_queued = max_queued
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._tail = StreamTail(redis, (keys.REPLIES,), about="replies")
        self._admissions: asyncio.Queue[tuple[_Watch, asyncio.Future[list[Any]]]] = asyncio.Queue()
        self._count = redis.register_script(_COUNT)
        self._admit_sha: str | None = None
        # RQ wants a connection to make a job; nothing is sent over this one.
        self._unused = sync_redis.Redis()
        self._vantages: list[str] = []
        self._vantages_at = -VANTAGES_LAST
        self._finding_vantages: asyncio.Task[list[str]] | None = None
        self.on_reply: Callable[[Answer], None] = lambda _: None
        """Told of each reply that comes in, for metrics."""

    @property
    def waiting(self) -> int:
        """Callers that wait now."""
        return sum(watch.waiters for watch in self._watches.values())

    async def run(self) -> None:
        """Read replies and admit questions until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_replies())
            tasks.create_task(self._admit_in_batches())

    async def vantages(self) -> list[str]:
        """Return the vantage points that had a live worker within the last second. Raises `redis.RedisError`.

        Shared by all callers; whether a worker lives at this moment is decided where each question is admitted.
        """
        if time.monotonic() - self._vantages_at > VANTAGES_LAST and (
            self._finding_vantages is None or self._finding_vantages.done()
        ):
            self._finding_vantages = asyncio.create_task(self._find_vantages())
        if self._finding_vantages is not None and not self._finding_vantages.done():
            return await asyncio.shield(self._finding_vantages)
        return self._vantages

    async def _find_vantages(self) -> list[str]:
        seconds, microseconds = await self._redis.time()
        now_ms = seconds * 1000 + microseconds // 1000
        names: Any = await self._redis.zrangebyscore(keys.VANTAGES, now_ms, "+inf")
        self._vantages, self._vantages_at = sorted(name.decode() for name in names), time.monotonic()
        return self._vantages

    async def count(self, address: str) -> Budget:
        """Count one request of a client. Raises `redis.RedisError`."""
        used, resets_in_ms = await self._count(keys=[keys.rate(address)], args=[RATE_WINDOW_MS])
        return Budget(used, max(0, resets_in_ms) / 1000)

    async def ask(
        self, peer_id: str, *, deadline: float, vantage: str | None = None, fresh: bool = False
    ) -> list[Answer]:
        """Return what each live vantage point found, within `deadline` (monotonic seconds).

        Raises `NobodyCouldLookError` where none could.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                names = await self.vantages()
        except (RedisError, OSError, TimeoutError) as error:
            raise NobodyCouldLookError("the monitor's queue is away") from error
        if vantage is not None:
            names = [name for name in names if name == vantage]
        if not names:
            raise NobodyCouldLookError("no worker is looking now")
        tasks = [asyncio.create_task(self._ask_one(name, peer_id, deadline, fresh)) for name in names]
        try:
            await self._until_decided(tasks, deadline)
        finally:
            for task in tasks:
                task.cancel()
        answers = [task.result() for task in tasks if task.done() and not task.cancelled() and not task.exception()]
        if not answers:
            failed = next((task.exception() for task in tasks if task.done() and not task.cancelled()), None)
            raise NobodyCouldLookError(str(failed or "no worker answered in time"))
        return answers

    async def _until_decided(self, tasks: list[asyncio.Task[Answer]], deadline: float) -> None:
        pending: set[asyncio.Task[Answer]] = set(tasks)
        while pending:
            done, pending = await asyncio.wait(
                pending, timeout=max(0.0, deadline - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return
            if pending and any(
                not task.exception() and task.result().outcome.verdict is Verdict.REACHABLE for task in done
            ):
                deadline = min(deadline, time.monotonic() + OTHER_VANTAGES_WAIT)

    async def _ask_one(self, vantage: str, peer_id: str, deadline: float, fresh: bool) -> Answer:
        watch = self._watches.get((vantage, peer_id))
        if watch is None or watch.result.done():
            watch = self._watches[vantage, peer_id] = _Watch(vantage, peer_id, fresh, deadline)
            watch.pursuit = asyncio.create_task(self._pursue(watch))
        watch.waiters += 1
        watch.deadline = max(watch.deadline, deadline)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await asyncio.shield(watch.result)
        except TimeoutError:
            raise NobodyCouldLookError("no worker answered in time") from None
        finally:
            watch.waiters -= 1
            if not watch.waiters:
                self._close(watch)

    async def _pursue(self, watch: _Watch) -> None:
        """Admit the question until it has an answer or nobody waits for one any more."""
        try:
            while not watch.result.done() and time.monotonic() < watch.deadline:
                admitted: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
                self._admissions.put_nowait((watch, admitted))
                decision, *rest = await admitted
                if decision == b"HIT":
                    self._settle(decode_answer(rest[0]))
                elif decision in _REFUSALS:
                    watch.result.set_exception(NobodyCouldLookError(_REFUSALS[decision]))
                else:
                    watch.job_id = rest[0].decode()
                    log.debug("asked", peer_id=watch.peer_id, job_id=watch.job_id, decision=decision.decode())
                    watch.fresh = False  # from here on, any answer is younger than the question
                    await asyncio.wait([watch.result], timeout=ADMIT_AGAIN)
        except (RedisError, OSError, msgspec.MsgspecError) as error:
            if not watch.result.done():
                watch.result.set_exception(
                    NobodyCouldLookError(f"the monitor's queue is away ({type(error).__name__})")
                )

    def _close(self, watch: _Watch) -> None:
        if self._watches.get((watch.vantage, watch.peer_id)) is watch:
            del self._watches[watch.vantage, watch.peer_id]
        if watch.pursuit is not None:
            watch.pursuit.cancel()
        if watch.result.done() and not watch.result.cancelled():
            watch.result.exception()  # seen: nobody is left to raise it to

    def _settle(self, answer: Answer) -> None:
        watch = self._watches.get((answer.vantage, answer.peer_id))
        # A verdict from before the question does not answer one that wants a fresh look.
        if watch is not None and not watch.result.done() and not watch.fresh:
            watch.result.set_result(answer)

    async def _read_replies(self) -> None:
        while True:
            try:
                await self._tail.at_end()
                break
            except (RedisError, OSError):
                await asyncio.sleep(0.25)
        async for entries in self._tail.follow():
            for entry in entries:
                try:
                    answer = decode_answer(entry.fields[b"answer"])
                    self.on_reply(answer)
                    self._settle(answer)
                except (msgspec.MsgspecError, KeyError) as error:
                    log.warning("reply not readable", error=str(error))

    async def _admit_in_batches(self) -> None:
        """Send what has gathered in one pipeline: the number of connections does not grow with the callers."""
        while True:
            batch = [await self._admissions.get()]
            while not self._admissions.empty() and len(batch) < ADMITTED_AT_ONCE:
                batch.append(self._admissions.get_nowait())
            batch = [(watch, admitted) for watch, admitted in batch if not admitted.done() and watch.waiters]
            if not batch:
                continue
            try:
                results = await self._admit([watch for watch, _ in batch])
            except (RedisError, OSError) as error:
                results = [error] * len(batch)
            for (_, admitted), result in zip(batch, results, strict=True):
                if admitted.done():
                    continue
                if isinstance(result, Exception):
                    admitted.set_exception(result)
                else:
                    admitted.set_result(result)

    async def _admit(self, watches: list[_Watch]) -> list[Any]:
        if self._admit_sha is None:
            self._admit_sha = await self._redis.script_load(_ADMIT)
        calls = [self._admission(watch) for watch in watches]
        for _ in range(2):
            pipeline = self._redis.pipeline(transaction=False)
            for key_names, arguments in calls:
                pipeline.evalsha(self._admit_sha, len(key_names), *key_names, *arguments)
            results: list[Any] = await pipeline.execute(raise_on_error=False)
            if not any(isinstance(result, NoScriptError) for result in results):
                break
            self._admit_sha = await self._redis.script_load(_ADMIT)  # a restarted Redis has forgotten it
        return results

    def _admission(self, watch: _Watch) -> tuple[list[str], list[Any]]:
        queue = queue_name(watch.vantage)
        left_ms = max(1, int((watch.deadline - time.monotonic()) * 1000))
        job = Job.create(
            CHECK_FUNCTION,
            args=[watch.peer_id],
            id=f"{watch.peer_id}-{secrets.token_hex(6)}",
            connection=self._unused,
            serializer=JSONSerializer,
            origin=queue,
            status=JobStatus.QUEUED,
            timeout=left_ms // 1000 + 1,
            result_ttl=0,
            failure_ttl=60,
            description=f"look at {watch.peer_id}",
        )
        fields = [item for pair in job.to_dict().items() for item in pair] + ["request_id", watch.request_id]
        return (
            [
                keys.verdict(watch.vantage, watch.peer_id),
                keys.inflight(watch.vantage, watch.peer_id),
                keys.workers(watch.vantage),
                Queue.redis_queue_namespace_prefix + queue,
                job.key,
                Queue.redis_queues_keys,
            ],
            [
                job.id, left_ms, self._max_queued, RENEWAL * 1000, int(watch.fresh), watch.job_id, *fields,
            ],
        )  # fmt: skip
