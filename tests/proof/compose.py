"""Test docker-compose.yml on a real engine: `make prove-compose`.

Builds the images, starts the demo profile with several replicas, also behind TLS and with Prometheus and Alertmanager
of the ops profile, and tests from outside what docs/operations.md promises (`tests.proof`). Exit code 0: all tests
passed; 1: a test failed; 3, with "not run": no engine can run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.proof import basics, edge, failures, ops, rolling
from tests.proof.container_engine import Engine, EngineUnavailableError
from tests.proof.stack import FAILURES, IMAGES, ROOT, BrokenPromiseError, Stack, expect
from tests.proof.stand_ins import PYTHON_IMAGE, STAND_INS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WORK = Path("/var/tmp/petals-prove-compose")
API_OVER_BASE = 150.0
"""MB that the api's image may add to its base."""
NOT_RUN = 3

PROMISES: tuple[Callable[[Stack], str], ...] = (
    basics.all_become_healthy,
    basics.page_and_json_come_through_nginx,
    basics.live_server_is_reachable_and_dead_one_is_not,
    basics.containers_are_hardened,
    edge.tls_and_http2_are_offered,
    edge.events_are_not_buffered,
    edge.encodings_are_passed_on_as_asked,
    edge.one_request_a_second_reaches_an_api,
    edge.old_page_is_served_while_the_new_one_is_fetched,
    edge.no_client_chooses_its_own_address,
    ops.prometheus_watches_every_process,
    ops.rules_are_loaded_and_alerts_have_somewhere_to_go,
    ops.dashboards_find_their_data,
    failures.what_is_killed_comes_back,
    failures.redis_may_go_and_come_back,
    failures.backup_can_be_restored,
    rolling.rolling_restart_fails_no_request,
    edge.last_page_outlives_every_api,
    failures.demo_swarm_may_restart,
    edge.crowds_are_limited,
    basics.nothing_is_left,
)
"""In this order: the first starts the stack, the last ends it; a crowd is limited for a while after it has gone."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proof.compose", description=__doc__)
    parser.add_argument(
        "--work",
        type=Path,
        default=WORK,
        help="data folder of an engine that this program starts",
    )
    parser.add_argument(
        "--only", metavar="WORD", help="run only the tests whose name contains this, besides start and end"
    )
    parser.add_argument(
        "--times", type=int, default=1, metavar="N", help="run each of these this many times (default 1)"
    )
    arguments = parser.parse_args()
    first, *others, last = PROMISES
    chosen = [one for one in others if (arguments.only or "") in one.__name__]
    promises = (first, *(one for one in chosen for _ in range(arguments.times)), last)
    try:
        with Engine(arguments.work) as engine:
            return _prove(engine, promises)
    except EngineUnavailableError as error:
        print(f"prove-compose: NOT RUN: {error}", file=sys.stderr)
        return NOT_RUN


def _prove(engine: Engine, promises: Sequence[Callable[[Stack], str]]) -> int:
    for image in STAND_INS:
        engine.provide(image)
    _build(engine)
    failed = 0
    with tempfile.TemporaryDirectory() as folder, Stack(engine, Path(folder)) as stack:
        for promise in promises:
            name = promise.__name__.replace("_", " ")
            try:
                print(f"PROVED {name}: {promise(stack)}", flush=True)
            except (BrokenPromiseError, *FAILURES) as error:
                failed += 1
                print(f"BROKEN {name}: {error!r}", flush=True)
                if failed == 1:
                    print(stack.compose("ps"), stack.compose("logs", "--tail", "15"), sep="\n", file=sys.stderr)
    print(f"prove-compose: {len(promises) - failed} of {len(promises)} promises proved")
    return 1 if failed else 0


def _build(engine: Engine) -> None:
    """Build both images, and say what they weigh: without the base, which every host has once."""
    base = engine.size(PYTHON_IMAGE)
    for target, tag in IMAGES.items():
        seconds = engine.build(target, tag, ROOT)
        size = engine.size(tag)
        print(f"built  {tag}: {size:.0f} MB, {size - base:.0f} MB over its base, in {seconds:.0f} s", flush=True)
        expect(target != "api" or size - base <= API_OVER_BASE, f"more than {API_OVER_BASE:.0f} MB over the base")


if __name__ == "__main__":
    sys.exit(main())
