"""`--watch` on a real terminal leaves it as it found it."""

import os
import select
import subprocess
import sys
import termios

import pytest

from tests.fakes import peer_id

pytestmark = pytest.mark.real_parts


def read_until(screen, words):
    seen = b""
    while words not in seen:
        ready, _, _ = select.select([screen], [], [], 60)
        assert ready, seen[-2000:]
        seen += os.read(screen, 65_536)
    return seen


@pytest.mark.timeout(150)
def test_q_gives_the_terminal_back():
    """It drew on the alternate screen without a line feed at the end; keys are echoed again as before."""
    screen, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    environment = {**os.environ, "INITIAL_PEERS": f"/ip4/127.0.0.1/tcp/9/p2p/{peer_id(1)}", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "crawler", "--watch"], env=environment, stdin=terminal, stdout=terminal, stderr=terminal
    )
    try:
        seen = read_until(screen, b"The last crawl failed")
        assert seen.startswith(b"\x1b[?1049h")
        assert termios.tcgetattr(terminal)[3] != before[3]
        os.write(screen, b"q")
        seen = read_until(screen, b"\x1b[?1049l")
        assert process.wait(30) == 0
        assert termios.tcgetattr(terminal) == before
        for drawn in seen.split(b"\x1b[H")[1:]:
            assert drawn.count(b"\n") < 24
    finally:
        process.kill()
        process.wait()
        os.close(screen)
        os.close(terminal)
