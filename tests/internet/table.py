"""Judges what was found in each situation, and draws it as a table."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

from tests.internet.servers import When
from tests.internet.situations import NO_SNAPSHOT, NOT_SHOWN, SITUATIONS, Situation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

NOBODY_COULD_LOOK = 503
ORDER = (When.AT_ONCE, When.RESERVED, When.HALF_SILENT)
BEGINS, ENDS = "<!-- table -->", "<!-- end of table -->"
COLUMNS = ("Situation", "Genuine client", "Check", "Stage, cause", "Advice", "Crawl")


def verdict(row: Mapping[str, Any]) -> str:
    """Return the check's verdict in a word."""
    check = row["check"]
    if check["status"] == NOBODY_COULD_LOOK:
        return "unknown"
    return {True: "reachable", False: "unreachable"}.get(check.get("success"), f"HTTP {check['status']}")


def mistakes(situation: Situation, row: Mapping[str, Any]) -> list[str]:
    """Return what is wrong about a row, in words; the truth is what the genuine client lived through."""
    reached = bool(row["client"]["reached"])
    if reached is not situation.reached:
        return [f"the lab itself: the client {_client(row)}, expected was reached={situation.reached}"]
    found, check, crawl = [], row["check"], row["crawl"]
    right = {"reachable" if reached else "unreachable"} | ({"unknown"} if situation.nobody_could_look else set())
    if verdict(row) not in right:
        found.append(f"verdict: {verdict(row)}, right is {' or '.join(sorted(right))}: {words(row)}")
    elif check["status"] != NOBODY_COULD_LOOK and check["cause"] not in situation.causes:
        named = ", ".join(map(str, situation.causes))
        found.append(f"cause: {check['cause']} at {check['stage']}, right is {named}: {words(row)}")
    # Without a record that a client finds, there is no row to show.
    fitting = {"online" if reached else "unreachable"} if row["client"]["announced"] else {NOT_SHOWN}
    if situation.nobody_could_look:
        fitting.add("online")  # as it announced itself
    if situation.no_snapshot:
        fitting.add(NO_SNAPSHOT)
    if crawl["state"] not in fitting:
        found.append(f"crawl: {crawl['state']}, right is {' or '.join(sorted(fitting))}: {crawl['error']}")
    return found


def words(row: Mapping[str, Any]) -> str:
    """Return the check's own words: its message, or its problem document's detail."""
    check = row["check"]
    return str(check.get("message") or check.get("detail") or "")


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of all situations, and how many verdicts were wrong."""
    found = {row["situation"]: row for row in rows}
    lines = [_line(COLUMNS), _line("---" for _ in COLUMNS)]
    wrong = 0
    for situation in SITUATIONS:
        row = found.get(situation.name)
        if row is None:
            lines.append(_line((f"**wrong** {situation.name}", "not looked at", "", "", "", "")))
            wrong += 1
            continue
        bad = mistakes(situation, row)
        wrong += bool(bad)
        check, crawl = row["check"], row["crawl"]
        where = ", ".join(filter(None, (check.get("stage"), check.get("cause"))))
        how = " over a relay" if check.get("relayed") else ""
        state = crawl["state"] if crawl["state"] == NO_SNAPSHOT else f"{crawl['state']} in {crawl['seconds']:.1f} s"
        lines.append(
            _line(
                (
                    f"{'**wrong** ' if bad else ''}{situation.name}",
                    _client(row),
                    f"{verdict(row)}{how} in {check['seconds']:.2f} s{_tries(check)}",
                    where,
                    (check.get("advice") or check.get("detail") or ""),
                    f"{state}{_tries(crawl)}",
                )
            )
        )
    return "\n".join([*lines, "", f"{len(SITUATIONS)} situations, {wrong} wrong.", ""])


def write(document: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put the table between the marks of a Markdown document, with today's date."""
    date = dt.datetime.now(tz=dt.UTC).date()
    text = document.read_text()
    assert BEGINS in text, f"{document} has no line {BEGINS}"
    assert ENDS in text, f"{document} has no line {ENDS}"
    new = f"{BEGINS}\nRun of {date}.\n\n{markdown(rows)}{ENDS}"
    document.write_text(re.sub(f"{BEGINS}.*{ENDS}", lambda _: new, text, flags=re.DOTALL))


def _client(row: Mapping[str, Any]) -> str:
    client = row["client"]
    how = " over a relay" if client["relayed"] else ""
    return f"{'reached' if client['reached'] else 'failed'}{how} in {client['seconds']:.2f} s{_tries(client)}"


def _tries(part: Mapping[str, Any]) -> str:
    return f" (try {part['tries']})" if part.get("tries", 1) > 1 else ""


def _line(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
