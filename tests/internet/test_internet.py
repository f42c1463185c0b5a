"""What the monitor says is what a genuine client lives through, in every situation that the Internet has for a server.

Hosts are network namespaces, joined by veth pairs and nft; daemons, services and clients are the real ones.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.internet import box, run, table
from tests.internet.situations import SITUATIONS

NO_BOX = box.unavailable()
pytestmark = [
    pytest.mark.internet,
    pytest.mark.real_parts,
    pytest.mark.timeout(600),
    # Root can always have one: then a machine that lacks a tool fails, and does not skip.
    pytest.mark.skipif(NO_BOX is not None and os.geteuid() != 0, reason=f"no network namespaces: {NO_BOX}"),
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory, request):
    """What was found, by situation: all of it comes from one run, most of which waits for relays."""
    assert NO_BOX is None, NO_BOX
    found = run.rows(tmp_path_factory.mktemp("internet"))
    print(table.markdown(found))  # noqa: T201 - the table is what this is for
    if document := request.config.getoption("--internet-table", default=None):
        table.write(document, found)
    return {row["situation"]: row for row in found}


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name)
def test_the_monitor_says_what_a_client_lives_through(rows, situation):
    """The check's verdict and cause and the crawl's state fit what the genuine client found, and "unknown" is said
    only where this monitor cannot look."""
    assert table.mistakes(situation, rows[situation.name]) == []


def test_no_situation_is_left_out(rows):
    """Each situation was looked at: none can be lost on the way from the lab to the table."""
    assert list(rows) == [situation.name for when in table.ORDER for situation in SITUATIONS if situation.when is when]


@pytest.mark.parametrize("end", ["standard input", "SIGINT", "SIGKILL"])
def test_nothing_is_left_of_the_lab(tmp_path, end):
    """However the lab ends: no process, namespace, device or firewall table outlives it."""
    assert NO_BOX is None, NO_BOX
    before = _visible()
    with run.lab(tmp_path, "--wait") as process:
        assert "waiting" in process.stdout.readline()
        [first] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        box_of_processes = str(Path(f"/proc/{first}/ns/pid").readlink())
        assert len(_processes_in(box_of_processes)) == 3  # the lab, a wire, a daemon
        assert _visible() == before  # the box cannot be seen from outside either
        if end == "SIGINT":
            os.kill(int(first), signal.SIGINT)
        elif end == "SIGKILL":
            process.kill()
        else:
            process.stdin.close()
        process.wait(10)
        deadline = time.monotonic() + 10
        while _processes_in(box_of_processes) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert _processes_in(box_of_processes) == []
    assert _visible() == before


def _processes_in(namespace):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str((entry / "ns/pid").readlink()) == namespace and (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _visible():
    """What this machine shows of namespaces' names, devices and firewall tables that may be ours."""
    names = re.findall(r"(?:bootstrap|monitor|home)\S*", _output("ip", "netns", "list"))
    links = re.findall(r"\b(w\d+|lan\d+|wan|left|right)@", _output("ip", "-o", "link"))
    tables = re.findall(r"table inet (?:host|box)", _output("nft", "list", "tables"))
    return names, links, tables


def _output(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout
