"""What a connection may send before it has asked anything."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import uvicorn

from api.app import create_app
from api.http import connection_limits as http_limits
from api.http.connection_limits import MAX_REQUEST_BYTES, BoundedHttp
from api.settings import ApiSettings

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # redis-py, no server


@asynccontextmanager
async def connections(redis_url, **options):
    """Yield a function that connects to an api."""
    config = uvicorn.Config(
        create_app(ApiSettings(redis_url=redis_url)), port=0, log_config=None, http=BoundedHttp,
        timeout_graceful_shutdown=1, **options,
    )  # fmt: skip
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield lambda: asyncio.open_connection("127.0.0.1", port)
    finally:
        server.should_exit = True
        await running


async def answer_to(connect, *parts):
    reader, writer = await connect()
    sent = 0
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            sent += len(part)
        return await reader.read(200), sent
    except ConnectionError:
        return b"", sent
    finally:
        writer.close()


async def test_a_head_that_does_not_end_is_refused(redis_url):
    """One long header, many short ones, an endless path: little of it is taken in."""
    chunk = b"a" * 65_536
    lines = b"".join(b"x%d: y\r\n" % number for number in range(8_000))
    async with connections(redis_url) as connect:
        for start, more in ((b"GET /livez HTTP/1.1\r\nx: ", chunk), (b"GET /livez HTTP/1.1\r\n", lines)):
            answer, sent = await answer_to(connect, start, *[more] * 500)
            assert not answer or b" 431 " in answer
            assert sent < 20 * 2**20
        answer, _ = await answer_to(connect, b"GET /livez?", *[chunk] * 20)
        assert b" 200 " not in answer


async def test_a_large_head_within_the_limit_is_served(redis_url):
    """As browsers with many cookies send; also the second request of a connection."""
    async with connections(redis_url) as connect:
        request = b"GET /livez HTTP/1.1\r\nhost: x\r\ncookie: " + b"c" * (MAX_REQUEST_BYTES // 2) + b"\r\n\r\n"
        reader, writer = await connect()
        for _ in range(5):
            writer.write(request)
            assert (await reader.readuntil(b'alive"}')).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_trailers_that_do_not_end_are_refused(redis_url):
    """They come after a chunked body, and so after the answer; each would be kept with the request's headers."""
    head = b"POST /livez HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
    lines = b"".join(b"x%d: y\r\n" % number for number in range(8_000))
    async with connections(redis_url) as connect:
        answer, sent = await answer_to(connect, head, *[lines] * 500)
        assert not answer or b" 405 " in answer
        assert sent < 20 * 2**20


async def test_a_body_is_not_read(redis_url):
    """No route wants one: it is neither kept nor an error of the server."""
    async with connections(redis_url) as connect:
        head = b"POST /api/v1/state HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n"
        answer, sent = await answer_to(connect, head)
        assert b" 405 " in answer
        assert sent < 10**6


async def test_a_connection_that_says_nothing_is_closed(redis_url, monkeypatch):
    """Nor may it say it too slowly."""
    monkeypatch.setattr(http_limits, "REQUEST_WITHIN", 0.3)
    async with connections(redis_url) as connect:
        async with asyncio.timeout(20):
            assert (await answer_to(connect))[0] == b""
            assert (await answer_to(connect, b"GET /livez HTTP/1.1\r\nx: "))[0] == b""
            body = b"POST /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n1"
            assert b" 405 " in (await answer_to(connect, body))[0]


async def test_a_connection_may_rest_between_requests(redis_url, monkeypatch):
    """As browsers and proxies let them: uvicorn's own time for that is another."""
    monkeypatch.setattr(http_limits, "REQUEST_WITHIN", 0.2)
    async with connections(redis_url) as connect:
        reader, writer = await connect()
        for _ in range(3):
            writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b'alive"}')).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.5)
        writer.close()


async def test_a_connection_that_rests_for_too_long_is_closed(redis_url, monkeypatch):
    """After uvicorn's keep-alive time, and not before: whoever asks again meanwhile starts it anew."""
    monkeypatch.setattr(http_limits, "REQUEST_WITHIN", 0.2)
    async with connections(redis_url, timeout_keep_alive=1) as connect:
        reader, writer = await connect()
        loop = asyncio.get_running_loop()
        for _ in range(3):
            asked = loop.time()
            writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b'alive"}')).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.4)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        assert loop.time() - asked >= 1
        writer.close()


async def test_requests_that_come_at_once_are_answered_in_their_order(redis_url):
    """HTTP/1.1 pipelining, with answers ready and answers made."""
    paths = ["/livez", "/metrics", "/readyz", "/nothing", "/", "/openapi.json"] * 3
    async with connections(redis_url) as connect:
        reader, writer = await connect()
        writer.write(b"".join(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode() for path in paths))
        kinds = []
        for _ in paths:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            await reader.readexactly(length)
            kinds.append((int(head.split(" ")[1]), head.partition("content-type: ")[2].partition("\r\n")[0]))
        assert kinds[:6] * 3 == kinds
        assert [status for status, _ in kinds[:6]] == [200, 200, 200, 404, 200, 200]
        assert "text/html" in kinds[4][1]
        writer.close()


async def test_open_event_streams_do_not_hold_up_the_end(redis_url, caplog):
    """Their readers learn at once that they have to come again, and nothing is cancelled."""
    async with connections(redis_url) as connect:
        reader, writer = await connect()
        writer.write(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    await reader.read()  # until the end
    writer.close()
    assert not [record for record in caplog.records if record.name == "uvicorn.error" and record.levelname == "ERROR"]
