"""nginx as it is configured, in front of a small backend: what no `nginx -t` sees."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from deploy.embedded_redis import free_port
from shared.given import MAX_GIVEN, MAX_GIVEN_CHARS
from tests.deploy.tools import tool
from tests.support.self_signed import make_certificate

pytestmark = pytest.mark.real_parts
FRESH = 2.2
"""Seconds after which an answer in the one-second cache is surely old: nginx counts whole seconds."""
FOLDER = Path(__file__).resolve().parents[2] / "deploy/nginx"


class Backend:
    """Answers every request with its own request, as JSON would be; holds answers back while `held` is set."""

    def __init__(self):
        self.requests: list[str] = []
        self.free = asyncio.Event()
        self.free.set()

    async def serve(self, reader, writer):
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.requests.append(request)
        await self.free.wait()
        body = request.encode()
        headers = [f"Content-Length: {len(body)}", "Cache-Control: max-age=60", "Connection: close"]
        if request.startswith("GET /long"):
            headers.append(f"Location: {'x' * MAX_GIVEN * MAX_GIVEN_CHARS * 3}")
        head = "\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""])
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()


class Names(asyncio.DatagramProtocol):
    """What Docker's DNS is in the stack: says every address of the api, whatever is asked."""

    def __init__(self, addresses):
        self.addresses = addresses

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        question = data[12 : data.index(b"\0", 12) + 5]
        answers = b"".join(
            b"\xc0\x0c\0\1\0\1" + (1).to_bytes(4) + (4).to_bytes(2) + socket.inet_aton(one) for one in self.addresses
        )
        counts = b"\0\1" + len(self.addresses).to_bytes(2) + b"\0\0\0\0"
        self.transport.sendto(data[:2] + b"\x81\x80" + counts + question + answers, address)


class Site:
    def __init__(self, plain, secure, backend):
        self.plain, self.secure, self.backend = plain, secure, backend


@asynccontextmanager
async def nginx(folder, backend_port, *addresses):
    """Run the shipped configuration in front of the api's addresses; only ports and paths differ."""
    ports = free_port(), free_port()
    names, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Names(addresses or ("127.0.0.1",)), ("127.0.0.1", 0)
    )
    (folder / "mime.types").write_text("types { text/plain txt; }")
    (folder / "servers").mkdir()
    (folder / "certificates").mkdir()
    certificate, _ = make_certificate(folder / "certificates")
    for name in ("nginx.conf", "site.conf", "tls.conf"):
        text = (FOLDER / name).read_text().replace("/tmp/", f"{folder}/").replace("/etc/nginx/", f"{folder}/")
        text = text.replace("listen 8080", f"listen 127.0.0.1:{ports[0]}")
        text = text.replace("listen 8443", f"listen 127.0.0.1:{ports[1]}")
        text = text.replace("http://api:8000", f"http://api:{backend_port}")
        text = text.replace("resolver 127.0.0.11 ", f"resolver 127.0.0.1:{names.get_extra_info('sockname')[1]} ")
        (folder / ("servers/tls.conf" if name == "tls.conf" else name)).write_text(text)
    process = subprocess.Popen(
        [tool("nginx"), "-c", str(folder / "nginx.conf"), "-g", "daemon off; master_process off;"]
    )
    try:
        trust = ssl.create_default_context(cafile=str(certificate))
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports[0]}", timeout=30) as plain,
            httpx.AsyncClient(base_url=f"https://localhost:{ports[1]}", timeout=30, http2=True, verify=trust) as secure,
        ):
            for _ in range(400):
                try:
                    await plain.get("/nginx-health")
                    break
                except httpx.ConnectError:
                    await asyncio.sleep(0.05)
            yield plain, secure
    finally:
        process.terminate()
        process.wait(10)
        names.close()


@pytest.fixture
async def site(tmp_path):
    backend = Backend()
    server = await asyncio.start_server(backend.serve, "127.0.0.1", 0, limit=2**20)
    async with server, nginx(tmp_path, server.sockets[0].getsockname()[1]) as clients:
        yield Site(*clients, backend)
        backend.free.set()


async def test_tls_speaks_http2_and_says_so_everywhere(site):
    """Whatever answers, a location with headers of its own or nginx itself: the browser is told to stay with TLS."""
    for path in ("/", "/events", "/api/v1/is_reachable/x", "/nginx-health"):
        answer = await site.secure.get(path)
        assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
        assert answer.headers["strict-transport-security"] == "max-age=31536000", path
        assert "strict-transport-security" not in (await site.plain.get(path)).headers, path


