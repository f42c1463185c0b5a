"""Runs a program in namespaces of its own, with everything that it starts.

The program is the first process of a process namespace. When it ends, in whatever way, the kernel ends all others in
there, and with them go the network namespaces, devices, firewall tables and mounts. Root can do so, and elsewhere
anybody, where the kernel allows unprivileged user namespaces.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CAP_SYS_ADMIN = 21
LIBFAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
TOOLS = ("unshare", "nsenter", "ip", "nft")


def command(*program: str) -> list[str]:
    """Return the command line that runs a program in the box."""
    become_root = [] if _may_make_namespaces() else ["--user", "--map-root-user"]
    return [
        "unshare", *become_root, "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "--", *program
    ]  # fmt: skip


def _may_make_namespaces() -> bool:
    """Whether this process has the capability that it takes, without a user namespace."""
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> CAP_SYS_ADMIN & 1)


def unavailable() -> str | None:
    """Return why there can be no box on this machine, None where there can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if LIBFAKETIME is None:
        missing.append("libfaketime")
    if missing:
        return f"needs {', '.join(missing)} (Debian: iproute2, nftables, util-linux, faketime)"
    tried = subprocess.run(command("nft", "add table inet box"), capture_output=True, text=True)
    return tried.stderr.strip() or f"{tried.args[0]} ended with {tried.returncode}" if tried.returncode else None


def furnish(name_server: str) -> None:
    """Inside the box: give `ip netns` a place for names, and the name server to all resolvers."""
    resolvers = Path("/etc/resolv.conf").resolve()
    _run("mount", "-t", "tmpfs", "tmpfs", "/run")
    Path("/run/netns").mkdir()
    ours = Path("/run/resolv.conf")
    ours.write_text(f"nameserver {name_server}\noptions timeout:1 attempts:2\n")
    if resolvers.is_relative_to("/run"):
        resolvers.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ours, resolvers)
    else:
        _run("mount", "--bind", str(ours), str(resolvers))


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
