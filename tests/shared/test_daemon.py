"""A libp2p daemon of ours ends with whoever opened it."""

import asyncio
import os
import signal

import pytest

from shared.p2p.connect import ProberNode

pytestmark = pytest.mark.real_parts


async def test_a_frozen_daemon_ends_though_its_closing_is_cancelled():
    """A process that is told to stop cancels whatever it does, also the closing of a daemon that does not answer."""
    node = await ProberNode.open()
    pid = node.daemon_pid
    os.kill(pid, signal.SIGSTOP)
    closing = asyncio.create_task(node.close())
    await asyncio.sleep(0.1)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
