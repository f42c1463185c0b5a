"""`make benchmarks`: run the benchmarks, and write the figures into docs/benchmarks.md and the README.

It takes about forty minutes on a machine that does nothing else. `--only NAME …` runs some benchmarks, and keeps the
other figures with their own dates (docs/benchmarks.json).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "docs" / "benchmarks.json"
REPORT = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures of make benchmarks -->", "<!-- end of figures -->"
BENCHES = {
    "crawl": "crawl", "serving": "http", "reachability": "reachability", "history": "history", "start": "start",
    "memory": "memory", "silent_nodes": "silent", "followers": "followers", "lists": "lists", "inference": "inference",
    "floods": "floods",
}  # fmt: skip
"""Modules here, and their make targets: `make bench-…`."""
SECONDS_A_BENCH = 1800
MENTIONED_SECONDS = 0.05
WITH_TORCH = {"crawler": "307–337 MB", "worker": "304–309 MB"}
"""What the services took, without p2pd, while they loaded torch (2026-11-25)."""
PREDECESSOR = "300–500 MB; with 400 servers 700 MB"
"""What health.petals.dev took."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.summary", description=__doc__)
    parser.add_argument(
        "--only", nargs="*", choices=tuple(BENCHES), default=list(BENCHES), help="benchmarks to run (default: all)"
    )
    parser.add_argument(
        "--write", action="store_true", help="run no benchmark; write the reports from docs/benchmarks.json"
    )
    arguments = parser.parse_args()
    data: dict[str, Any] = json.loads(DATA.read_text()) if DATA.exists() else {}
    for name in [] if arguments.write else arguments.only:
        data[name] = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "figures": _run(name)}
        DATA.write_text(json.dumps(data, indent=1) + "\n")
    REPORT.write_text(report(data))
    README.write_text(with_figures(README.read_text(), data))
    return 0


def _run(name: str) -> Any:
    """Return the JSON on the last line that the benchmark prints; show the others."""
    command = [sys.executable, "-m", f"tests.bench.{name}"]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if last:
                print(last, end="", flush=True)
            last = line
        if process.wait(SECONDS_A_BENCH):
            raise SystemExit(f"{name} failed with {process.returncode}")
    return json.loads(last)


def machine() -> str:
    """Return what the figures depend on: processor, cores, memory, Python."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def report(data: dict[str, Any]) -> str:
    """Return docs/benchmarks.md."""
    parts = ["# Benchmarks", _ABOUT]
    for name, target in BENCHES.items():
        if name in data:
            found = data[name]
            title = f"## `make bench-{target}`"
            parts += [title, f"{found['date']}, {found['machine']}.", *SECTIONS[name](found["figures"])]
    return "\n\n".join(parts) + "\n"


def with_figures(readme: str, data: dict[str, Any]) -> str:
    """Return the README with the few figures that matter between its marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{_few_that_matter(data)}\n{END}{after}"


_ABOUT = """\
`make benchmarks` writes this page; do not edit it by hand. Each ratio compares the monitor with a reference that ran in
the same minutes on the same machine: 0.50 means half as long or half as many as the reference. Absolute figures are
those of the machine named above each table. [scaling.md](scaling.md) says what follows from them."""
_ABOUT_START = """\
Seconds since the command was entered, with everything installed. `make demo` starts its own swarm; while the monitor
still loaded torch, it took 25 to 31 s until the page showed servers. `make run` joins a swarm that runs already, and
one of whose nodes is frozen. In that swarm"""
_ABOUT_MEMORY = """\
Memory was sampled every five seconds, while a client requested one check per second; the table has the highest sample.
Pages of files that several processes map are divided among them. Crawler and worker each run two p2pds, and a third
while one is replaced or inference is checked. An idle p2pd takes 6 MB of its own (33 MB with its relay service), and
27 MB that all p2pds share. The predecessor, health.petals.dev, is one process."""
_ABOUT_CRAWLS = """\
The reference is a simple sequential crawl: look up all blocks, then dial each server by its peer id, 128 at once, then
list addresses. One server in ten is frozen. The live ones are real libp2p nodes, as many as the machine has memory for.
The others refuse connections or have no known address. The round trip to each node takes 50 ms. Crawls after the first
are faster because they know which servers are silent."""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _by_column(rows: Iterable[dict[str, Any]], columns: dict[str, Callable[[dict[str, Any]], str]]) -> str:
    return _table(columns, ([column(row) for column in columns.values()] for row in rows))


