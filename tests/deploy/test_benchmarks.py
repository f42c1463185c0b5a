"""The benchmarks' figures in the documents are those that were measured, and the swarm they run on is sound."""

import json
import subprocess
import sys

import pytest

from tests.bench import summary
from tests.proof.small_machine import grown


@pytest.fixture
def data():
    return json.loads(summary.DATA.read_text())


def test_the_report_is_what_the_figures_say(data):
    assert summary.REPORT.read_text() == summary.report(data)
    assert set(data) == set(summary.BENCHES)


def test_the_readme_has_the_same_figures(data):
    readme = summary.README.read_text()
    assert summary.with_figures(readme, data) == readme
    assert readme.count(summary.BEGIN) == readme.count(summary.END) == 1


def test_figures_are_replaced_not_added(data):
    text = f"before\n{summary.BEGIN}\nold\n{summary.END}\nafter\n"
    once = summary.with_figures(text, data)
    assert "old" not in once
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert summary.with_figures(once, data) == once


def test_memory_that_grows_is_told_from_memory_that_comes_and_goes():
    samples = [{"leaks": 50 + number / 5, "breathes": 50 + number % 7 * 5, "settles": 60 - 10 / (number + 1)}
               for number in range(100)]  # fmt: skip
    assert grown(samples) == ["leaks (60 to 65 MB)"]


@pytest.mark.parametrize("name", summary.BENCHES)
def test_every_benchmark_has_a_target_and_a_section(name):
    """What `make benchmarks` runs exists, and what it finds is shown."""
    assert (summary.ROOT / f"tests/bench/{name}.py").exists()
    assert name in summary.SECTIONS
    assert f"bench-{summary.BENCHES[name]}:" in (summary.ROOT / "Makefile").read_text()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("followers", "--servers 60 --streams 20 --readers 1200 --every 1.5 --publications 1"),
        ("lists", "--servers 60 --rounds 1 --alone 0.3"),
    ],
)
def test_load_on_one_api_is_measured(name, sizes):
    """The whole harness, with a swarm of sixty: nobody misses anything, and the report can be written from it."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.bench.{name}", *sizes.split()], capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert summary.SECTIONS[name](figures)[-1].startswith("| ")
    if name == "followers":
        assert set(figures["api"]["answers"]) <= {"200", "304"}
        assert (figures["api"]["changes_missed"], figures["api"]["streams_lost"]) == (0, 0)


@pytest.mark.slow
@pytest.mark.swarm
@pytest.mark.timeout(180)
def test_a_small_crawl_is_measured_against_the_plain_way():
    """The whole harness, on a swarm of eight: every live server is found, and nobody else is."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.crawl", "--sizes", "8", "--live", "3", "--one-way", "0.005"],
        capture_output=True, text=True, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout.splitlines()[-1])
    assert (row["servers"], row["live"]) == (8, 3)
    assert row["crawler"]["called_unreachable"] == 0
    assert row["crawler"]["asked"]["keys"] > 0
    assert row["crawler"]["snapshot_bytes"] > 0
    assert row["ratio"] > 0
