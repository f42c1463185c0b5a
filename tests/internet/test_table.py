"""The judge of the Internet in a box: which rows it calls wrong."""

import importlib

import pytest

from tests.internet import table
from tests.internet.situations import NO_SNAPSHOT, NOT_SHOWN, SITUATIONS, Situation

REACHED = Situation("reached", "public", reached=True)
FAILED = Situation("failed", "dropping", reached=False, causes=("timeout",))
HIDDEN = Situation("hidden", "dns4-hidden", reached=True, nobody_could_look=True)
CUT_OFF = Situation("cut off", "public", reached=True, no_snapshot=True)


def row(reached, *, success=True, status=200, cause=None, crawl="online", announced=True):
    client = {"reached": reached, "seconds": 0.1, "error": "", "relayed": False, "tries": 1, "announced": announced}
    check = {"status": status, "seconds": 0.1, "success": success, "stage": "dial", "cause": cause, "message": "words"}
    if status != 200:
        check = {"status": status, "seconds": 0.1, "detail": "words"}
    return {"situation": "", "client": client, "check": check, "crawl": {"state": crawl, "error": None, "seconds": 1.0}}


@pytest.mark.parametrize(
    ("situation", "found"),
    [
        (REACHED, row(True)),
        (FAILED, row(False, success=False, cause="timeout", crawl="unreachable")),
        (HIDDEN, row(True, status=503)),
        (HIDDEN, row(True)),
        (CUT_OFF, row(True, crawl=NO_SNAPSHOT)),
        (REACHED, row(True, crawl=NOT_SHOWN, announced=False)),
    ],
)
def test_what_fits_the_client_is_right(situation, found):
    """And "unknown" where this monitor cannot look."""
    assert table.mistakes(situation, found) == []


@pytest.mark.parametrize(
    ("situation", "found", "about"),
    [
        (REACHED, row(True, success=False, cause="timeout"), "verdict: unreachable"),
        (FAILED, row(False, crawl="unreachable"), "verdict: reachable"),
        (REACHED, row(True, status=503), "verdict: unknown"),
        (FAILED, row(False, status=503, crawl="unreachable"), "verdict: unknown"),
        (HIDDEN, row(True, success=False, cause="timeout"), "verdict: unreachable"),
        (FAILED, row(False, success=False, cause="other", crawl="unreachable"), "cause: other"),
        (REACHED, row(True, crawl="unreachable"), "crawl: unreachable"),
        (FAILED, row(False, success=False, cause="timeout"), "crawl: online"),
        (REACHED, row(True, crawl=NO_SNAPSHOT), "crawl: no snapshot"),
        (REACHED, row(True, crawl=NOT_SHOWN), "crawl: not shown"),
        (REACHED, row(True, status=500), "verdict: HTTP 500"),
        (REACHED, row(False), "the lab itself"),
    ],
)
def test_what_does_not_is_wrong(situation, found, about):
    """A verdict, a cause or a crawl's state; and where the client's own experience is not what was built."""
    [mistake] = table.mistakes(situation, found)
    assert mistake.startswith(about)


def test_a_row_that_is_missing_is_told():
    """An empty run is no table of right verdicts."""
    assert f"{len(SITUATIONS)} situations, {len(SITUATIONS)} wrong" in table.markdown([])


@pytest.mark.parametrize("program", ["program", "server_with_clock"])
def test_the_programs_inside_the_box_can_be_loaded(program):
    """They run where no other test looks, and build on the product's names."""
    assert importlib.import_module(f"tests.internet.{program}").main
