"""Take the README's screenshots anew: `make screenshots`.

Starts the demo, waits until its pages show everything that they can, and has Chromium write them to docs/images as
WebP. Peer ids and times differ from run to run; what the pictures show does not.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from playwright.sync_api import sync_playwright

from deploy.demo.swarm import BROKEN, FROZEN, HEALTHY, LIVE
from deploy.embedded_redis import free_port
from tests.support.chromium import ARGUMENTS, CHROMIUM

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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


def main() -> int:
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
        IMAGES.mkdir(parents=True, exist_ok=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            sizes = [_take(browser, page, shot) for shot in _shots(state)]
            browser.close()
    finally:
        demo.send_signal(signal.SIGINT)
        demo.wait(60)
    return 1 if max(sizes) > MOST_BYTES else 0


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
    end = time.monotonic() + READY_WITHIN
    while time.monotonic() < end:
        time.sleep(1)
        try:
            with urllib.request.urlopen(f"{page}/api/v1/state", timeout=5) as answer:
                state: dict[str, Any] = json.load(answer)
        except (OSError, ValueError):
            continue  # no snapshot yet
        rows = [row for model in state["model_reports"] for row in model["server_rows"]]
        states = [row["state"] for row in rows]
        if states.count("online") == len(LIVE) and "unreachable" in states:
            return state
    raise TimeoutError(f"the demo did not show {len(LIVE)} servers and {FROZEN} within {READY_WITHIN:g} s")


if __name__ == "__main__":
    sys.exit(main())
