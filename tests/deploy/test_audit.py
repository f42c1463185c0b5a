"""`make audit` never passes where nobody was asked."""

import json

import pytest

from tests.support import audit
from tests.support.audit import CHOSEN_BY_MACHINE, HASHED, REQUIREMENTS, NotAuditedError, findings, unpinned

CLEAN = {"name": "redis", "version": "8.1.0", "vulns": []}
KNOWN = {"name": "jinja2", "version": "2.4.1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.7.2"]}]}
SKIPPED = {"name": "jinja2", "skip_reason": "Dependency not found on PyPI and could not be audited"}


def report(*dependencies):
    return json.dumps({"dependencies": dependencies, "fixes": []})


@pytest.mark.parametrize("name", HASHED)
def test_every_locked_requirement_has_a_version_and_hashes(name):
    """What is installed is what was locked, byte by byte."""
    assert unpinned(REQUIREMENTS / name, hashes=True) == []


@pytest.mark.parametrize("name", CHOSEN_BY_MACHINE)
def test_the_others_have_a_version(name):
    """torch's build is the machine's choice."""
    assert unpinned(REQUIREMENTS / name, hashes=False) == []


def test_all_requirement_files_are_audited():
    """A new one cannot be forgotten. The genuine server's are another product's, for one test."""
    there = {path.name for path in REQUIREMENTS.glob("*.txt")}
    assert there == {*HASHED, *CHOSEN_BY_MACHINE, "petals-server.txt"}


def test_what_is_not_pinned_is_named(tmp_path):
    """A range, a missing hash, an address."""
    path = tmp_path / "some.txt"
    path.write_text(
        "# x\na==1 \\\n    --hash=sha256:00\nb>=1 \\\n    --hash=sha256:00\nc==1\nhttps://example.org/d.whl\n"
    )
    wrong = ["some.txt: b>=1", "some.txt: c==1", "some.txt: https://example.org/d.whl"]
    assert unpinned(path, hashes=True) == wrong


@pytest.mark.parametrize(
    ("answers", "code", "words"),
    [
        ([report(KNOWN)], 0, "no known vulnerability"),
        ([report(CLEAN)], 3, "NOT RUN"),  # a service without advisories
        ([report(SKIPPED)], 3, "NOT RUN"),  # a mirror that does not know the package: pip-audit itself passes
        (["ERROR: connection refused"], 3, "NOT RUN"),
        ([""], 3, "NOT RUN"),
    ],
)
def test_nothing_passes_that_nobody_audited(monkeypatch, capsys, answers, code, words):
    """A release that is known to be vulnerable is asked about first."""
    monkeypatch.setattr(audit, "_pip_audit", lambda *arguments: answers.pop() if answers else report(CLEAN))
    assert audit.main() == code
    assert words in capsys.readouterr().out


def test_what_is_known_is_told():
    """Package, version, advisory, and the version to take; a package that was skipped is not clean."""
    assert findings(report(CLEAN, KNOWN)) == ["jinja2 2.4.1: PYSEC-1, mended in 2.7.2"]
    with pytest.raises(NotAuditedError, match="jinja2"):
        findings(report(CLEAN, SKIPPED))
