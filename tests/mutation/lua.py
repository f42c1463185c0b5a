"""Mutates the Lua scripts that decide in Redis, and runs their tests against each mutant.

`python -m tests.mutation.lua`; `--help` says how to run a part of it.

mutmut changes Python functions only. What fences writes, admits checks and counts requests is Lua in a constant: here a
mutant is the constant with one token changed. It runs in a forked process, against a Redis of its own, with the tests
named for it; it is killed where one of them fails. Mutants that are no Lua (Redis cannot load them) do not count.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import re
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from redis.exceptions import ResponseError

from tests.mutation.python import EXPECTED, verdict
from tests.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPTS = {
    ("shared.store.fencing", "_FENCE"): ["tests/shared/test_snapshot_store.py"],
    ("shared.store.snapshots", "_PUBLISH"): ["tests/shared/test_snapshot_store.py"],
    ("shared.store.snapshots", "_REPORT"): ["tests/shared/test_snapshot_store.py"],
    ("crawler.leader", "_HOLD"): ["tests/crawler/test_leader.py"],
    ("crawler.leader", "_RELEASE"): ["tests/crawler/test_leader.py"],
    ("api.http.request_rate", "_COUNT"): ["tests/api/http/test_request_rate.py"],
    ("api.checks.admission", "_ADMIT"): ["tests/api/checks/test_admission.py"],
    **{
        ("reachability_worker.scripts", script): ["tests/reachability_worker/test_scripts.py"]
        for script in ("_TAKE", "_FINISH", "_DROP", "_HAND_BACK", "_RENEW", "_RECONCILE")
    },
}
"""Module and constant, and the tests that hold them."""

NUMBER = r"(?<![\w'])\d+\b"
RULES = [
    (r"==", "~="), (r"~=", "=="),
    (r">=", ">"), (r">=", "<"), (r"<=", "<"), (r"<=", ">"), (r"(?<=\s)>(?=\s)", ">="), (r"(?<=\s)>(?=\s)", "<"),
    (r"\band\b", "or"), (r"\bor\b", "and"), (r"\bnot ", ""),
    (NUMBER, lambda number: str(int(number[0]) + 1)), (NUMBER, lambda number: str(int(number[0]) - 1)),
    (r" \+ ", " - "), (r" \* ", " / "), (r" / ", " * "),
    (r"\bif (.+?) then", "if true then"), (r"\bif (.+?) then", "if false then"),
    (r"^\s*redis\.call\(.*\)$", ""),
    (r"'([A-Za-z_+-]+)'", r"'\1x'"),
]  # fmt: skip
"""What one token becomes: a regular expression, and the replacement of one match."""

OPTIONS = "-x -q -p no:randomly -p no:cacheprovider -p no:schemathesis --timeout=20"
KILLED, SURVIVED = "killed", "survived"
WITHIN = 180
"""Seconds for the tests of one mutant: one that hangs is killed too."""


class Mutant(NamedTuple):
    """One constant with one token changed."""

    module: str
    constant: str
    line: int
    before: str
    after: str
    script: str

    def __str__(self) -> str:
        after = self.after.strip() or "(nothing)"
        return f"{self.module}.{self.constant}: {self.before.strip()} -> {after}"


def mutants() -> Iterator[Mutant]:
    """Yield all of them, those that are no Lua too."""
    for module, constant in SCRIPTS:
        lines = getattr(importlib.import_module(module), constant).split("\n")
        for number, line in enumerate(lines):
            code = line.partition("--")[0].rstrip()
            for pattern, replacement in RULES:
                for match in re.finditer(pattern, code):
                    after = code[: match.start()] + re.sub(pattern, replacement, match[0]) + code[match.end() :]
                    if after != code:
                        script = "\n".join([*lines[:number], after, *lines[number + 1 :]])
                        yield Mutant(module, constant, number, code, after, script)


def is_lua(redis: RedisServer, script: str) -> bool:
    """Whether Redis can load it."""
    with redis.client() as client:
        try:
            client.script_load(script)
        except ResponseError:
            return False
    return True


def outcome(mutant: Mutant, tests: list[str]) -> str:
    """Run the tests against it in a process of its own."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        setattr(sys.modules[mutant.module], mutant.constant, mutant.script)
        os._exit(pytest.main([*OPTIONS.split(), *tests]))
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return SURVIVED if status == 0 else KILLED
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return KILLED


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, help="run only a random sample that takes about this long")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="seed of the sample")
    parser.add_argument("--only", default="", help="run only mutants whose name contains this")
    arguments = parser.parse_args()
    redis = RedisServer()
    redis.start()
    try:
        chosen = [each for each in mutants() if arguments.only in str(each) and is_lua(redis, each.script)]
    finally:
        redis.kill()
    if arguments.seconds:
        print(f"seed {arguments.seed}")  # noqa: T201
        random.Random(arguments.seed).shuffle(chosen)
    scripts = dict.fromkeys((mutant.module, mutant.constant) for mutant in chosen[: 1 if arguments.seconds else None])
    for module, constant in scripts:
        unchanged = Mutant(module, constant, 0, "", "", getattr(sys.modules[module], constant))
        if outcome(unchanged, SCRIPTS[module, constant]) == KILLED:
            print(f"the tests of {module}.{constant} fail without any mutant")  # noqa: T201
            return 1
    started, found = time.monotonic(), {KILLED: 0, SURVIVED: 0}
    unexpected = []
    for mutant in chosen:
        if arguments.seconds and time.monotonic() - started > arguments.seconds:
            break
        result = outcome(mutant, SCRIPTS[mutant.module, mutant.constant])
        found[result] += 1
        if result == SURVIVED:
            expected = EXPECTED.get(str(mutant))
            unexpected += [] if expected else [mutant]
            print(f"{SURVIVED}: {mutant}" + (f" ({expected})" if expected else ""), flush=True)  # noqa: T201
    total = sum(found.values())
    print(f"{found[KILLED]} of {total} killed ({len(chosen)} mutants in all), {len(unexpected)} unexpected survivors")  # noqa: T201
    return verdict(found[KILLED], len(unexpected), sample=bool(arguments.seconds))


if __name__ == "__main__":
    sys.exit(main())
