"""`make audit`: locked dependencies are pinned by hash, and pip-audit knows of no vulnerability in them.

Exit code 0: all were looked up, nothing is known. 1: something is known, or not pinned. 3: not audited, since no
advisory service could be asked. pip-audit itself says "no known vulnerabilities" of packages that the service does
not know; so it is first asked about a release that is known to be vulnerable, and what it skipped is named.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[2] / "deploy/requirements"
HASHED = ("api.txt", "swarm.txt", "run.txt", "dev.txt", "audit.txt", "tracing.txt", "notify.txt")
CHOSEN_BY_MACHINE = ("torch.txt",)
"""Pinned without hashes: torch's build is the machine's choice. Tests alone use it."""
CANARY = "jinja2==2.4.1\n"
"""Vulnerable since 2014 (CVE-2014-1402 and others): a service that does not say so says nothing."""
FOUND, NOT_RUN = 1, 3
SERVICE_TIMEOUT = 15
"""Seconds for each answer of the advisory service."""


class NotAuditedError(Exception):
    """No advisory service answered. The message says how."""


def main() -> int:
    wrong = [problem for name in HASHED for problem in unpinned(REQUIREMENTS / name, hashes=True)]
    wrong += [problem for name in CHOSEN_BY_MACHINE for problem in unpinned(REQUIREMENTS / name, hashes=False)]
    for problem in wrong:
        print(f"not pinned: {problem}")
    if not wrong:
        print(f"pinned, with hashes: {', '.join(HASHED)}; pinned: {', '.join(CHOSEN_BY_MACHINE)}")
    try:
        known = audit()
    except NotAuditedError as error:
        print(f"NOT RUN: the look-up of known vulnerabilities. {error}")
        print("Run `make audit` where pypi.org can be reached; a mirror of its files alone has no advisories.")
        return FOUND if wrong else NOT_RUN
    for line in known:
        print(f"vulnerable: {line}")
    if not known:
        print("no known vulnerability in any of them")
    return FOUND if wrong or known else 0


def unpinned(path: Path, *, hashes: bool) -> list[str]:
    """Return the requirements of a file that have no exact version, or no hash where they should."""
    requirements = re.sub(r"\\\n\s*", " ", path.read_text()).splitlines()
    wrong = []
    for line in requirements:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        exact = re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^ ;*]+", line)
        if exact is None or (hashes and "--hash=sha256:" not in line):
            wrong.append(f"{path.name}: {line.split(' ')[0]}")
    return wrong


def audit() -> list[str]:
    """Return known vulnerabilities as lines. Raises `NotAuditedError`."""
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary.txt"
        canary.write_text(CANARY)
        try:
            told = findings(_pip_audit("--no-deps", "-r", str(canary)))
        except NotAuditedError as error:
            raise NotAuditedError(f"The advisory service cannot be asked: {error}") from error
        if not told:
            raise NotAuditedError(f"The advisory service knows nothing of {CANARY.strip()}, which is vulnerable.")
    known = []
    for name in HASHED:
        known += findings(_pip_audit("--require-hashes", "-r", str(REQUIREMENTS / name)))
    for name in CHOSEN_BY_MACHINE:
        known += findings(_pip_audit("--no-deps", "-r", str(REQUIREMENTS / name)))
    return sorted(set(known))


def findings(report: str) -> list[str]:
    """Read pip-audit's JSON. Raises `NotAuditedError` for none, and where a package was skipped."""
    try:
        dependencies = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        raise NotAuditedError(report.strip()[-300:] or "no answer") from None
    if skipped := [package["name"] for package in dependencies if "skip_reason" in package]:
        raise NotAuditedError(f"it does not know {', '.join(skipped[:5])}.")
    return [
        f"{package['name']} {package['version']}: {known['id']}, mended in {', '.join(known['fix_versions']) or 'none'}"
        for package in dependencies
        for known in package["vulns"]
    ]


def _pip_audit(*arguments: str) -> str:
    """Return what pip-audit printed: JSON, or its last words where it failed."""
    command = [
        sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--disable-pip",
        "--timeout", str(SERVICE_TIMEOUT), *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.stdout.strip() else done.stderr


if __name__ == "__main__":
    sys.exit(main())
