"""Runs mutmut on the Python code that decides, and compares survivors with the list: `python -m tests.mutation.python`.

`[tool.mutmut]` of pyproject.toml names the modules and their tests. Fewer than 90 % killed is an error; survivors
that `survivors.toml` does not explain are printed. `--seconds` tries mutants of one module, chosen by the
seed, for so long: for CI.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
EXPECTED: dict[str, str] = tomllib.loads(Path(__file__).with_name("survivors.toml").read_text())
"""`function: before -> after`, and why no test can tell the two apart."""
ENOUGH, ENOUGH_OF_A_SAMPLE = 0.9, 0.7
"""Share of the mutants that can be told from the code which the tests have to kill; a sample may be unlucky."""
MIN_SAMPLE = 8
KILLED, SURVIVED = {"killed", "timeout", "segfault"}, {"survived", "no tests", "suspicious"}


def mutmut(*arguments: str, seconds: float | None = None) -> str:
    """Return its output; end it so many seconds after its first mutant: it writes down each result as it comes."""
    command = [sys.executable, "-u", "-m", "tests.mutation.without_words", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        end = threading.Timer(seconds or 0, os.killpg, (process.pid, signal.SIGKILL))
        output = []
        try:
            for line in process.stdout:
                output.append(line)
                if seconds and line.startswith("Running mutation testing"):
                    end.start()
        finally:
            end.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return "".join(output)


def results(modules: list[str]) -> dict[str, str]:
    """Return the state of each mutant of these modules that was tried, by its name."""
    found = dict(re.findall(r"^\s*(\S+): (.+)$", mutmut("results", "--all", "true"), re.MULTILINE))
    of_these = tuple(f"{module}." for module in modules)
    return {name: state for name, state in found.items() if name.startswith(of_these) and state != "not checked"}


def change(name: str) -> str:
    """Return what a mutant changes: `function: before -> after`."""
    lines = mutmut("show", name).splitlines()
    before, after = (
        " ".join(line[1:].strip() for line in lines if line.startswith(sign) and not line.startswith(sign * 3))
        for sign in "-+"
    )
    function = re.sub(
        r"\.(?:xǁ(\w+)ǁ|x_)(\w+)__mutmut_\d+$", lambda match: "." + ".".join(filter(None, match.groups())), name
    )
    return f"{function}: {before} -> {after}"


def verdict(killed: int, survived: int, *, sample: bool) -> int:
    """Return the exit code: 0 where enough were killed of those that are not explained."""
    if sample and killed + survived < MIN_SAMPLE:
        return 0  # too busy a machine to say anything
    return 0 if killed >= (ENOUGH_OF_A_SAMPLE if sample else ENOUGH) * max(1, killed + survived) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, help="run only one module, for about this long")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="seed of the choice of the module")
    parser.add_argument("modules", nargs="*", help="modules, as crawler.judge (default: all)")
    arguments = parser.parse_args()
    modules = arguments.modules or [path.removesuffix(".py").replace("/", ".") for path in SETTINGS["only_mutate"]]
    if arguments.seconds:
        print(f"seed {arguments.seed}")  # noqa: T201
        modules = [random.Random(arguments.seed).choice(modules)]
    output = mutmut("run", *(f"{module}.*" for module in modules), seconds=arguments.seconds)
    found = results(modules)
    if not found:
        print(output)  # noqa: T201 - why: the tests fail without any mutant, say
        return 1
    survivors = {change(name): state for name, state in found.items() if state in SURVIVED}
    unexpected = {mutant: state for mutant, state in survivors.items() if mutant not in EXPECTED}
    for mutant, state in unexpected.items():
        print(f"{state}: {mutant}")  # noqa: T201
    killed, survived = (sum(state in states for state in found.values()) for states in (KILLED, SURVIVED))
    print(  # noqa: T201
        f"{killed} of {len(found)} killed in {', '.join(modules)}; {survived} survived, {len(unexpected)} unexplained"
    )
    return verdict(killed, len(unexpected), sample=bool(arguments.seconds))


if __name__ == "__main__":
    sys.exit(main())
