"""The Grafana dashboards, written by code: `python -m deploy.grafana.dashboards [--check]`.

Three boards: the swarm (for everyone), reachability checks, the service itself (for operators). Tests prove that
each query parses, names metrics that exist and finds data in a real Prometheus.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana import reachability, service, swarm

FOLDER = Path(__file__).parent / "dashboards"


def render() -> dict[Path, str]:
    """Return each dashboard's file and text."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    boards = {"swarm": swarm.board(), "reachability": reachability.board(), "service": service.board()}
    return {FOLDER / f"{name}.json": encoder.encode(made.build()) + "\n" for name, made in boards.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana.dashboards", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the JSON is out of date")
    check = parser.parse_args().check
    outdated = [
        path for path, text in render().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in outdated:
        if not check:
            path.write_text(render()[path], encoding="utf-8")
        print(f"{'out of date' if check else 'written'}: {path.relative_to(FOLDER.parent)}")
    return 1 if check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
