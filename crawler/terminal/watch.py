"""This module is `python -m crawler --watch`: crawls without Redis, drawn on a terminal or written as lines."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from crawler.judge import judge
from crawler.observe.observation import SwarmUnavailableError
from crawler.observe.observer import Observer
from crawler.terminal.frame import Choice, Seen, frame
from crawler.terminal.screen import Screen
from shared.p2p.daemon import NodeError
from shared.public.state import state_document
from shared.text_picture import text_picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.settings import CrawlerSettings
    from shared.snapshot import CrawlProgress, Snapshot

MIN_PAUSE = 1.0
"""Seconds between two crawls, however long they take."""
REDRAW_EVERY = 1.0
"""Seconds, so that the age in the verdict is right."""
MAX_FILTER = 60


async def watch(settings: CrawlerSettings, *, as_json: bool) -> None:
    """Crawl until the reader quits. Where no terminal is, a picture (or a line of JSON) follows each crawl."""
    if as_json or not sys.stdout.isatty():
        with suppress(BrokenPipeError):
            await _crawls(
                settings,
                lambda snapshot: _print(_written(snapshot, as_json)),
                lambda error: _print(_failed(error, as_json)),
            )
        return
    await _Watch(settings).run()


async def _crawls(
    settings: CrawlerSettings,
    on_snapshot: Callable[[Snapshot], None],
    on_error: Callable[[str], None],
    on_progress: Callable[[CrawlProgress | None], None] = lambda _: None,
) -> None:
    observer = Observer(settings)

    async def progress(now: CrawlProgress) -> None:
        on_progress(now)

    try:
        while True:
            started = time.monotonic()
            try:
                observation = await observer.observe(progress=progress)
                on_snapshot(judge(observation, settings.crawl_period, settings.geo_database))
            except (SwarmUnavailableError, NodeError) as error:
                on_error(str(error))
            on_progress(None)
            await asyncio.sleep(max(MIN_PAUSE, settings.crawl_period - (time.monotonic() - started)))
    finally:
        await observer.close()


class _Watch:
    """A watched swarm on a terminal."""

    def __init__(self, settings: CrawlerSettings) -> None:
        self._settings = settings
        self._seen = Seen()
        self._choice = Choice()
        self._over = asyncio.Event()
        self._screen = Screen(self._key, self._draw, self._over.set)

    async def run(self) -> None:
        with self._screen:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(_crawls(self._settings, self._on_snapshot, self._on_error, self._on_progress)),
                    tasks.create_task(self._redraw()),
                ]
                await self._over.wait()
                for task in running:
                    task.cancel()

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        self._seen.snapshot, self._seen.problem = snapshot, ""
        self._draw()

    def _on_error(self, error: str) -> None:
        self._seen.problem = error
        self._draw()

    def _on_progress(self, progress: CrawlProgress | None) -> None:
        self._seen.progress = progress
        self._draw()

    async def _redraw(self) -> None:
        while True:
            self._draw()
            await asyncio.sleep(REDRAW_EVERY)

    def _draw(self) -> None:
        size = self._screen.size
        self._screen.draw(frame(self._seen, self._choice, width=size.columns, height=size.lines, now=time.time()))

    def _key(self, key: str) -> None:
        if pressed(self._choice, key, page=max(1, self._screen.size.lines // 2)):
            self._over.set()
        self._draw()


def pressed(choice: Choice, key: str, *, page: int) -> bool:
    """Change what is chosen by one key. Return whether the reader quits. `page` is in lines."""
    if key == "escape":
        choice.filter, choice.typing, choice.scroll = "", False, 0
    elif choice.typing:
        if key == "enter":
            choice.typing = False
        elif key == "backspace":
            choice.filter = choice.filter[:-1]
        elif len(key) == 1:
            choice.filter, choice.scroll = (choice.filter + key)[:MAX_FILTER], 0
    elif key == "/":
        choice.typing = True
    else:
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "page down": page, " ": page}
        choice.scroll = {"home": 0, "end": sys.maxsize}.get(key, max(0, choice.scroll + steps.get(key, 0)))
        return key == "q"
    return False


def _written(snapshot: Snapshot, as_json: bool) -> str:
    return msgspec.json.encode(state_document(snapshot)).decode() + "\n" if as_json else text_picture(snapshot)


def _failed(error: str, as_json: bool) -> str:
    return msgspec.json.encode({"error": error}).decode() + "\n" if as_json else f"The swarm cannot be seen: {error}.\n"


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
