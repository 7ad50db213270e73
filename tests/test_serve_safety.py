"""What a server on a network meets: floods, slow and malformed requests, foreign pages, signals."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import collection
import serve_zoo
import tilevault
from tilevault.codecs.errors import Busy, InvalidRequest
from tilevault.workflows.cli import main
from tilevault.workflows.serve.app import create_app
from tilevault.workflows.serve.gate import Gate
from tilevault.workflows.serve.sending import Sending
from tilevault.workflows.serve.settings import Limits, Settings, check_settings, is_loopback

testclient = pytest.importorskip("starlette.testclient")

LIMITS = Limits(header_seconds=0.6, idle_seconds=0.6, threads=2, waiting=4, connections=40, drain_seconds=5)

LONG = 24 << 20
"""Bytes of an answer that no socket holds as a whole."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("safety")
    collection.write_scene(folder / "scene.tif", side=300)
    tilevault.add([folder / "scene.tif"], folder / "archive", tile=64)
    return folder / "archive"


@pytest.fixture(scope="module")
def client(archive: Path) -> Iterator[Any]:
    app = create_app(Settings(str(archive)))
    with testclient.TestClient(app, base_url="http://localhost:8480") as client:
        yield client


@pytest.fixture(scope="module")
def impatient(archive: Path) -> Iterator[tuple[str, int]]:
    """A server in a thread with short timeouts; its address."""
    import uvicorn
    from starlette.responses import Response
    from starlette.routing import Route

    from tilevault.workflows.serve.protocol import patient_protocol

    app = create_app(Settings(str(archive), limits=LIMITS))
    app.router.routes.append(Route("/long", lambda request: Response(bytes(LONG))))
    config = uvicorn.Config(
        app,
        port=0,
        http=patient_protocol(LIMITS),
        ws="none",
        loop="asyncio",
        log_config=None,
        h11_max_incomplete_event_size=LIMITS.header_bytes,
        timeout_keep_alive=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[:2]
    server.should_exit = True
    thread.join(30)


def connect(address: tuple[str, int]) -> socket.socket:
    found = socket.create_connection(address, timeout=20)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def ended(connection: socket.socket, within: float) -> bytes:
    """What comes until the server ends the connection; fails if it does not, in time."""
    connection.settimeout(within)
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionError:
        pass
    except TimeoutError:
        pytest.fail("the connection is still open")
    finally:
        connection.close()
    return received


def sent_until_ended(address: tuple[str, int], head: bytes, piece: bytes, pause: float) -> float:
    """Seconds for which the server lets itself be sent pieces, 20 at most."""
    began = time.monotonic()
    with connect(address) as connection, contextlib.suppress(OSError):
        connection.sendall(head)
        while time.monotonic() - began < 20:
            connection.sendall(piece)
            time.sleep(pause)
    return time.monotonic() - began


def alive(address: tuple[str, int]) -> bool:
    with connect(address) as one:
        one.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return b" 200 OK" in one.recv(4096)


# -- slow, oversized, malformed -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET /health HT",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n",
        b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\nabc",
        b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
    ids=["nothing", "request line", "headers", "body", "chunks"],
)
def test_a_request_that_does_not_go_on_is_ended(impatient: tuple[str, int], beginning: bytes) -> None:
    connection = connect(impatient)
    connection.sendall(beginning)
    ended(connection, 8)
    assert alive(impatient)


def test_headers_that_come_a_byte_at_a_time_are_ended(impatient: tuple[str, int]) -> None:
    assert sent_until_ended(impatient, b"", b"X", 0.05) < 8


def test_a_second_request_may_not_be_slower_than_the_first(impatient: tuple[str, int]) -> None:
    connection = connect(impatient)
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal")
    assert ended(connection, 8).count(b"HTTP/1.1 ") == 1


def test_many_slow_clients_do_not_keep_others_out(impatient: tuple[str, int]) -> None:
    slow = [connect(impatient) for _ in range(30)]
    for one in slow:
        one.sendall(b"GET /api/images HTTP/1.1\r\nHost: loc")
    assert alive(impatient)
    for one in slow:
        ended(one, 8)