def _crawl(rows: list[dict[str, Any]]) -> list[str]:
    def phases(row: dict[str, Any]) -> str:
        return ", ".join(f"{name} {seconds:.1f}" for name, seconds in row["crawler"]["phases"].items())

    return [
        _ABOUT_CRAWLS,
        _by_column(rows, {
            "servers": lambda row: f"{row['servers']:,}",
            "live": lambda row: f"{row['live']}",
            "first crawl": lambda row: f"{row['crawler']['seconds']:.1f} s",
            "first / sequential": lambda row: f"{row['ratio']:.2f}" if "ratio" in row else "",
            "later crawls": lambda row: f"{row['crawler']['steady_seconds']:.1f} s",
            "later / sequential": lambda row: f"{row['steady_ratio']:.2f}" if "ratio" in row else "",
            "live servers not probed": lambda row: f"{row['crawler']['not_probed']}",
            "live servers called unreachable": lambda row: f"{row['crawler']['called_unreachable']}",
            "the same, sequential": lambda row: f"{row['sequential']['called_unreachable']}" if "ratio" in row else "",
        }),
        _by_column(rows, {
            "servers": lambda row: f"{row['servers']:,}",
            "phases of the first crawl (s)": phases,
            "DHT keys looked up": lambda row: f"{row['crawler']['asked']['keys']:,}",
            "address requests": lambda row: f"{row['crawler']['asked']['find_node']:,}",
            "memory": lambda row: f"{row['crawler']['rss_mb']:.0f} MB",
            "build": lambda row: f"{row['crawler']['build_seconds'] * 1000:.0f} ms",
            "publish": lambda row: f"{row['crawler']['publish_seconds'] * 1000:.0f} ms",
            "in Redis": lambda row: f"{row['crawler']['snapshot_bytes'] / 1000:,.0f} kB",
            "Redis commands": lambda row: f"{row['crawler']['redis_commands']}",
        }),
    ]  # fmt: skip


def _serving(figures: dict[str, Any]) -> list[str]:
    rows = [row for size in figures["sizes"] for row in size["rows"]]
    of_bare = [row["to_bare"] for row in rows]
    most = max(row["connections"] for row in rows)
    slowest = max(row["p99_to_bare"] for row in rows if row["connections"] == most)
    return [
        ("One api process on one core. References: a bare ASGI app on the same uvicorn, and nginx with a file. Both "
        "send the same bytes as the api."),
        ("The load alternates between api and references; each figure is the median over the rounds. The api serves at "
        f"least {min(of_bare):.2f} × as many requests per second as the bare app, and {statistics.median(of_bare):.2f} "
        f"× in the median of {len(rows)} rows. With {most} connections, its p99 is at most {slowest:.2f} × the bare "
        "app's."),
        _by_column(rows, {
            "servers": lambda row: f"{row['servers']:,}",
            "request": lambda row: row["case"],
            "connections": lambda row: f"{row['connections']}",
            "requests per second": lambda row: f"{row['api_per_s']:,.0f}",
            "/ bare ASGI": lambda row: f"{row['to_bare']:.2f}",
            "/ bare ASGI, per CPU second": lambda row: f"{row['cpu_to_bare']:.2f}",
            "/ nginx": lambda row: f"{row['to_nginx']:.2f}" if row["to_nginx"] else "",
            "p99": lambda row: f"{row['p99_ms']:.1f} ms",
            "p99 / bare ASGI": lambda row: f"{row['p99_to_bare']:.2f}",
        }),
        f"Importing `api.app` takes {figures['import_seconds']:.2f} s.",
        _by_column(figures["sizes"], {
            "servers": lambda size: f"{size['servers']:,}",
            "from start to first page": lambda size: f"{size['first_page_seconds']:.2f} s",
            "memory": lambda size: f"{size['rss_mb']:.0f} MB",
            "memory after the load": lambda size: f"{size['rss_after_load_mb']:.0f} MB",
            "from published to served by two replicas": lambda size: f"{size['fresh_seconds'] * 1000:.0f} ms",
            "`/livez` p99": lambda size: _ms(size.get("livez_p99_ms")),
            "… while four get a page with a query": lambda size: _ms(size.get("livez_p99_ms_beside", {}).get("query")),
            "… the text": lambda size: _ms(size.get("livez_p99_ms_beside", {}).get("text")),
            "… a model's page": lambda size: _ms(size.get("livez_p99_ms_beside", {}).get("model")),
        }),
        *_of_the_page(rows),
    ]  # fmt: skip


