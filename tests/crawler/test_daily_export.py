"""The daily export: what stands in its files, and what interruptions and hostile names do to it."""

import asyncio
import csv
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from crawler.history.daily_export import DailyExport
from shared.export_files import Form, Kind, parse_name
from shared.inference import InferenceOutcome, ServerInference, Usability, UsabilityState
from shared.public.data import ROWS, packed
from shared.store import keys
from shared.store.rings import DAY, HOUR
from tests.api.serving import serve
from tests.crawler.recording import START, record
from tests.fakes import model, peer_id, server, snapshot

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
MIDNIGHT = START // DAY * DAY
DAY_NAME = "2025-11-23"
FORMULA = '=HYPERLINK("http://evil","+1")\n@x'


CHECKED = MIDNIGHT + 10 * HOUR - 5
"""Both inference checks began in the hour before the first crawl, which shows them."""


def whole(*more, taken_at):
    timed_out = ServerInference(InferenceOutcome.TIMEOUT, (0, 8), CHECKED)
    servers = (server(1, 0, 8, inference=timed_out), server(2, 4, 8))
    chain = Usability(UsabilityState.USABLE, CHECKED, seconds_per_token=0.25)
    return snapshot(model(blocks=8, servers=servers, usability=chain), *more, taken_at=float(taken_at))


def half(*more, taken_at):
    return snapshot(model(blocks=8, servers=(server(2, 4, 8),)), *more, taken_at=float(taken_at))


def evil():
    return model(FORMULA, blocks=2, servers=(server(3, 0, 2),), name=FORMULA)


@pytest.fixture
async def export(redis, tmp_path):
    """A day of four crawls, of which two find the model broken, and the export an hour after it settled."""
    at = MIDNIGHT + 10 * HOUR
    _, leader = await record(
        redis,
        whole(evil(), taken_at=at),
        half(evil(), taken_at=at + 60),
        half(taken_at=at + 120),
        whole(evil(), taken_at=at + HOUR),
        whole(evil(), taken_at=at + HOUR + 60),
    )
    await date_back(redis, keys.closed_incidents(official=False), MIDNIGHT + 12 * HOUR)
    return DailyExport(redis, tmp_path, leader, now=lambda: MIDNIGHT + DAY + 3 * HOUR)


async def date_back(redis, stream, at):
    """Date what was recorded just now, by Redis's clock, as if it had been recorded then."""
    entries = await redis.xrange(stream)
    await redis.delete(stream)
    for number, (_, fields) in enumerate(entries):
        await redis.xadd(stream, fields, id=f"{at * 1000}-{number + 1}")


def rows_of(folder, kind, form="csv"):
    with gzip.open(folder / f"{kind}-{DAY_NAME}.{form}.gz", "rt", newline="") as file:
        return list(csv.DictReader(file)) if form == "csv" else [json.loads(line) for line in file]