async def test_the_api_hears_the_address_that_connects(site):
    """And not what a client says of itself."""
    answer = await site.plain.get("/api/v1/is_reachable/x", headers={"X-Forwarded-For": "203.0.113.9"})
    assert re.findall(r"(?i)^x-forwarded-for: (.*)\r$", answer.text, re.MULTILINE) == ["127.0.0.1"]


async def test_a_crowd_is_one_request(site):
    answers = await asyncio.gather(*(site.plain.get("/") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(site.backend.requests) == 1


async def test_the_old_page_is_served_while_a_new_one_is_fetched(site):
    await site.plain.get("/")
    await asyncio.sleep(FRESH)
    site.backend.free.clear()
    fetching = asyncio.create_task(site.plain.get("/"))
    while len(site.backend.requests) < 2:
        await asyncio.sleep(0.01)
    meanwhile = await site.plain.get("/")
    assert (meanwhile.status_code, meanwhile.headers["x-cache"]) == (200, "UPDATING")
    assert not fetching.done()
    site.backend.free.set()
    assert (await fetching).headers["x-cache"] == "EXPIRED"


async def test_what_the_pages_take_passes(site):
    """Log lines that were pasted into a box, of as many characters as it takes; a redirect to all given addresses."""
    macros = FOLDER.parents[1] / "api/pages/templates/macros.html"
    [longest] = re.findall(r'maxlength="(\d+)"', macros.read_text())
    pasted = ("Sep 01 12:00:00 [INFO] /ip4/1.2.3.4/tcp/31337 " * 400)[: int(longest)]
    for client in (site.plain, site.secure):
        assert (await client.get("/check", params={"q": pasted})).status_code == 200
        assert (await client.get("/long")).status_code == 200


async def test_a_check_is_never_cached(site):
    for _ in range(3):
        await site.plain.get("/api/v1/is_reachable/x")
    assert len(site.backend.requests) == 3


@pytest.mark.parametrize("path", ["/swarm.txt", "/api/v1/is_reachable/x"])
async def test_who_asks_too_often_is_told_so_in_json(site, path):
    """By nginx's own limit, whatever address a header makes up: so many that a slow machine cannot be slow enough."""
    answers = await asyncio.gather(
        *(site.plain.get(path, headers={"X-Forwarded-For": f"198.51.{n // 200}.{n % 200}"}) for n in range(500))
    )
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert {answer.status_code for answer in answers} == {200, 429}
    for answer in refused:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["access-control-allow-origin"] == "*"
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json() == {
            "type": "about:blank", "title": "Too Many Requests", "status": 429,
            "detail": "Too many requests from your address.",
        }  # fmt: skip


async def test_without_an_api_pages_are_kept_and_checks_are_unknown(tmp_path):
    """A check that nobody can make is a 503, never a verdict."""
    backend = Backend()
    server = await asyncio.start_server(backend.serve, "127.0.0.1", 0)
    async with nginx(tmp_path, server.sockets[0].getsockname()[1]) as (plain, _):
        await plain.get("/")
        server.close()
        await server.wait_closed()
        await asyncio.sleep(FRESH)
        page, check = await plain.get("/"), await plain.get("/api/v1/is_reachable/x")
    assert (page.status_code, page.headers["x-cache"]) == (200, "STALE")
    assert check.status_code == 503
    assert "Nothing was checked" in check.json()["detail"]


async def test_replicas_that_do_not_listen_yet_fail_no_request(tmp_path):
    """A starting container's address is known before it listens, and a stopping one's after: the others answer.

    Docker's DNS names both. While many replicas are replaced, most of the addresses may lead nowhere.
    """
    backend = Backend()
    addresses = [f"127.0.1.{number}" for number in range(1, 9)]
    server = await asyncio.start_server(backend.serve, addresses[0], 0)
    async with server, nginx(tmp_path, server.sockets[0].getsockname()[1], *addresses) as (plain, _):
        # Few enough for the limits, and more than chance would let through.
        answers = [await plain.get(path) for n in range(25) for path in (f"/?{n}", "/api/v1/is_reachable/x")]
    assert {answer.status_code for answer in answers} == {200}
