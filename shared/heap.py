"""What the process asks of glibc and of Python's collector about its memory. Elsewhere than on glibc: nothing."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

_M_ARENA_MAX = -8
"""In malloc.h."""


def settle() -> None:
    """Spare requests the collector's walks over all that was imported, and the process a heap for each thread."""
    gc.collect()
    gc.freeze()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Hand what a render or a crawl left behind back to the system, which glibc would not: more in large swarms."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
