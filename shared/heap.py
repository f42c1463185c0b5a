"""This module tunes memory: Python's garbage collector and glibc's malloc (without glibc it does nothing)."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

_M_ARENA_MAX = -8
"""In malloc.h."""


def freeze_imports() -> None:
    """Exclude objects that exist now from garbage collection, and use one malloc heap for all threads."""
    gc.collect()
    gc.freeze()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def trim() -> None:
    """Return freed memory to the system, which glibc alone would keep after a large crawl or render."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
