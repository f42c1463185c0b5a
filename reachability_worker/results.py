"""This module writes answers to Redis in batches, and keeps them while Redis is away."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import structlog
from redis.exceptions import RedisError

from reachability_worker.job import ANSWER_RESERVE
from reachability_worker.scripts import Finished
from shared.inference import ON_DEMAND_REUSE
from shared.reachability import Answer, DialOutcome, encode_answer
from shared.snapshot import Verdict
from shared.store import stored

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reachability_worker.job import Check
    from reachability_worker.scripts import Scripts
    from shared.inference import ServerInference

ANSWERS_PER_BATCH = 250
RETRY_SECONDS = 0.25

log = structlog.get_logger()


class _Result(NamedTuple):
    """An answer to be written. Times are monotonic seconds."""

    job_id: str
    answer: bytes
    reusable_until: float
    """When its verdict no longer answers other requests."""
    useful_until: float
    """When nobody waits for it any more, and it is not reusable either."""


class Results:
    """Writes the answers of one worker: to the reply stream, as a verdict to reuse, and as the end of the RQ job."""

    def __init__(
        self,
        scripts: Scripts,
        *,
        vantage: str,
        verdict_reuse: float,
        on_written: Callable[[list[str]], None],
        now: Callable[[], float],
        delete_unusable: Callable[[], Awaitable[None]],
    ) -> None:
        """`on_written` gets ids of jobs that have ended; `now` returns Unix seconds.

        `delete_unusable` deletes keys of the worker that have the wrong type.
        """
        self._scripts = scripts
        self._now = now
        self._delete_unusable = delete_unusable
        self._vantage = vantage
        self._verdict_reuse = verdict_reuse
        self._on_written = on_written
        self._finished: asyncio.Queue[_Result] = asyncio.Queue()

    def put(
        self, check: Check, outcome: DialOutcome, traceparent: str = "", inference: ServerInference | None = None
    ) -> None:
        """Queue a check's answer. An unknown verdict is answered but not reused."""
        reuse = 0.0 if outcome.verdict is Verdict.UNKNOWN else self._verdict_reuse
        if inference is not None:
            reuse = ON_DEMAND_REUSE
        reusable_until = time.monotonic() + reuse
        useful_until = max(check.deadline + ANSWER_RESERVE, reusable_until)
        peer_id, address = (check.peer_id, "") if check.given is None else ("", str(check.given))
        answer = Answer(peer_id, self._vantage, self._now(), outcome, check.request_id, traceparent, inference, address)
        self._finished.put_nowait(_Result(check.job_id, encode_answer(answer), reusable_until, useful_until))

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            batch = [await self._finished.get()]
            while not self._finished.empty() and len(batch) < ANSWERS_PER_BATCH:
                batch.append(self._finished.get_nowait())
            await self._write(batch)
            self._on_written([done.job_id for done in batch])

    async def _write(self, batch: list[_Result], *, cleaned: bool = False) -> None:
        """Write answers, waiting while Redis is away. An answer that Redis itself refuses is dropped, alone."""
        away = False
        while True:
            try:
                await self._write_once(batch)
            except (RedisError, OSError) as error:
                if stored.is_outage(error):
                    # The answers are kept. A caller whose deadline passes meanwhile gets "nobody could look".
                    if not away:
                        log.warning("results not written; trying again", error=str(error), results=len(batch))
                    away = True
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                if cleaned and len(batch) == 1:
                    stored.refuse("answer", error)
                    return
            else:
                return
            if cleaned:
                for done in batch:
                    await self._write([done], cleaned=True)
                return
            cleaned = True
            with suppress(RedisError, OSError):
                await self._delete_unusable()

    async def _write_once(self, batch: list[_Result]) -> None:
        """Write answers, but for those that are too late: who asks now would get what was found before an outage."""
        now = time.monotonic()
        if late := [one.job_id for one in batch if one.useful_until < now]:
            await self._scripts.drop(late)
        if finished := [
            Finished(one.job_id, one.answer, max(0, int((one.reusable_until - now) * 1000)))
            for one in batch
            if one.useful_until >= now
        ]:
            await self._scripts.finish(finished)
