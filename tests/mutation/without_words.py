"""This module is mutmut's own command, but leaves sentences alone: `python -m tests.mutation.without_words`.

A text with a space in it is for people: tests hold which sentence is said when, and a changed letter in it is no
finding. Texts without one (keys, names, formats) are mutated as ever. Logs are plain: to draw a traceback with its
variables takes longer than a mutant's tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from libcst import BaseString, SimpleString
from mutmut.__main__ import cli
from mutmut.mutation import mutators

if TYPE_CHECKING:
    from collections.abc import Iterable


def mutated(node: BaseString) -> Iterable[BaseString]:
    """Return what mutmut makes of a string; nothing of a sentence."""
    return () if isinstance(node, SimpleString) and " " in node.value else mutators.operator_string(node)


mutators.mutation_operators[:] = [
    (kind, mutated if operator is mutators.operator_string else operator)
    for kind, operator in mutators.mutation_operators
]

if __name__ == "__main__":
    structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
    cli()