def _of_the_page(rows: list[dict[str, Any]]) -> list[str]:
    """Return how requests with a query string, and responses made on demand, compare with `/`; nothing without them."""
    page = {(row["servers"], row["connections"]): row["api_per_s"] for row in rows if row["case"] == "page"}
    compared = [row for row in rows if row["case"] in ("query", "text", "model")]
    if not compared:
        return []
    return [
        ("Requests with a query string, and responses that are made on demand, compared with `/`. The text grows with "
        "the swarm; the page does not."),
        _by_column(compared, {
            "servers": lambda row: f"{row['servers']:,}",
            "request": lambda row: row["case"],
            "connections": lambda row: f"{row['connections']}",
            "bytes": lambda row: f"{row['body_bytes']:,}",
            "requests per second": lambda row: f"{row['api_per_s']:,.0f}",
            "/ the page": lambda row: f"{row['api_per_s'] / page[row['servers'], row['connections']]:.2f}",
            "/ bare ASGI": lambda row: f"{row['to_bare']:.2f}",
        }),
    ]  # fmt: skip


def _ms(figure: float | None) -> str:
    """Return nothing for a figure that an older run did not take."""
    return "" if figure is None else f"{figure:.1f} ms"


def _reachability(found: dict[str, Any]) -> list[str]:
    figures = ((name.replace("_", " "), f"{value:,.2f}") for name, value in found["figures"].items())
    return [
        _table(("ratio", "figure"), ((name, f"{value:.2f}") for name, value in found["ratios"].items())),
        _table(("figure", "value"), figures),
    ]


def _history(rows: list[dict[str, Any]]) -> list[str]:
    return [
        "Rings have their full size from the first write on: memory does not grow with time.",
        _by_column(rows, {
            "servers": lambda row: f"{row['servers']:,}",
            "in Redis": lambda row: f"{row['bytes'] / 1e6:.2f} MB",
            "writing one crawl": lambda row: f"{row['entry_ms']:.0f} ms",
            "of it inside Redis": lambda row: f"{row['script_ms']:.1f} ms",
        }),
    ]  # fmt: skip


def _start(figures: dict[str, Any]) -> list[str]:
    demo, run = figures["demo"], figures["run"]
    steps = [*demo["seconds"], *(step for step in run["seconds"] if step not in demo["seconds"])]

    def seconds(found: dict[str, Any], step: str) -> str:
        return f"{found['seconds'][step]:.1f} s" if step in found["seconds"] else ""

    def processor(found: dict[str, Any]) -> str:
        return ", ".join(
            f"{part} {taken:.1f}" for part, taken in found["processor"].items() if taken >= MENTIONED_SECONDS
        )

    plain = figures["plain_client_seconds"]
    rows = ([step, seconds(demo, step), seconds(run, step)] for step in steps)
    return [
        f"{_ABOUT_START} a plain DHT client takes {plain:.1f} s from its start until it has all records of one model.",
        _table(("until", "`make demo`", "`make run`"), rows),
        f"Processor seconds until servers are shown. `make demo`: {processor(demo)}. `make run`: {processor(run)}.",
    ]


def _memory(rows: list[dict[str, Any]]) -> list[str]:
    parts = [*(part for part in rows[0]["mb"] if part != "all"), "all"]
    table = [
        [
            part,
            *(f"{row['mb'][part]:.0f} MB" if part in row["mb"] else "" for row in rows),
            WITH_TORCH.get(part, ""),
            PREDECESSOR if part == "all" else "",
        ]
        for part in parts
    ]
    lasted = ", ".join(f"{row['seconds']:g}" for row in rows)
    return [
        f"{_ABOUT_MEMORY} The runs lasted {lasted} s.",
        _table(
            ("", *(f"{row['shown']:,} servers" for row in rows), "with torch, 60 servers", "the predecessor"), table
        ),
    ]


_ABOUT_SILENT_NODES = """\
Ten hivemind nodes each announce four blocks; the dial deadline is 5 s. A plain client reads the model index and all 24
blocks. The crawls are the first and the second of a new node. A worker checks live servers; the reference is a bare
connect to their known address."""


