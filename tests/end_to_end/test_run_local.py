"""`make demo` as a newcomer runs it: the whole monitor as processes, on a private swarm."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from deploy import run_local
from deploy.embedded_redis import free_port

pytestmark = pytest.mark.end_to_end
ROOT = Path(__file__).resolve().parents[2]
START = 90
"""Seconds after which what was waited for will never come: a guard, no promise."""


def get(url, accept="*/*", timeout=10):
    request = urllib.request.Request(url, headers={"accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.2)
    return result


def descendants(pid):
    """All processes below one, by /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def command_line(pid):
    """Its command line; b"" where it has ended meanwhile, as the daemon of each crawl does."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


class Monitor:
    def __init__(self, log, *options, **environment):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        clean = {name: value for name, value in os.environ.items() if name not in ("INITIAL_PEERS", "REDIS_URL")}
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.run_local", *options],
                cwd=ROOT, env={**clean, "API_PORT": str(self.port), **environment}, stderr=output, stdout=output,
            )  # fmt: skip

    def state(self):
        status, body = get(self.url + "/api/v1/state")
        return json.loads(body) if status == 200 else None

    def stop(self):
        left = descendants(self.process.pid)
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(40)
        until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in left), 10, "the end of all its children")
        return code


@pytest.fixture
def start(tmp_path):
    started = []

    def run(*options, **environment):
        monitor = Monitor(tmp_path / "log", *options, **environment)
        started.append(monitor)
        return monitor

    yield run
    for monitor in started:
        if monitor.process.poll() is None:
            monitor.process.send_signal(signal.SIGTERM)
            try:
                monitor.process.wait(40)
            except subprocess.TimeoutExpired:
                monitor.process.kill()


STATES = Counter(online=10, joining=2, offline=1, unreachable=1)
"""How many servers of each state the demo has when all have come, beside the frozen one."""
DEAD, FROZEN = (37, 41), (10, 25)
"""The blocks of these two: no other server has the same."""


@pytest.mark.timeout(240)
def test_the_demo_shows_a_living_swarm_heals_and_ends_cleanly(start):
    """Page within a minute, every kind of server, checks answered, a killed part restarted, no orphan at the end."""
    demo = start("--demo")
    until(lambda: get(demo.url + "/")[0] == 200, START, "the page")
    rows = {}

    def complete():
        """The state once those that join, die and freeze have come: some seconds after the first snapshot."""
        if (state := demo.state()) is None:
            return None
        found = [row for model in state["model_reports"] for row in model["server_rows"]]
        rows.update({(row["span"]["start"], row["span"]["end"]): row for row in found})
        # A crawl on a busy machine says of the frozen one that it was too busy to hear it.
        counted = Counter(row["state"] for blocks, row in rows.items() if blocks != FROZEN)
        return state if FROZEN in rows and counted == STATES else None

    state = until(complete, START, "every kind of server")
    assert [model["state"] for model in state["model_reports"]] == ["healthy", "broken", "healthy"]
    assert state["model_reports"][0]["official"]
    assert state["top_contributors"]

    # A worker answers from its own node; a 503, that nobody could look just then, is no verdict.
    def check(row):
        status, body = get(f"{demo.url}/api/v1/is_reachable/{row['peer_id']}")
        return json.loads(body) if status == 200 else None

    def verdict(row):
        return until(lambda: check(row), START, "a verdict")

    online, joining = (
        [row for blocks, row in rows.items() if blocks != FROZEN and row["state"] == name]
        for name in ("online", "joining")
    )
    assert verdict(online[0])["success"] is True
    assert verdict(joining[0])["success"] is True
    assert (verdict(rows[DEAD])["cause"], verdict(rows[FROZEN])["cause"]) == ("refused", "frozen")

    # Pages, text, metrics.
    assert "Swarm state" in get(demo.url + "/", accept="text/plain")[1]
    peer_id = online[0]["peer_id"]
    assert peer_id in get(f"{demo.url}/servers/{peer_id}")[1]
    assert 'n_blocks{model="StableBeluga2-hf"} 80' in get(demo.url + "/metrics")[1]

    # kill -9 a worker: it is back by itself.
    pids = [pid for pid in descendants(demo.process.pid) if b"reachability_worker" in command_line(pid)]
    assert pids
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: "worker 1 ended (by SIGKILL)" in demo.log.read_text(), START, "the supervisor's word")
    assert verdict(online[1])["success"] is True  # of the new worker
    assert demo.stop() == 0


@pytest.mark.timeout(120)
def test_without_a_reachable_swarm_the_page_says_so(start, tmp_path):
    """No hang, no crash: the page is up where API_HOST says, names the peers tried, what failed, and what to do."""
    nobody = "/ip4/127.0.0.1/tcp/9/p2p/QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY"
    monitor = start("--data", str(tmp_path / "data"), INITIAL_PEERS=nobody, API_HOST="127.0.0.2", CRAWL_PERIOD="5\r")
    url = f"http://127.0.0.2:{monitor.port}/"
    until(lambda: f"the page is at {url}" in monitor.log.read_text(), START, "the page's address")

    def failure_is_told():
        page = get(url)[1]
        return all(words in page for words in ("/ip4/127.0.0.1/tcp/9", "refused", "make demo", "INITIAL_PEERS"))

    until(failure_is_told, START, "the peers that were tried, and why in vain")
    status, body = get(url + "api/v1/is_reachable/QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY")
    assert status == 503, body
    second = start("--data", str(tmp_path / "data"))  # two Redis in one folder would ruin its file
    assert second.process.wait(START) == 2
    assert monitor.stop() == 0


def test_the_launcher_ends_where_a_child_refuses_its_settings(start, tmp_path):
    """With code 2, after the child has said which; nothing is started again for ever."""
    monitor = start("--data", str(tmp_path / "data"), INITIAL_PEERS="nonsense")
    assert monitor.process.wait(START) == 2
    log = monitor.log.read_text()
    assert "INITIAL_PEERS[0]: 'nonsense' names no peer" in log
    assert "starting it again" not in log
    assert "Traceback" not in log


def test_the_launcher_reads_what_the_api_reads(start):
    """What the api cannot use, the launcher refuses before it starts anything."""
    variables = ("REDIS_URL", "API_HOST", "API_PORT")
    monitor = start("--demo", **dict.fromkeys(variables, "no such thing"))
    assert monitor.process.wait(START) == 2
    first, *told = monitor.log.read_text().splitlines()
    assert first == "Bad settings:"
    assert all(any(line.startswith(f"  {name}: ") for line in told) for name in variables)


def test_an_empty_port_is_the_default_one(monkeypatch):
    """For the launcher too."""
    monkeypatch.setenv("API_PORT", "")
    monkeypatch.setattr(sys, "argv", ["run_local"])
    assert run_local.read_plan().api_port == 8000


@pytest.mark.parametrize("module", ["crawler", "api", "reachability_worker"])
def test_bad_settings_are_told_together(module):
    """One message that names each variable, before any work; exit code 2."""
    bad = {"REDIS_URL": "redis://h/0?foo=bar", "LOG_LEVEL": "loud", "INITIAL_PEERS": "nonsense", "API_PORT": "many"}
    run = subprocess.run(
        [sys.executable, "-m", module], cwd=ROOT, env={"PATH": "", **bad}, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 2
    # redis-py itself would find the option out at the first connection.
    assert re.search(r"REDIS_URL: unknown option 'foo'.*\n.*LOG_LEVEL: ", run.stderr)
    assert ("API_PORT" if module == "api" else "INITIAL_PEERS") in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("module", ["crawler", "api", "reachability_worker"])
@pytest.mark.parametrize("option", ["--help", "--print-config"])
def test_help_and_configuration_are_printed(module, option, monkeypatch, capsys):
    """Every setting with its default and meaning; secrets are masked."""
    monkeypatch.setenv("REDIS_URL", "redis://user:secret@127.0.0.1:1/0")
    monkeypatch.setattr(sys, "argv", [module, option])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(f"{ROOT}/{module}/__main__.py", run_name="__main__")
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert "REDIS_URL" in printed
    assert "secret" not in printed
