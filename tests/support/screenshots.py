"""Take the README's screenshots anew: `make screenshots`.

Starts the demo, waits until its pages show everything that they can, and has Chromium write them to docs/images as
WebP. What takes weeks to show, or a geo database, is taken of an api over a made-up past (tests/support/past_weeks.py).
Peer ids and times differ from run to run; what the pictures show does not.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from playwright.sync_api import sync_playwright

from deploy.demo.swarm import BROKEN, FROZEN, HEALTHY, LIVE
from deploy.embedded_redis import command, free_port
from tests.support.chromium import ARGUMENTS, CHROMIUM

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs/images"
WIDTH = 1180
QUALITY = 80
"""WebP's, of 100: text stays sharp, and a page weighs tens of kB."""
MOST_BYTES = 150_000
READY_WITHIN = 120.0


class Shot(NamedTuple):
    """A picture: its file's name, the page, how much of it in pixels, and the colours."""

    name: str
    path: str
    height: int
    scheme: str = "light"


OF_THE_PAST = (
    Shot("places", "/places", 900),
    Shot("contributors", "/contributors", 760),
    Shot("report", "/reports/{week}", 900),
    Shot("data", "/data", 620),
    Shot("docs", "/docs", 900),
    Shot("share", "/og/models/StableBeluga2-hf.png", 630),
)


def main() -> int:
    """Take those that are named, or all."""
    wanted = set(sys.argv[1:])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        past = [shot for shot in OF_THE_PAST if not wanted or shot.name in wanted]
        sizes = _of_the_past(browser, past) if past else []
        if not wanted or len(past) < len(wanted):
            sizes += _of_the_demo(browser, wanted)
        browser.close()
    return 1 if max(sizes) > MOST_BYTES else 0


def _of_the_past(browser: Browser, shots: list[Shot]) -> list[int]:
    redis_port, port = free_port(), free_port()
    url, page = f"redis://127.0.0.1:{redis_port}/0", f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(command(redis_port, None)) as redis:
        try:
            _wait(lambda: socket.create_connection(("127.0.0.1", redis_port)).close())
            subprocess.run([sys.executable, "-m", "tests.support.past_weeks", url, folder], cwd=ROOT, check=True)
            settings = {"REDIS_URL": url, "API_PORT": str(port), "EXPORT_FOLDER": folder}
            with subprocess.Popen([sys.executable, "-m", "api"], cwd=ROOT, env={**os.environ, **settings}) as api:
                try:
                    _wait(lambda: _json(f"{page}/api/v1/state"))
                    week = _json(f"{page}/api/v1/reports")["reports"][0]["week"]
                    return [_take(browser, page, shot._replace(path=shot.path.format(week=week))) for shot in shots]
                finally:
                    api.terminate()
        finally:
            redis.terminate()


def _of_the_demo(browser: Browser, wanted: set[str]) -> list[int]:
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    demo = subprocess.Popen(
        [sys.executable, "-m", "deploy.run_local", "--demo"],
        cwd=ROOT,
        env={**os.environ, "API_PORT": str(port)},
        start_new_session=True,
    )
    try:
        state = _when_complete(page)
        return [_take(browser, page, shot) for shot in _shots(state) if not wanted or shot.name in wanted]
    finally:
        demo.send_signal(signal.SIGINT)
        demo.wait(60)


def _shots(state: dict[str, Any]) -> list[Shot]:
    rows = {model["dht_prefix"]: model["server_rows"] for model in state["model_reports"]}
    busiest = max(
        (row for row in rows[HEALTHY.dht_prefix] if row["state"] == "online"),
        key=lambda row: row["span"]["server_info"]["throughput"],
    )
    frozen = next(row for row in rows[HEALTHY.dht_prefix] if row["state"] == "unreachable")
    return [
        Shot("overview", "/", 920),
        Shot("overview-dark", "/", 920, "dark"),
        Shot("model", f"/models/{BROKEN.dht_prefix}", 700),
        Shot("server", f"/servers/{busiest['peer_id']}", 700),
        Shot("check", f"/check/{frozen['peer_id']}", 700),
    ]


def _take(browser: Browser, page: str, shot: Shot) -> int:
    """Write one picture; return its bytes."""
    scheme: Any = shot.scheme
    with browser.new_context(
        viewport={"width": WIDTH, "height": shot.height}, color_scheme=scheme, reduced_motion="reduce"
    ) as context:
        tab = context.new_page()
        tab.goto(page + shot.path, wait_until="load")
        tab.wait_for_timeout(500)  # the first event, if it brings anything
        # Playwright itself writes PNG and JPEG only.
        taken = context.new_cdp_session(tab).send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
    image = base64.b64decode(taken["data"])
    file = IMAGES / f"{shot.name}.webp"
    file.write_bytes(image)
    print(f"{file.relative_to(ROOT)}: {len(image) / 1000:.0f} kB")
    return len(image)


def _when_complete(page: str) -> dict[str, Any]:
    """Return the state once all live servers are online and the frozen one was found out. Raises `TimeoutError`."""

    def complete() -> dict[str, Any]:
        state = _json(f"{page}/api/v1/state")
        rows = [(model["dht_prefix"], row["state"]) for model in state["model_reports"] for row in model["server_rows"]]
        found = {prefix for prefix, state in rows if state == "unreachable"}
        if sum(state == "online" for _, state in rows) < len(LIVE) or FROZEN.model.dht_prefix not in found:
            raise ValueError(f"not all of {len(LIVE)} servers, and {FROZEN}")
        return state

    return _wait(complete)


def _json(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        document: dict[str, Any] = json.load(answer)
        return document


def _wait(get: Callable[[], T]) -> T:
    """Return what `get` returns as soon as it raises no error any more. Raises its last error after two minutes."""
    end = time.monotonic() + READY_WITHIN
    while True:
        try:
            return get()
        except (OSError, ValueError):
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
