"""It starts, shows the demo swarm, checks its servers, gives nothing away, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import time

import httpx

from tests.proof.stack import DEMO_MODELS, PROJECT, SCALE, Stack, expect, wait


def all_become_healthy(stack: Stack) -> str:
    def healthy() -> bool:
        found = {service: stack.containers(service) for service in SCALE}
        return {name: len(ones) for name, ones in found.items()} == SCALE and all(
            stack.is_healthy(one) for ones in found.values() for one in ones
        )

    stack.up()
    seconds = wait("every container healthy", healthy, 240)
    more = wait("a snapshot with servers", lambda: stack.peers("online"), 90)
    return f"{sum(SCALE.values())} containers healthy {seconds:.0f} s after up, a snapshot {more:.0f} s later"


def page_and_json_come_through_nginx(stack: Stack) -> str:
    page = stack.get("/", Accept="text/html")
    expect(page.status_code == httpx.codes.OK, f"page: {page.status_code}")
    expect(page.headers["content-type"].startswith("text/html"), f"page: {page.headers}")
    models = len(stack.state()["model_reports"])
    expect(models == DEMO_MODELS, f"the demo swarm has {DEMO_MODELS} models, the page shows {models}")
    return f"{models} models, {len(stack.peers('online'))} servers online"


def live_server_is_reachable_and_dead_one_is_not(stack: Stack) -> str:
    live, dead = stack.peers("online")[0], stack.peers("unreachable")[0]
    started = time.monotonic()
    answer = stack.check(live)
    took = time.monotonic() - started
    expect(answer.status_code == httpx.codes.OK and answer.json()["success"] is True, f"live: {answer.text[:300]}")
    answer = stack.check(dead)
    expect(answer.status_code == httpx.codes.OK and answer.json()["success"] is False, f"dead: {answer.text[:300]}")
    return f"live: true in {took * 1000:.0f} ms; dead: false"


def containers_are_hardened(stack: Stack) -> str:
    for service in SCALE:
        for container in stack.containers(service):
            described = stack.inspect(container)
            host, name = described["HostConfig"], described["Name"]
            expect(host["ReadonlyRootfs"], f"{name}: its root is writable")
            expect("ALL" in (host["CapDrop"] or []), f"{name}: capabilities {host['CapDrop']}")
            expect("no-new-privileges:true" in host["SecurityOpt"], f"{name}: {host['SecurityOpt']}")
            expect(host["Memory"] > 0 and host["PidsLimit"] > 0, f"{name}: no limits")
            expect(described["Config"]["User"] not in ("", "0", "root"), f"{name} runs as root")
            published = any((described["NetworkSettings"]["Ports"] or {}).values())
            expect(published == (service == "nginx"), f"{name}: published ports {published}")
    alone = stack.containers("api")[0]
    for what, program in (
        ("writes to its own code", "open('/app/x', 'w')"),
        ("has a way out of the backend network", "import socket; socket.create_connection(('1.1.1.1', 53), 3)"),
    ):
        code = subprocess.run(
            [stack.engine.docker, "exec", alone, "python", "-c", program],
            env=stack.engine.environment, capture_output=True, check=False,
        ).returncode  # fmt: skip
        expect(code != 0, f"the api {what}")
    return "read-only, no capabilities, no root, limits everywhere; only nginx is published, the api has no way out"


def nothing_is_left(stack: Stack) -> str:
    started = time.monotonic()
    stack.compose("down", "-v", "--timeout", "20")
    seconds = time.monotonic() - started
    label = f"label=com.docker.compose.project={PROJECT}"
    left = {
        "containers": stack.docker("ps", "-aq", "--filter", label),
        "volumes": stack.docker("volume", "ls", "-q", "--filter", label),
        "networks": stack.docker("network", "ls", "-q", "--filter", label),
    }
    expect(not any(left.values()), f"left over: {left}")
    return f"no container, volume or network left after {seconds:.0f} s"
