"""This module controls the terminal while `--watch` runs: its alternate screen, its size, and its keys.

The terminal's previous content is restored afterwards, and nothing scrolls away. No library is needed to draw a frame
of lines that fit.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import termios
import tty
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Terminals' own codes (ECMA-48; 1049 and 25 are xterm's): another screen, no cursor, no wrapping of long lines.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"

_KEY = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Z]|.", re.DOTALL)
_NAMES = {
    "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down", "\x1b[5~": "page up", "\x1b[6~": "page down",
    "\x1b[H": "home", "\x1b[1~": "home", "\x1b[F": "end", "\x1b[4~": "end", "\x1b": "escape", "\n": "enter",
    "\r": "enter", "\x7f": "backspace", "\x08": "backspace",
}  # fmt: skip


class Screen:
    """The terminal from `with` to its end. `on_key` gets names of keys or characters, `on_change` other sizes."""

    def __init__(
        self, on_key: Callable[[str], None], on_change: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        self._on_key = on_key
        self._on_change = on_change
        self._on_end = on_end
        self._input = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._input) if sys.stdin.isatty() else None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if self._before is not None:
            tty.setcbreak(self._input)
            loop.add_reader(self._input, self._read)
        for name in (signal.SIGWINCH, signal.SIGCONT):
            loop.add_signal_handler(name, self._renew)
        for name in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(name, self._on_end)
        _write(_ENTER)
        return self

    def __exit__(self, *_: object) -> None:
        _write(_LEAVE)
        if self._before is not None:
            asyncio.get_running_loop().remove_reader(self._input)
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)

    @property
    def size(self) -> os.terminal_size:
        try:
            size = os.get_terminal_size(sys.stdout.fileno())
        except OSError:
            size = os.terminal_size((0, 0))
        # A terminal that does not know its size says 0.
        return size if size.columns and size.lines else os.terminal_size((80, 24))

    def draw(self, lines: Sequence[str]) -> None:
        """Put the lines in place of the last ones. The last of them ends without a line feed, so nothing scrolls."""
        _write(_HOME + "\r\n".join(line + _CLEAR_LINE for line in lines) + _CLEAR_BELOW)

    def _renew(self) -> None:
        """Set the terminal up again: after Ctrl-Z the shell has changed its modes."""
        if self._before is not None:
            tty.setcbreak(self._input)
        _write(_ENTER)
        self._on_change()

    def _read(self) -> None:
        try:
            data = os.read(self._input, 1024)
        except OSError:
            data = b""
        if not data:  # the terminal is gone
            asyncio.get_running_loop().remove_reader(self._input)
            self._on_end()
            return
        for key in keys(data):
            self._on_key(key)


def keys(data: bytes) -> list[str]:
    """Return the names of keys, or the characters, in what a terminal sent. Unknown sequences are left out."""
    found = (_NAMES.get(key, key) for key in _KEY.findall(data.decode(errors="ignore")))
    return [key for key in found if key in _NAMES.values() or (len(key) == 1 and key.isprintable())]


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
