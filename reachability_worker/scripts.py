"""This module holds the worker's Lua scripts, each of which changes many jobs in one step, by Redis's own clock.

RQ's own bookkeeping takes about ten round trips per job; here a batch takes one to start and one to finish. What RQ's
tools read stays correct: job hashes, `rq:wip:*` (StartedJobRegistry), `rq:execution*`, the worker's counters. Taking is
atomic, so a job is always in the queue, or started by a worker that renews it, or gone. RQ's intermediate list, in
which a killed worker leaves jobs behind, is not used.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from rq.utils import now, utcformat

from shared.reachability import RENEWAL, REPLIES_KEPT
from shared.store import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from redis.asyncio import Redis

    from reachability_worker.job import PackedJob
    from reachability_worker.registration import Registration

_CLOCK = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS: queue, wip. ARGV: how many, worker's name, now as RQ writes it, seconds a start counts without renewal,
# prefix of in-flight keys, execution id. Returns {id, packed call, milliseconds left, request id, traceparent} for
# each job.
# A job id is PEER-NONCE. An id without a job has expired; a job past its deadline is deleted.
_TAKE = (
    _CLOCK
    + """
local taken = {}
for _ = 1, tonumber(ARGV[1]) do
  local id = redis.call('LPOP', KEYS[1])
  if not id then break end
  local job = 'rq:job:' .. id
  local fields = redis.pcall('HMGET', job, 'data', 'deadline_ms', 'request_id', 'traceparent')
  if fields.err then fields = {true} end  -- not a hash, so not a job
  local left = (tonumber(fields[2]) or 0) - now_ms
  -- A deadline in the past, or too far ahead for any caller, is not valid.
  if fields[1] and left > 0 and left <= 60000 then
    left = math.floor(left)
    local until_s = time[1] + tonumber(ARGV[4])
    local execution = id .. ':' .. ARGV[6]
    redis.call('HSET', job, 'status', 'started', 'worker_name', ARGV[2], 'started_at', ARGV[3],
               'last_heartbeat', ARGV[3])
    redis.call('ZADD', KEYS[2], until_s, execution)
    redis.call('HSET', 'rq:execution:' .. execution, 'id', ARGV[6], 'created_at', time[1],
               'last_heartbeat', time[1], 'worker_name', ARGV[2])
    redis.call('PEXPIRE', 'rq:execution:' .. execution, left + 5000)
    redis.call('ZADD', 'rq:executions:' .. id, until_s + 60, ARGV[6])
    redis.call('PEXPIRE', 'rq:executions:' .. id, left + 5000)
    local peer = string.match(id, '^(.*)-')
    if peer and redis.pcall('GET', ARGV[5] .. peer) == id then
      redis.call('PEXPIRE', ARGV[5] .. peer, tonumber(ARGV[4]) * 1000)
    end
    taken[#taken + 1] = {id, fields[1], left, fields[3] or '', fields[4] or ''}
  elseif fields[1] then
    redis.call('DEL', job)
  end
end
return taken
"""
)

# KEYS: wip, worker, replies. ARGV: execution id, prefix of in-flight keys, prefix of verdict keys, replies kept,
# then for each job: id, answer, milliseconds for which the verdict may be reused (0: not at all).
_FINISH = """
local finished = 0
for i = 5, #ARGV, 3 do
  local id, answer, reuse_ms = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local peer = string.match(id, '^(.*)-')
  local execution = id .. ':' .. ARGV[1]
  redis.call('DEL', 'rq:job:' .. id, 'rq:execution:' .. execution, 'rq:executions:' .. id)
  redis.call('ZREM', KEYS[1], execution)
  if reuse_ms > 0 then redis.call('SET', ARGV[3] .. peer, answer, 'PX', reuse_ms) end
  if redis.pcall('GET', ARGV[2] .. peer) == id then redis.call('DEL', ARGV[2] .. peer) end
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', 'answer', answer)
  finished = finished + 1
end
redis.call('EXPIRE', KEYS[3], 86400)
redis.pcall('HINCRBY', KEYS[2], 'successful_job_count', finished)
"""

# KEYS: wip. ARGV: execution id, then ids of jobs that get no answer. The api requests such a check again.
_DROP = """
for i = 2, #ARGV do
  local execution = ARGV[i] .. ':' .. ARGV[1]
  redis.call('DEL', 'rq:job:' .. ARGV[i], 'rq:execution:' .. execution, 'rq:executions:' .. ARGV[i])
  redis.call('ZREM', KEYS[1], execution)
end
"""

# KEYS: queue, wip. ARGV: execution id, then job ids. The next worker takes them first.
_HAND_BACK = """
for i = 2, #ARGV do
  local job = 'rq:job:' .. ARGV[i]
  local execution = ARGV[i] .. ':' .. ARGV[1]
  redis.call('ZREM', KEYS[2], execution)
  redis.call('DEL', 'rq:execution:' .. execution, 'rq:executions:' .. ARGV[i])
  if redis.call('TYPE', job).ok == 'hash' then
    redis.call('HSET', job, 'status', 'queued', 'worker_name', '')
    redis.call('LPUSH', KEYS[1], ARGV[i])
  end
end
"""

# KEYS: wip, vantages, workers, queue. ARGV: worker's name, vantage, lease in seconds (0: give it up), prefix of
# in-flight keys, seconds a start counts, execution id, then for each job in flight its id and the stage that it has
# come to (empty: the same as before), for pages that show it. Returns how many checks wait in the queue, and for how
# many milliseconds the first of them has.
_RENEW = (
    _CLOCK
    + """
if tonumber(ARGV[3]) > 0 then
  local ends = now_ms + tonumber(ARGV[3]) * 1000
  redis.call('ZADD', KEYS[3], ends, ARGV[1])
  redis.call('ZADD', KEYS[2], 'GT', ends, ARGV[2])
else
  redis.call('ZREM', KEYS[3], ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now_ms - 60000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now_ms - 60000)
for i = 7, #ARGV, 2 do
  local peer = string.match(ARGV[i], '^(.*)-')
  redis.call('ZADD', KEYS[1], 'XX', time[1] + tonumber(ARGV[5]), ARGV[i] .. ':' .. ARGV[6])
  if redis.pcall('GET', ARGV[4] .. peer) == ARGV[i] then
    redis.call('PEXPIRE', ARGV[4] .. peer, tonumber(ARGV[5]) * 1000)
  end
  local job = 'rq:job:' .. ARGV[i]
  if ARGV[i + 1] ~= '' and redis.call('TYPE', job).ok == 'hash' then
    redis.call('HSET', job, 'stage', ARGV[i + 1])
  end
end
local first = redis.call('LINDEX', KEYS[4], 0)
local asked_ms = first and redis.pcall('HGET', 'rq:job:' .. first, 'asked_ms')
asked_ms = type(asked_ms) == 'string' and tonumber(asked_ms) or now_ms
local waited_ms = now_ms - asked_ms
if not (waited_ms >= 0 and waited_ms < 86400000) then waited_ms = 0 end
return {redis.call('LLEN', KEYS[4]), math.floor(waited_ms)}
"""
)

# KEYS: wip. Deletes jobs that a killed worker had started. The api requests such a check again.
_RECONCILE = """
local lost = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1])
for _, execution in ipairs(lost) do
  local id = string.match(execution, '^(.*):') or execution
  redis.call('DEL', 'rq:job:' .. id, 'rq:execution:' .. execution, 'rq:executions:' .. id)
  redis.call('ZREM', KEYS[1], execution)