def test_connections_beyond_the_limit_are_ended_at_once(impatient: tuple[str, int]) -> None:
    held = [connect(impatient) for _ in range(60)]
    time.sleep(0.2)
    for one in held:
        ended(one, 8)
    assert alive(impatient)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nzz",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    ],
)
def test_what_is_no_request_is_refused(impatient: tuple[str, int], request_bytes: bytes) -> None:
    connection = connect(impatient)
    try:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    received = ended(connection, 8)
    assert re.match(rb"HTTP/1.1 4\d\d ", received) or received == b""
    assert b"Traceback" not in received
    assert alive(impatient)


def test_a_reader_that_does_not_read_is_ended(impatient: tuple[str, int], client: Any) -> None:
    """An answer larger than what sockets buffer."""
    (one,) = client.get("/api/images").json()["images"]
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(impatient)
    request = f"GET /api/images/{one['id']}/files/0 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    connection.sendall(request * 40)
    time.sleep(3)
    ended(connection, 8)
    assert alive(impatient)


def test_a_slow_reader_gets_all_of_a_long_answer(impatient: tuple[str, int]) -> None:
    """It takes many times the seconds for which a reader may do nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    connection.settimeout(20)
    connection.connect(impatient)
    connection.sendall(b"GET /long HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    received, began = b"", time.monotonic()
    while piece := connection.recv(1 << 20):
        received += piece
        time.sleep(0.1)
    connection.close()
    assert len(received.partition(b"\r\n\r\n")[2]) == LONG
    assert time.monotonic() - began > 3 * LIMITS.idle_seconds


def test_answers_that_nobody_reads_are_counted() -> None:
    """Large ones wait in pieces; what has no room is refused before it begins; then all is free again."""

    async def play() -> None:
        sending, go_on = Sending(1 << 20), asyncio.Event()
        taken: list[Any] = []

        async def stuck(message: Any) -> None:
            taken.append(message)
            if len(taken) > 1:
                await go_on.wait()

        async def answer(send: Any, size: int) -> None:
            out = sending.through(send)
            await out({"type": "http.response.start", "status": 200, "headers": []})
            await out({"type": "http.response.body", "body": bytes(range(256)) * (size >> 8)})

        first = asyncio.create_task(answer(stuck, 900_000))
        await asyncio.sleep(0)
        assert sending.bytes == 899_840
        assert len(taken) == 2
        other: list[Any] = []

        async def prompt(message: Any) -> None:
            other.append(message)

        with pytest.raises(Busy):
            await answer(prompt, 200_000)
        assert other == []
        await answer(prompt, 50_000)
        assert len(other) == 2
        go_on.set()
        await first
        assert sending.bytes == 0
        assert b"".join(one["body"] for one in taken[1:]) == bytes(range(256)) * (900_000 >> 8)
        assert [one["more_body"] for one in taken[1:]] == [True] * (len(taken) - 2) + [False]

    asyncio.run(play())


def test_what_has_no_room_is_told_to_come_again(client: Any) -> None:
    (one,) = client.get("/api/images").json()["images"]
    (gate,) = [m for m in walk(client.app.middleware_stack) if isinstance(m, Gate)]
    gate.sending.bytes = gate.sending.limit
    try:
        answer = client.get(f"/api/images/{one['id']}/pixels/0")
        assert (answer.status_code, answer.json()["code"]) == (503, "Busy")
        assert "retry-after" in answer.headers
    finally:
        gate.sending.bytes = 0
    assert client.get(f"/api/images/{one['id']}/pixels/0").status_code == 200


def walk(app: Any) -> Iterator[Any]:
    """A stack of ASGI middleware, from the outermost one."""
    while app is not None:
        yield app
        app = getattr(app, "app", None)


def test_a_body_that_nobody_wants_is_not_read_to_its_end(impatient: tuple[str, int]) -> None:
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000000\r\n\r\n"
    assert sent_until_ended(impatient, head, b"x" * 100_000, 0.02) < 12


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("/" + "a" * 3000, {}, 414),
        ("/api/images?" + "&".join("q=a" for _ in range(70)), {}, 400),
        ("/api/images", {f"x-{k}": "y" * 1000 for k in range(40)}, 431),
        ("/api/images", {"Content-Encoding": "gzip"}, 415),
        ("/api/images", {"Content-Length": "10000000"}, 413),
    ],
)
def test_what_is_too_long_is_refused(client: Any, address: str, headers: dict[str, str], status: int) -> None:
    answer = client.get(address, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_without_a_length_is_counted(client: Any) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield b"x" * 1000

    answer = client.request("DELETE", "/api/images", content=endless())
    assert answer.status_code in (405, 413)


@pytest.mark.parametrize(
    "path",
    [
        "/viewer/../../../../etc/passwd",
        "/viewer/%2e%2e/%2e%2e/etc/passwd",
        "/viewer/..%2f..%2fetc%2fpasswd",
        "/viewer/..%5c..%5cetc",
        "/viewer//etc/passwd",
        "/viewer/%00",
        "/api/images/../../archive.json",
        "/api/images/..%2f..%2farchive.json",
        "/api/images/" + "0" * 31 + "%2f",
        "/api/images/%ff%fe",
        "/api/images/" + "A" * 32,
        "//etc/passwd",
    ],
)
def test_no_path_leads_out(archive: Path, path: str) -> None:
    """Sent as they stand: clients would tidy them up first."""
    app = create_app(Settings(str(archive)))
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    from urllib.parse import unquote

    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8480),
        "http_version": "1.1",
    }
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 404
    assert b"root:" not in sent[1]["body"]
    app.state.services.close()


# -- pages of other sites -----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8480", "[::1]:8480", "LOCALHOST:1", "127.8.9.1"])
def test_its_own_names_are_answered(client: Any, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "",
        "127.0.0.1.evil.example",
        "a@localhost",
        "localhost:x",
        "10.0.0.1",
    ],
)
def test_other_names_are_not(client: Any, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize(
    ("method", "headers", "refused"),
    [
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, True),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, True),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, False),
        ("GET", {"Sec-Fetch-Site": "same-origin"}, False),
        ("GET", {"Origin": "https://evil.example"}, False),
        ("POST", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, True),
        ("POST", {"Origin": "https://evil.example"}, True),
        ("POST", {"Origin": "null"}, True),
        ("POST", {"Origin": "http://localhost:8480"}, False),
        ("POST", {}, False),
        ("GET", {"X-Forwarded-For": "10.0.0.1"}, True),
    ],
)
def test_pages_of_other_sites_get_nothing(
    client: Any, method: str, headers: dict[str, str], refused: bool
) -> None:
    answer = client.request(method, "/api/images", headers=headers)
    assert (answer.status_code == 403) == refused
    assert "access-control-allow-origin" not in answer.headers


def test_answers_keep_browsers_strict(client: Any) -> None:
    for address in ("/health", "/api/images", "/nothing", "/api/images/" + "0" * 32):
        headers = client.get(address).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


def test_other_protocols_are_not_spoken(client: Any) -> None:
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/api/images"):
        pass


# -- too much at once ---------------------------------------------------------------------------------------


def test_more_requests_than_may_wait_are_told_to_come_again(archive: Path) -> None:
    async def flood() -> list[Any]:
        app = create_app(Settings(str(archive), limits=LIMITS))
        services = app.state.services
        gate = threading.Event()
        tasks = [asyncio.create_task(services.run(gate.wait, 10)) for _ in range(12)]
        await asyncio.sleep(0.1)
        gate.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert await services.run(lambda: "free again") == "free again"
        services.close()
        return done

    done = asyncio.run(flood())
    assert sum(isinstance(one, Busy) for one in done) == 6
    assert sum(one is True for one in done) == 6


def test_busy_is_503_with_a_time_to_come_again() -> None:
    from tilevault.workflows.serve.problems import problem_of

    answer = problem_of(Busy("too many requests at once"))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1


def test_the_same_work_is_done_once(archive: Path) -> None:
    async def several() -> int:
        app = create_app(Settings(str(archive)))
        made: list[int] = []

        def work() -> int:
            time.sleep(0.1)
            made.append(1)
            return 7

        found = await asyncio.gather(*(app.state.services.run_once("key", work) for _ in range(9)))
        assert set(found) == {7}
        app.state.services.close()
        return len(made)

    assert asyncio.run(several()) == 1


def test_what_is_kept_stays_within_its_bytes() -> None:
    from tilevault.workflows.serve.caching import ENTRY_BYTES, Kept

    kept = Kept(10_000)
    for k in range(100):
        kept.put(k, bytes(500), 500)
        assert kept.bytes <= 10_000
    assert kept.get(99) is not None
    assert kept.get(0) is None
    kept.put("large", bytes(5000), 5000)
    assert kept.get("large") is None
    kept.put(99, bytes(10), 10)
    assert kept.bytes == sum(size for _, size in kept._values.values()) >= ENTRY_BYTES


# -- the command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["--host", "0.0.0.0"],
        ["--host", "192.168.1.5", "--tokens", "t"],
        ["--host", "::", "--tls-cert", "c", "--tls-key", "k"],
        ["--tls-cert", "c"],
        ["--proxy-host", "archive.example"],
        ["--port", "70000"],
    ],
)
def test_an_unsafe_server_does_not_start(
    archive: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["serve", str(archive), *options])
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_what_counts_as_this_machine() -> None:
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"))
    assert not any(
        is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "", "127.1")
    )
    check_settings(Settings("a", host="0.0.0.0", insecure=True))
    with pytest.raises(InvalidRequest):
        check_settings(Settings("a", host="example"))


def test_a_missing_archive_and_a_port_in_use(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path / "nothing"), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["code"] == "ImageNotFound"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", str(archive), "--port", port, "--json"]) == 7
        assert json.loads(capsys.readouterr().out)["code"] == "Conflict"
    assert main(["serve", str(archive), "--port", "0", "--host", "203.0.113.9", "--insecure", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["code"] == "InvalidRequest"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_order(archive: Path, number: signal.Signals, code: int, tmp_path: Path) -> None:
    """What is being answered is answered; the log is whole."""
    process = subprocess.Popen(
        serve_zoo.serve_command(archive, "--access-log", tmp_path / "log"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    with connect((host, int(port))) as connection:
        connection.sendall(b"GET /api/images HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in connection.recv(65536)
        process.send_signal(signal.SIGHUP)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    stopped = json.loads(out.splitlines()[-1])
    assert (stopped["type"], stopped["requests"], stopped["signal"]) == ("stopped", 1, number.name)
    assert "Traceback" not in err
    (entry,) = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert (entry["principal"], entry["status"]) == ("local", 200)


def test_tls_and_tokens_from_end_to_end(archive: Path, tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    write_certificate(key, cert)
    tokens = tmp_path / "tokens.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tilevault.workflows.cli",
            "token",
            str(tokens),
            "--add",
            "x",
            "--on",
            "*",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    secret = json.loads(done.stdout)["token"]
    with serve_zoo.running(
        archive, "--host", "127.0.0.1", "--tls-cert", cert, "--tls-key", key, "--tokens", tokens
    ) as url:
        host, port = url.removeprefix("https://").split(":")
        context = ssl.create_default_context(cafile=str(cert))
        for authorization, status in ((f"Authorization: Bearer {secret}\r\n", b"200"), ("", b"401")):
            with (
                socket.create_connection((host, int(port)), timeout=20) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as one,
            ):
                request = (
                    f"GET /api/images HTTP/1.1\r\nHost: localhost\r\n{authorization}Connection: close\r\n\r\n"
                )
                one.sendall(request.encode())
                assert one.recv(4096).startswith(b"HTTP/1.1 " + status)


def write_certificate(key: Path, cert: Path) -> None:
    """A certificate for localhost that signs itself."""
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("there is no openssl that makes certificates here")


def test_a_certificate_that_is_none_is_said_so(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    pair = ["--tls-cert", str(tmp_path / "x.pem"), "--tls-key", str(tmp_path / "x.pem")]
    assert main(["serve", str(archive), *pair, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["code"] == "InvalidRequest"


def test_the_token_command_lists_and_revokes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "tokens.json")
    assert (
        main(["token", path, "--add", "a", "--may", "read", "--on", "study:1.2", "--days", "3", "--json"])
        == 0
    )
    added = json.loads(capsys.readouterr().out)
    assert added["actions"] == ["read"]
    assert main(["token", path, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["scopes"]) == ("a", ["study:1.2"])
    assert "token" not in listed
    assert main(["token", path, "--revoke", "a"]) == 0
    assert main(["token", path, "--revoke", "a"]) == 3
    assert main(["token", path, "--add", "b", "--on", "everything"]) == 3
    with pytest.raises(SystemExit):
        main(["token", path, "--add", "b"])
