"""Bring answers back: as many in one step as came while the last ones were written, and none lost to an outage."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import structlog
from redis.exceptions import RedisError

from shared.reachability import REPLIES_KEPT, Answer, DialOutcome, encode_answer
from shared.snapshot import Verdict
from shared.store import keys, stored

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reachability_worker.job import Check
    from reachability_worker.registration import Registration
    from reachability_worker.scripts import Scripts
    from shared.inference import ServerInference

WRITTEN_AT_ONCE = 250
TRY_AGAIN = 0.25
"""Seconds."""

log = structlog.get_logger()


class _Finished(NamedTuple):
    check: Check
    answer: bytes
    reuse_ms: int


class Results:
    """Answers of one worker on their way into Redis: the reply stream, the verdict to reuse, the job's end."""

    def __init__(
        self,
        scripts: Scripts,
        registration: Registration,
        *,
        vantage: str,
        execution: str,
        verdict_reuse: float,
        on_written: Callable[[list[Check]], None],
        now: Callable[[], float],
        mend: Callable[[], Awaitable[None]],
    ) -> None:
        """`now` returns Unix seconds; `mend` makes the worker's keys such that they can be written to."""
        self._scripts = scripts
        self._now = now
        self._mend = mend
        self._registration = registration
        self._vantage = vantage
        self._execution = execution
        self._reuse_ms = int(verdict_reuse * 1000)
        self._on_written = on_written
        self._finished: asyncio.Queue[_Finished] = asyncio.Queue()

    def put(
        self, check: Check, outcome: DialOutcome, traceparent: str = "", inference: ServerInference | None = None
    ) -> None:
        """Take a check's outcome. What nobody could see is told, but not reused."""
        reuse_ms = 0 if outcome.verdict is Verdict.UNKNOWN else self._reuse_ms
        answer = Answer(check.peer_id, self._vantage, self._now(), outcome, check.request_id, traceparent, inference)
        self._finished.put_nowait(_Finished(check, encode_answer(answer), reuse_ms))

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            batch = [await self._finished.get()]
            while not self._finished.empty() and len(batch) < WRITTEN_AT_ONCE:
                batch.append(self._finished.get_nowait())
            await self._write(batch)
            self._on_written([done.check for done in batch])

    async def _write(self, batch: list[_Finished], *, mended: bool = False) -> None:
        """Write answers, however long Redis is away; one that Redis refuses for its own sake is given up, alone."""
        away = False
        while True:
            try:
                await self._finish(batch)
            except (RedisError, OSError) as error:
                if stored.is_outage(error):
                    # The answers are kept; a caller whose time has passed meanwhile was told that nobody could look.
                    if not away:
                        log.warning("results not written; trying again", error=str(error), results=len(batch))
                    away = True
                    await asyncio.sleep(TRY_AGAIN)
                    continue
                if mended and len(batch) == 1:
                    stored.refuse("answer", error)
                    return
            else:
                return
            if mended:
                for done in batch:
                    await self._write([done], mended=True)
                return
            mended = True
            with suppress(RedisError, OSError):
                await self._mend()

    async def _finish(self, batch: list[_Finished]) -> None:
        jobs = [item for done in batch for item in (done.check.job_id, done.answer, done.reuse_ms)]
        await self._scripts.finish(
            keys=[self._registration.wip_key, self._registration.key, keys.REPLIES],
            args=[
                self._execution,
                keys.inflight(self._vantage, ""),
                keys.verdict(self._vantage, ""),
                REPLIES_KEPT,
                *jobs,
            ],
        )
