"""Ask a monitor as a starting Petals server does, by the genuine `petals.server.reachability.validate_reachability`.

`python validate.py http://127.0.0.1:8000 PEER_ID --wait-time 4 --retry-delay 1` prints one JSON line:
`{"outcome": "reachable"}`, `{"outcome": "unreachable", "message": …}` (the server would stop) or
`{"outcome": "skipped", "message": …}` (the monitor gave no usable answer: the server would start unchecked).
"""

from __future__ import annotations

import argparse
import json
import logging
from importlib import import_module

from runner import restore_hivemind_names, use_reachability_api


class Remembered(logging.Handler):
    """Keeps what petals logs: its words are the only trace of why it returned."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def validate(url: str, peer_id: str, wait_time: float, retry_delay: float) -> dict[str, str]:
    """Return the outcome of the genuine check, told apart by what petals raises and logs."""
    restore_hivemind_names()
    use_reachability_api(url)
    reachability = import_module("petals.server.reachability")
    remembered = Remembered()
    reachability.logger.addHandler(remembered)
    try:
        reachability.validate_reachability(peer_id, wait_time=wait_time, retry_delay=retry_delay)
    except RuntimeError as error:
        return {"outcome": "unreachable", "message": str(error)}
    last = remembered.messages[-1]
    if "Skipping reachability check" in last:
        return {"outcome": "skipped", "message": last}
    return {"outcome": "reachable", "message": last}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("peer_id")
    parser.add_argument(
        "--wait-time", type=float, default=4.0, help="seconds for which a negative answer is asked again (petals: 420)"
    )
    parser.add_argument("--retry-delay", type=float, default=1.0, help="seconds between requests (petals: 15)")
    arguments = parser.parse_args()
    print(json.dumps(validate(arguments.url, arguments.peer_id, arguments.wait_time, arguments.retry_delay)))  # noqa: T201
