"""Gives the tests of this folder a network of their own, with public addresses in it.

Relays are for public addresses: a relay on 127.0.0.1 tells nobody where it can be found, and a monitor of a public
swarm dials no private address. So these tests and all processes that they start run in a network namespace whose
loopback has public addresses. Nothing in it can reach any other machine.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

RELAY = "45.1.1.1"
"""The address of the bootstrap peer that relays."""

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """A network namespace that this thread enters and leaves; processes stay in the one they were started in."""

    def __init__(self) -> None:
        """Make it. Raise `OSError` where that is not allowed: root is, and `unshare --user --map-root-user`."""
        outside = _this_threads_network()
        _checked(_libc.unshare(_CLONE_NEWNET))
        try:
            for command in ("link set lo up", f"address add {RELAY}/32 dev lo"):
                subprocess.run(["ip", *command.split()], check=True)
            self._inside = _this_threads_network()
        finally:
            _checked(_libc.setns(outside, _CLONE_NEWNET))
            os.close(outside)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have the calling thread, what it starts and what it connects to in this network."""
        outside = _this_threads_network()
        _checked(_libc.setns(self._inside, _CLONE_NEWNET))
        try:
            yield
        finally:
            _checked(_libc.setns(outside, _CLONE_NEWNET))
            os.close(outside)


def _this_threads_network() -> int:
    return os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
