"""Three replicas behind the proxy of the product's own configuration; one is killed under load."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from deploy.embedded_redis import free_port
from tests.reliability.load import Load, note
from tests.reliability.parts import ROOT, get, until

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(90)]
NGINX = shutil.which("nginx") or ("/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else None)


@pytest.fixture
def proxy(tmp_path):
    """`proxy([port, …])` starts nginx with deploy/nginx in front of these, and returns its address.

    What is changed: paths, how replicas are found (a list, where the containers ask Docker's DNS), and the limits by
    client address, since all of the load comes from one.
    """
    processes = []

    def run(ports):
        port = free_port()
        replicas = "".join(f"server 127.0.0.1:{one};" for one in ports)
        changes = (
            (r"(?<=[ =])/tmp/", f"{tmp_path}/"),
            (r"/etc/nginx/(site\.conf|servers|local)", rf"{tmp_path}/\1"),
            (r"resolver 127.0.0.11[^;]*;", f"upstream replicas {{ {replicas} }}"),
            (r"listen 8080[^;]*;", f"listen 127.0.0.1:{port};"),
            (r"set \$api http://api:8000;", "set $api http://replicas;"),
            (r"rate=\d+r/s", "rate=100000r/s"),
            (r"resolver_timeout[^;]*;", ""),
        )
        for name in ("nginx.conf", "site.conf"):
            text = (ROOT / "deploy" / "nginx" / name).read_text()
            for pattern, new in changes:
                text = re.sub(pattern, new, text)
            (tmp_path / name).write_text(text)
        command = [
            NGINX,
            "-p",
            str(tmp_path),
            "-c",
            str(tmp_path / "nginx.conf"),
            "-g",
            "daemon off;" + " user root;" * (os.getuid() == 0),
        ]
        with (tmp_path / "nginx.log").open("w") as log:
            processes.append(subprocess.Popen(command, stderr=log))
        until(lambda: get(f"http://127.0.0.1:{port}/livez")[0] == 200, 15, "nginx")
        return f"http://127.0.0.1:{port}"

    yield run
    for process in processes:
        process.terminate()
        process.wait(10)


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_a_killed_replica_costs_no_request_behind_the_proxy(start, start_api, proxy, redis_server):
    """kill -9 one of three under load: no request fails but those in flight there, and none is answered wrongly."""
    start("tests.reachability_worker.simulated_worker", redis_server.url, "0.2")
    apis = [start_api(redis_server.url, RATE_LIMIT="0") for _ in range(3)]
    url = proxy([int(address.rpartition(":")[2]) for _, address in apis])
    lanes = 30
    with Load(url, lanes=lanes, a_second=100) as load:
        until(lambda: load.codes[200] > 100, 30, "the load")
        assert set(load.codes) <= {200, 503}
        before = load.codes.copy()
        apis[0][0].kill()
        killed = time.monotonic()
        until(lambda: load.codes[200] > before[200] + 300, 30, "300 more answers")
    failed = load.lost + sum((load.codes - before)[code] for code in load.codes if code != 200)
    note(
        "kill -9 of one api of three behind the proxy", faults=1, requests=load.answered, wrong=len(load.wrong),
        failed=failed, in_flight_there=round(lanes / 3), seconds_watched=round(time.monotonic() - killed, 1),
        slowest_answer=round(load.slowest, 2),
    )  # fmt: skip
    assert load.wrong == []
    assert failed <= lanes / 3