end
return #lost
"""


class Finished(NamedTuple):
    """A check that has ended."""

    job_id: str
    answer: bytes
    """Encoded."""
    reuse_ms: int
    """Milliseconds for which the verdict answers other requests; 0: none."""


class Scripts:
    """The scripts of one worker. All methods raise `redis.RedisError` and `OSError`."""

    def __init__(self, redis: Redis, registration: Registration) -> None:
        self._registration = registration
        self._vantage = registration.vantage
        self._queue, self._wip = registration.queue_key, registration.wip_key
        self._execution = uuid4().hex
        """One execution id per process: RQ only needs it to be unique together with the job's id."""
        self._take = redis.register_script(_TAKE)
        self._finish = redis.register_script(_FINISH)
        self._drop = redis.register_script(_DROP)
        self._hand_back = redis.register_script(_HAND_BACK)
        self._renew = redis.register_script(_RENEW)
        self._reconcile = redis.register_script(_RECONCILE)

    async def take(self, limit: int) -> list[PackedJob]:
        """Start at most `limit` jobs of the queue, and return them."""
        taken: list[PackedJob] = await self._take(
            keys=[self._queue, self._wip],
            args=[
                limit, self._registration.name, utcformat(now()), RENEWAL, keys.inflight(self._vantage, ""),
                self._execution,
            ],
        )  # fmt: skip
        return taken

    async def finish(self, checks: Iterable[Finished]) -> None:
        """End jobs, and write their answers to the reply stream."""
        await self._finish(
            keys=[self._wip, self._registration.key, keys.REPLIES],
            args=[
                self._execution, keys.inflight(self._vantage, ""), keys.verdict(self._vantage, ""), REPLIES_KEPT,
                *(item for check in checks for item in check),
            ],
        )  # fmt: skip

    async def drop(self, job_ids: Iterable[bytes | str]) -> None:
        """Delete jobs that get no answer."""
        await self._drop(keys=[self._wip], args=[self._execution, *job_ids])

    async def hand_back(self, job_ids: Iterable[str]) -> None:
        """Put jobs back at the front of the queue."""
        await self._hand_back(keys=[self._queue, self._wip], args=[self._execution, *job_ids])

    async def renew(self, lease: float, stages: Mapping[str, str]) -> tuple[int, float]:
        """Renew the worker's lease for so many seconds (0: give it up), and the jobs in flight.

        `stages` has the id of each job, and the stage that it has come to (empty: the same as before). Return how
        many checks wait in the queue, and for how many seconds the first of them has.
        """
        waiting, oldest_ms = await self._renew(
            keys=[self._wip, keys.VANTAGES, keys.workers(self._vantage), self._queue],
            args=[
                self._registration.name, self._vantage, lease, keys.inflight(self._vantage, ""), RENEWAL,
                self._execution, *chain.from_iterable(stages.items()),
            ],
        )  # fmt: skip
        return waiting, oldest_ms / 1000

    async def reconcile(self) -> int:
        """Delete jobs that killed workers had started, and return how many."""
        return int(await self._reconcile(keys=[self._wip]))
