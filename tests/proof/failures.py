"""Parts die, go away and come back; old ones are replaced by new ones; what was kept is there again."""

from __future__ import annotations

import os
import tempfile
import time

import httpx

from tests.proof.stack import ROOT, Stack, expect, wait

BACK_WITHIN = 90.0
NOBODY_COULD_LOOK = httpx.codes.SERVICE_UNAVAILABLE


def what_is_killed_comes_back(stack: Stack) -> str:
    told = []
    lease = stack.docker("exec", stack.containers("redis")[0], "redis-cli", "get", "petals:crawler:lease")
    leader = next(one for one in stack.containers("crawler") if one[:12] in lease)
    updated = stack.state()["last_updated"]
    _kill(stack, leader)
    # The old leader's last snapshot may have been on its way: the one after it is the other's.
    seconds = wait("the other crawler's snapshot", lambda: stack.state()["last_updated"] > updated + 1, 60)
    told.append(f"leading crawler: next snapshot after {seconds:.0f} s")
    for service in ("reachability_worker", "api", "nginx", "redis"):
        container = stack.containers(service)[0]
        restarts = stack.inspect(container)["RestartCount"]
        _kill(stack, container)

        def back(container: str = container, restarts: int = restarts) -> bool:
            return stack.inspect(container)["RestartCount"] > restarts and stack.is_healthy(container)

        told.append(f"{service} {wait(f'{service} restarted and healthy', back, BACK_WITHIN):.0f} s")
    everything_works_again(stack)
    return "kill -9, then healthy again: " + ", ".join(told)


def redis_may_go_and_come_back(stack: Stack) -> str:
    live = stack.peers("online")[0]
    container = stack.containers("redis")[0]
    stack.docker("stop", container)
    time.sleep(2)
    page, check = stack.get("/?no-cache"), stack.check(live)
    expect(page.is_success, f"without Redis the page is {page.status_code}")
    expect(check.status_code == NOBODY_COULD_LOOK, f"without Redis a check is {check.status_code}: {check.text[:200]}")
    stale = stack.state()
    expect(stale.get("model_reports"), "without Redis the last state is gone")
    time.sleep(6)
    unfit = [one for one in stack.containers("api") if not stack.is_healthy(one)]
    expect(not unfit, "an api that can serve its last snapshot was called ill")
    stack.docker("start", container)
    checks = wait("a check succeeds", lambda: stack.check(live).json().get("success") is True, 40)
    every = everything_works_again(stack)
    crawls = wait("a new snapshot", lambda: stack.state()["last_updated"] > stale["last_updated"], 60)
    return (
        f"page 200, check 503 meanwhile; once back, the first check in {checks:.1f} s, "
        f"every api's {every:.1f} s later, a new snapshot {crawls:.1f} s later"
    )


def backup_can_be_restored(stack: Stack) -> str:
    def redis(*command: str) -> str:
        return stack.docker("exec", stack.containers("redis")[0], "redis-cli", *command)

    redis("set", "prove:kept", "yes")
    redis("bgsave")
    wait("the dump is written", lambda: "rdb_bgsave_in_progress:0" in redis("info", "persistence"), 20)
    with tempfile.TemporaryDirectory() as folder:
        backup = f"{folder}/backup.rdb"
        stack.docker("cp", f"{stack.containers('redis')[0]}:/data/dump.rdb", backup)
        redis("set", "prove:kept", "no")
        started = time.monotonic()
        stack.engine.run("bash", str(ROOT / "deploy/restore_redis.sh"), backup)
    wait("Redis answers", lambda: redis("ping") == "PONG", 30)
    seconds = time.monotonic() - started
    expect(redis("get", "prove:kept") == "yes", "the restored Redis holds something else")
    # Once more: now it starts from the append-only file that the restore wrote.
    stack.docker("restart", stack.containers("redis")[0])
    wait("Redis answers again", lambda: redis("ping") == "PONG", 30)
    expect(redis("get", "prove:kept") == "yes", "what was restored did not outlive a restart")
    before = stack.state()["last_updated"]
    wait("a new snapshot", lambda: stack.state()["last_updated"] > before, 60)
    everything_works_again(stack)
    return f"restored in {seconds:.0f} s, and kept over a restart"


def demo_swarm_may_restart(stack: Stack) -> str:
    before = set(stack.peers("online"))
    stack.docker("restart", "-t", "15", stack.containers("demo-swarm")[0])
    seconds = wait("new servers shown", lambda: (now := set(stack.peers("online"))) and not now <= before, 240)
    everything_works_again(stack)
    return f"its new servers are shown {seconds:.0f} s later: the bootstrap peer keeps its identity"


def everything_works_again(stack: Stack) -> float:
    """Wait until each api by itself gets a look at a live server, several times: any worker may be the one that looks.

    Returns the seconds. What follows then begins with a whole stack, and proves its own promise.
    """

    def all_answer() -> bool:
        live = stack.peers("online")
        asked = [(api, live[number % len(live)]) for api in stack.containers("api") for number in range(4)]
        return all(
            '"success":true' in stack.inside(api, f"http://127.0.0.1:8000/api/v1/is_reachable/{peer_id}?fresh=1")
            for api, peer_id in asked
        )

    return wait("every api gets fresh checks", all_answer, BACK_WITHIN)


def _kill(stack: Stack, container: str) -> None:
    """What happens to a process at the worst moment: not `docker kill`, after which nothing would be restarted."""
    os.kill(stack.inspect(container)["State"]["Pid"], 9)