def _silent_nodes(figures: dict[str, Any]) -> list[str]:
    def beside(row: dict[str, float], cut: str) -> str:
        check, bare = row[f"check_{cut}"], row[f"bare_{cut}"]
        return f"{check:.0f} / {bare:.0f} ms = {check / bare:.1f} ×"

    relay = figures["relay"]
    relayed = (
        f"Of a server that only a relay reaches, a check takes {relay['check_p50']:.0f} ms; a client that knows only "
        f"the server's id takes {relay['client_p50']:.0f} ms (p50)."
    )
    return [
        _ABOUT_SILENT_NODES,
        _by_column(figures["silent"], {
            "nodes frozen": lambda row: f"{row['frozen']} of 10",
            "plain client": lambda row: f"{row['client']:.2f} s",
            "first crawl": lambda row: f"{row['first_crawl']:.2f} s",
            "second crawl": lambda row: f"{row['next_crawl']:.2f} s",
            "check / connect, p50": lambda row: beside(row, "p50"),
            "check / connect, p99": lambda row: beside(row, "p99"),
        }),
        relayed,
    ]  # fmt: skip


_ABOUT_FOLLOWERS = """\
One api process on one core. Of ten event streams, four follow one server, one follows a model, and one follows all
changes; each publication changes a hundred servers. Each reader requests one feed per minute over a connection of its
own, with the ETag of its last answer. The reference is a bare ASGI app on the same uvicorn: it holds as many streams,
sends them a snapshot, and answers feed requests from memory. There are"""


def _followers(figures: dict[str, Any]) -> list[str]:
    ours, bare = figures["api"], figures["bare"]
    _, poll_p50, poll_p99, _ = ours["poll_ms"]
    answers = ", ".join(f"{count:,} × {status}" for status, count in sorted(ours["answers"].items()))
    lost = f"{ours['changes_missed']:,} and {ours['streams_lost']:,}"

    def p99(name: str) -> tuple[str, str]:
        return f"{ours[name]['followed'][2]:.1f} ms", f"{ours[name]['alone'][2]:.1f} ms without streams and readers"

    def beside_bare(name: str, unit: str, digits: int) -> tuple[str, str]:
        return f"{ours[name]:.{digits}f} {unit}", f"bare: {bare[name]:.{digits}f} {unit}"

    sizes = f"{figures['servers']:,} servers, {figures['streams']:,} streams, {figures['readers']:,} readers."
    cpu = f"{ours['idle_streams_cpu']:.2f} and {ours['cpu']:.2f} of a core"
    told_one = f"one stream: {ours['told_one_seconds']:.2f} s; bare, without rendering: {bare['told_seconds']:.2f} s"
    rows = [
        ("`/livez`, p99", *p99("livez_ms")),
        ("`/`, p99", *p99("page_ms")),
        ("feed requests", f"{ours['polls_per_s']:.0f}/s: {answers}", ""),
        ("a feed request, p50 and p99", f"{poll_p50:.1f} and {poll_p99:.1f} ms", ""),
        ("processor time of a feed request", *beside_bare("poll_cpu_ms", "ms", 2)),
        ("feeds that have to be rendered", f"{ours['cold_feeds_per_s']:,.0f}/s", ""),
        ("from a published snapshot until all streams have it", f"{ours['told_seconds']:.2f} s", told_one),
        ("from published changes until all streams have them", f"{ours['changes_told_seconds']:.2f} s", ""),
        ("processor time of sending to all", *beside_bare("told_cpu_seconds", "s", 2)),
        ("memory per 1,000 streams", *beside_bare("mb_per_1000_streams", "MB", 0)),
        ("memory, at most", f"{ours['rss_highest_mb']:.0f} MB", f"{ours['rss_mb']:.0f} MB without streams and readers"),
        ("processor: idle streams only, and everything", cpu, ""),
        ("changes missed, streams lost", lost, ""),
    ]
    return [f"{_ABOUT_FOLLOWERS} {sizes}", _table(("", "api", "reference in the same run"), rows)]


