"""Runs the lab in its box, and hands on what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.internet import box

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
END_WITHIN = 10.0


@contextmanager
def lab(logs: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start the lab; leave nothing of it, whatever happens. It hears of our end by its standard input's."""
    command = box.command(sys.executable, "-m", "tests.internet.program", str(logs), *options)
    with (logs / "lab.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(END_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()  # and the kernel kills its child, and all others in the box
            process.wait()
        process.stdout.close()


def rows(logs: Path) -> list[dict[str, Any]]:
    """Run the lab to its end; return all rows. Raise `AssertionError` with the log's end where it fails."""
    found = []
    with lab(logs) as process, (logs / "said.jsonl").open("w", buffering=1) as record:
        assert process.stdout is not None
        for line in process.stdout:
            record.write(line)
            said = json.loads(line)
            if "row" in said:
                found.append(said["row"])
            else:
                print(said, flush=True)  # noqa: T201 - pytest shows it where a test fails
        code = process.wait()
    log = (logs / "lab.log").read_text(errors="replace")
    assert code == 0, f"the lab ended with {code}:\n{log[-4000:]}"
    return found