async def test_a_notebook_answers_how_often_a_model_was_usable(export, redis_url, tmp_path):
    """The ten lines of docs/data.md, with this monitor's address, model and month, print the share of good crawls."""
    await export.export()
    (lines,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    assert len(list(filter(None, lines.splitlines()))) == 10
    async with serve(redis_url, export_folder=tmp_path) as base:
        asked = lines.replace("http://127.0.0.1:8000", base).replace("StableBeluga2-hf", "demo-model")
        program = [sys.executable, "-I", "-c", asked.replace("2026-10", DAY_NAME[:7])]
        notebook = await asyncio.to_thread(subprocess.run, program, capture_output=True, text=True, check=True)
    assert notebook.stdout == f"{3 / 5:.1%}\n"


def test_every_column_is_described():
    """In docs/data.md, and no other."""
    for kind in Kind:
        section = DOCS.split(f"**{kind}**: ")[1].split("\n\n", 2)[1]
        described = [name for row in section.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
        assert tuple(described) == ROWS[kind].__struct_fields__


async def test_files_are_served_in_ranges_and_no_other_file_is(export, redis_url, tmp_path):
    """Downloads resume and are asked for once; what is not the export's cannot be named."""
    await export.export()
    (tmp_path / "secret").write_text("x")
    name = f"servers-{DAY_NAME}.ndjson.gz"
    async with serve(redis_url, export_folder=tmp_path) as base, httpx.AsyncClient(base_url=base) as http:
        answer = await http.get(f"/data/{name}")
        assert answer.content == (tmp_path / name).read_bytes()
        assert answer.headers["content-type"] == "application/gzip"
        assert "content-encoding" not in answer.headers
        part = await http.get(f"/data/{name}", headers={"range": "bytes=5-9", "if-range": answer.headers["etag"]})
        assert (part.status_code, part.content) == (206, answer.content[5:10])
        for other in ("secret", "..%2fsecret", f"..%2f{tmp_path.name}%2fsecret", f"{name}.1.tmp"):
            assert (await http.get(f"/data/{other}")).status_code == 404
        page = (await http.get("/data", headers={"accept": "text/html"})).text
        assert f'href="/data/{name}"' in page
        assert "secret" not in page


async def test_rows_are_what_was_recorded(export, tmp_path):
    """Each kind says what the history says, and both forms say the same."""
    assert await export.export() == 8
    hours = [row for row in rows_of(tmp_path, "crawls") if row["dht_prefix"] == "demo-model"]
    assert [(row["hour"], row["crawls"], row["healthy_crawls"], row["covered_blocks"]) for row in hours] == [
        ("2025-11-23T10:00:00Z", "3", "1", "4"),
        ("2025-11-23T11:00:00Z", "2", "2", "8"),
    ]
    first = [row for row in rows_of(tmp_path, "servers") if row["peer_id"] == peer_id(1)]
    assert [(row["looked_minutes"], row["online_minutes"]) for row in first] == [("3", "1"), ("2", "2")]
    (incident,) = [row for row in rows_of(tmp_path, "incidents") if row["dht_prefix"] == "demo-model"]
    assert (incident["duration_seconds"], incident["outcome"]) == ("3540", "recovered")
    checked = [tuple(row.values()) for row in rows_of(tmp_path, "inference")]
    assert checked == [
        ("2025-11-23T09:00:00Z", "demo-model", "", "1", "1", "usable", "0.25"),
        ("2025-11-23T09:00:00Z", "", peer_id(1), "1", "0", "timeout", ""),
    ]
    for kind in Kind:
        assert len(rows_of(tmp_path, kind)) == len(rows_of(tmp_path, kind, "ndjson"))
        assert set(rows_of(tmp_path, kind)[0]) == set(ROWS[kind].__struct_fields__)


async def test_a_spreadsheet_finds_no_formula(export, tmp_path):
    """Names that servers choose are text in the CSV, and unchanged in the NDJSON."""
    await export.export()
    for kind in Kind:
        assert rows_of(tmp_path, kind)
        for row in rows_of(tmp_path, kind):
            assert not [value for value in row.values() if value.lstrip()[:1] in set("=+-@\t\r\n＝＋－＠")]
    assert FORMULA in {row["dht_prefix"] for row in rows_of(tmp_path, "crawls", "ndjson")}


async def test_an_interrupted_export_goes_on(export, tmp_path):
    """What is missing is written with the same bytes; what is there is not touched; no half of a file stays."""
    await export.export()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    lost, kept = sorted(before)[::2], sorted(before)[1]
    for name in lost:
        (tmp_path / name).unlink()
    (tmp_path / kept).write_bytes(b"mine")
    left = tmp_path / f"{lost[0]}.1.tmp"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    assert await export.export() == len(lost)
    assert await export.export() == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before | {kept: b"mine"}


async def test_only_old_files_of_the_export_are_pruned(export, tmp_path):
    """A file of the operator's own in the same folder stays, whatever its name."""
    names = ["crawls-2022-01-01.csv.gz", "crawls-2022-01-01.csv", "notes.gz", f"crawls-{DAY_NAME}.csv.gz"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    await export.export()
    assert {path.name for path in tmp_path.iterdir()} & set(names) == set(names[1:])


async def test_a_day_without_a_crawl_has_no_file(redis, tmp_path):
    """No crawl ran: that is not a day on which nothing worked. The day that has not ended has none yet either."""
    _, leader = await record(redis, whole(taken_at=MIDNIGHT + 100))
    early = DailyExport(redis, tmp_path, leader, now=lambda: MIDNIGHT + DAY + HOUR)
    assert await early.export() == 0
    later = DailyExport(redis, tmp_path, leader, now=lambda: MIDNIGHT + 5 * DAY)
    assert await later.export() == 8
    assert {parse_name(path.name).day.isoformat() for path in tmp_path.iterdir()} == {DAY_NAME}


def test_the_same_rows_are_the_same_bytes():
    """So it does not matter which crawler writes, nor how often; a copy can be compared by its checksum."""
    for form in Form:
        assert packed(Kind.SERVERS, form, []) == packed(Kind.SERVERS, form, [])


async def test_days_whose_checks_are_no_longer_kept_have_no_file_of_them(redis, tmp_path):
    """Inference checks of servers are kept for a week: after that a file would say that nobody was asked."""
    _, leader = await record(redis, whole(taken_at=MIDNIGHT + 100))
    later = DailyExport(redis, tmp_path, leader, now=lambda: MIDNIGHT + 8 * DAY)
    assert await later.export() == 6
    assert not list(tmp_path.glob("inference-*"))