def _lists(figures: dict[str, Any]) -> list[str]:
    rows = [
        (kind, *(f"{row['ms'][place]:.1f} ms" for place in (1, 2)), f"{row['cpu_ms']:.1f} ms")
        for kind, row in figures["kinds"].items()
    ]
    beside = " and ".join(
        f"{figures[name]['beside'][2]:.1f} ms of `{path}` ({figures[name]['alone'][2]:.1f} before)"
        for name, path in (("livez_ms", "/livez"), ("page_ms", "/"))
    )
    about = (
        f"Pages of `/api/v1/servers` with {figures['servers']:,} servers, each rendered on demand. One client follows "
        "the cursors from page to page. The first page of a snapshot, which makes the index, took at most "
        f"{figures['first_ms'][3]:.1f} ms. Meanwhile p99 was {beside}."
    )
    return [about, _table(("page", "p50", "p99", "processor time"), rows)]


def _inference(row: dict[str, Any]) -> list[str]:
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(row["outcomes"].items()))
    about = (
        f"One round of inference checks of {row['servers']:,} servers of {row['models']} models: "
        f"{row['cpu_seconds']:.1f} s of a core, which is {row['share']:.3f} of a core at one round per ten minutes. "
        f"The crawler takes {row['added_mb']:.1f} MB more, its p2pd {row['daemon_mb']:.0f} MB. Outcomes: {outcomes}."
    )
    return [about]


def _floods(rows: list[dict[str, Any]]) -> list[str]:
    return [
        "The crawler's own work and memory, without a network. The reference is a crawl of honest servers only.",
        _by_column(rows, {
            "swarm": lambda row: row["swarm"],
            "crawl": lambda row: f"{row['seconds']:.2f} s",
            "/ honest": lambda row: f"{row['ratio']:.2f}",
            "highest memory": lambda row: f"{row['peak_mb']:.0f} MB",
            "servers kept": lambda row: f"{row['servers']:,}",
            "models kept": lambda row: f"{row['models']:,}",
            "in Redis": lambda row: f"{row['packed_kb']:,.0f} kB",
        }),
    ]  # fmt: skip


SECTIONS: dict[str, Callable[[Any], list[str]]] = {
    "crawl": _crawl,
    "serving": _serving,
    "reachability": _reachability,
    "history": _history,
    "start": _start,
    "memory": _memory,
    "silent_nodes": _silent_nodes,
    "followers": _followers,
    "lists": _lists,
    "inference": _inference,
    "floods": _floods,
}


def _few_that_matter(data: dict[str, Any]) -> str:
    rows: list[tuple[str, str, str]] = []
    if "reachability" in data:
        found, ratios = data["reachability"]["figures"]["figures"], data["reachability"]["figures"]["ratios"]
        rows += [
            (
                "no-op checks through one worker process",
                f"{found['jobs_per_s']:,.0f}/s",
                f"{ratios['jobs: this worker / SimpleWorker']:.0f} × RQ's SimpleWorker",
            ),
            (
                "checks of peers half of which are frozen",
                f"{found['half_frozen_checks_per_s']:,.0f}/s",
                f"{ratios['half-frozen checks: this worker / SimpleWorker']:.0f} × SimpleWorker",
            ),
            (
                "the page while 1,000 checks hang",
                f"{found['page_while_1000_hang_ms']:.2f} ms",
                f"{ratios['page latency: 1,000 checks hanging / idle']:.1f} × idle",
            ),
            (
                "a whole probe of a live peer",
                f"{found['probe_p50_ms']:.1f} ms",
                f"a bare connect: {found['bare_connect_p50_ms']:.1f} ms",
            ),
        ]
    for size in data["serving"]["figures"]["sizes"] if "serving" in data else ():
        page = next(row for row in size["rows"] if row["case"] == "page" and row["connections"] == 32)
        rows.append((
            f"the page of {size['servers']:,} servers, one process",
            f"{page['api_per_s']:,.0f}/s, {size['rss_mb']:.0f} MB",
            f"{page['to_bare']:.2f} × a bare ASGI app",
        ))  # fmt: skip
    for row in data["crawl"]["figures"] if "crawl" in data else ():
        ours = row["crawler"]
        rows.append((
            f"a crawl of {row['servers']:,} servers",
            f"{ours['seconds']:.1f} s, later {ours['steady_seconds']:.1f} s",
            f"{row['ratio']:.2f} and {row['steady_ratio']:.2f} × a sequential crawl" if "ratio" in row else "",
        ))  # fmt: skip
    return _table(("What", "Figure", "Reference in the same run"), rows)


if __name__ == "__main__":
    sys.exit(main())
