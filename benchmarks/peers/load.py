"""The clients: bytes made beforehand, sockets and epoll, and no more work than must be.

A closed loop of so many connections for requests, and readers of a thousand streams for fan-out.
They poll and never sleep: the kernel charges the waking of a client to the server that wrote to it.
A message is counted by one byte of its text that occurs nowhere else, so that no frame is parsed.
"""

import base64
import hmac
import json
import os
import re
import resource
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import cycle, islice
from pathlib import Path
from statistics import quantiles

from fleet import ISSUER, SECRET, Server

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
SCOPES = "rooms:read rooms:write rates:read"
MARK = b"@"  # nor in the header of a frame, nor in the size of a chunk, at the lengths used here
DROPPED = 'slow_clients_dropped_total{kind="ws"}'
PATIENCE = 30.0  # seconds without any answer until a run is broken off
TEXT = "x" * 250


def token(key: str = SECRET, **more: object) -> str:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": ISSUER, "sub": "bench", "scope": SCOPES, "iat": now}
    parts: list[dict[str, object]] = [
        {"alg": "HS256", "typ": "JWT"},
        claims | {"exp": now + 20_000} | more,
    ]
    signed = b".".join(_base64(json.dumps(part).encode()) for part in parts)
    return (signed + b"." + _base64(hmac.digest(key.encode(), signed, sha256))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def request(
    method: str, path: str, bearer: str | None = None, body: bytes = b"", headers: str = ""
) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: peers\r\nAccept: */*\r\n"
    if bearer is not None:
        head += f"Authorization: Bearer {bearer}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{headers}\r\n".encode() + body


def send_message(bearer: str | None, text: str = TEXT, room: str = "lobby") -> bytes:
    body = json.dumps({"text": text}).encode()
    return request("POST", f"/api/v1/rooms/{room}/messages", bearer, body)


def read_page(bearer: str | None) -> bytes:
    return request("GET", "/api/v1/rooms/quiet/messages?limit=1", bearer)


def read_rate(bearer: str | None) -> bytes:
    return request("GET", "/api/v1/rates/EUR", bearer)


@dataclass(frozen=True)
class Load:
    """What each client sends again and again, and the status that it expects."""

    requests: Sequence[bytes]
    status: int


def loads() -> dict[str, Load]:
    """One token means that a cache of tokens always hits; in `post_fresh` it never does: 4,096 of
    them by turns are more than any cache here holds, and the oldest leave first."""
    one = token()
    fresh = [send_message(token(jti=f"{n:08}")) for n in range(4096)]
    return {
        "post": Load([send_message(one)], 201),
        "post_fresh": Load(fresh, 201),
        "get": Load([read_page(one)], 200),
        "relay": Load([read_rate(one)], 200),
    }


def connect(server: Server) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def complete(data: bytes) -> bool:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    length = LENGTH.search(data, 0, end)
    if length is None:
        raise SystemExit(f"an answer without a length: {data[:300]!r}")
    return len(data) >= end + 4 + int(length[1])


def ask(server: Server, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: status, headers, body."""
    with connect(server) as connection:
        connection.sendall(data)
        answer = b""
        while not complete(answer):
            more = connection.recv(65536)
            if not more:
                raise SystemExit(f"{server.name} closed the connection after {answer!r}")
            answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
    return int(first.split()[1]), headers, body


class Clients:
    """A closed loop: so many connections, each of which asks again as soon as it is answered."""

    def __init__(self, server: Server, load: Load, connections: int) -> None:
        self.server, self.poll = server, select.epoll()
        self.asking, self.waiting = True, 0
        self.sockets, self.partial = dict[int, socket.socket](), dict[int, bytes]()
        self.statuses: Counter[bytes] = Counter()
        self.fresh = len(load.requests) > 1  # goes on where it was, lest a cache know the tokens
        begin = server.asked % len(load.requests)
        self.turns = islice(cycle(load.requests), begin, None)
        for _ in range(connections):
            connection = connect(server)
            connection.setblocking(False)
            self.sockets[connection.fileno()] = connection
            self.poll.register(connection, select.EPOLLIN)
            self.ask(connection)

    def ask(self, connection: socket.socket) -> None:
        if self.asking:
            self.server.asked += self.fresh
            self.waiting += 1
            connection.send(next(self.turns))

    def run(self, deadline: float) -> None:
        while self.waiting and time.perf_counter() < deadline:
            for fd, _ in self.poll.poll(0):
                connection = self.sockets[fd]
                data = self.partial.pop(fd, b"") + connection.recv(65536)
                if complete(data):
                    self.statuses[data[9:12]] += 1
                    self.waiting -= 1
                    self.ask(connection)
                elif data:
                    self.partial[fd] = data
                else:
                    raise SystemExit(f"{self.server.name} closes connections")

    def finish(self) -> None:
        """Wait for the answers that are due, and close."""
        self.asking = False
        self.run(time.perf_counter() + PATIENCE)
        for connection in self.sockets.values():
            connection.close()


def closed_loop(
    server: Server, load: Load, connections: int, warm: float, seconds: float
) -> dict[str, float]:
    """Requests a second and microseconds of the server's CPU a request, of those that succeed.

    A 503 is what the generated service answers when others take its core away: it is counted apart,
    and what it costs is borne by the others. Any other answer ends the run.
    """
    clients = Clients(server, load, connections)
    clients.run(time.perf_counter() + warm)
    before = clients.statuses.copy()
    cpu, begun = server.cpu(), time.perf_counter()
    clients.run(begun + seconds)
    while clients.statuses == before and time.perf_counter() < begun + PATIENCE:
        clients.run(time.perf_counter() + seconds)  # too short a visit for so slow a server
    took, cpu = time.perf_counter() - begun, server.cpu() - cpu
    statuses = clients.statuses - before
    clients.finish()
    expected = b"%d" % load.status
    count, refused = statuses[expected], statuses[b"503"]
    if not count or not clients.statuses.keys() <= {expected, b"503"}:
        raise SystemExit(f"{server.name} answers {dict(clients.statuses)}")
    server.answered = clients.statuses[expected]
    return {
        "cpu_us": cpu / count * 1e6,
        "rate": count / took,
        "requests": count,
        "refused": refused / (count + refused),
    }


def allow_sockets(count: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if count + 100 > most:
        raise SystemExit(f"{count} sockets are needed, and {most} files allowed")


def opening(path: str, *, websocket: bool) -> bytes:
    upgrade = ""
    if websocket:
        key = base64.b64encode(os.urandom(16)).decode()
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        upgrade += f"Sec-WebSocket-Key: {key}\r\n"
    return request("GET", path, token(), headers=upgrade)


def open_stream(server: Server, *, websocket: bool, small: bool = False) -> socket.socket:
    """A stream that has been answered; of a `small` one the kernel holds next to nothing."""
    connection = socket.socket()
    if small:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.settimeout(PATIENCE)
    connection.connect(("127.0.0.1", server.port))
    path = f"/api/v1/rooms/lobby/{'ws' if websocket else 'events'}"
    connection.sendall(opening(path, websocket=websocket))
    answer = b""
    while b"\r\n\r\n" not in answer:
        more = connection.recv(512)
        answer += more
        if not more:
            break
    if not answer.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200")):
        raise SystemExit(f"{server.name} opens no stream: {answer!r}")
    connection.setblocking(False)
    return connection


def frame(text: str) -> bytes:
    """A text frame of a client, masked with zeros."""
    data = json.dumps({"type": "message", "text": text}).encode()
    size = len(data).to_bytes(2) if len(data) > 125 else b""
    return b"\x81" + bytes([0x80 | (126 if size else len(data))]) + size + bytes(4) + data


class Readers:
    """So many readers of a stream; `trigger` makes the server send one message to all of them."""

    def __init__(self, server: Server, count: int, *, websocket: bool) -> None:
        self.server, self.count, self.websocket = server, count, websocket
        self.poll, self.sockets = select.epoll(), dict[int, socket.socket]()
        for _ in range(count):
            stream = open_stream(server, websocket=websocket)
            self.sockets[stream.fileno()] = stream
            self.poll.register(stream, select.EPOLLIN)
        self.sender = next(iter(self.sockets.values())) if websocket else connect(server)
        self.ready, self.answer = True, b""  # a POST at a time; frames need no answer
        if not websocket:
            self.poll.register(self.sender, select.EPOLLIN)
        self.received = 0
        self.bearer = token()

    def trigger(self, padding: int) -> None:
        text = MARK.decode() + "x" * padding
        if self.websocket:
            self.sender.sendall(frame(text))
        else:
            self.ready, self.answer = False, b""
            self.sender.sendall(send_message(self.bearer, text))

    def drain(self, until: int, note: Callable[[int], None] | None = None) -> None:
        """Read until so many messages have been received in all, or another may be sent."""
        for fd, _ in self.poll.poll(0):
            stream = self.sockets.get(fd)
            if stream is None:
                self.answer += self.sender.recv(65536)
                if not self.answer.startswith(b"HTTP/1.1 201"):
                    raise SystemExit(f"{self.server.name} refuses a message: {self.answer!r}")
                self.ready = complete(self.answer)
                continue
            data = stream.recv(65536)
            if not data:
                raise SystemExit(f"{self.server.name} has closed a stream")
            count = data.count(MARK)
            self.received += count
            if note is not None and count:
                note(count)
        if self.received > until:
            raise SystemExit(f"{self.server.name} sends messages twice")

    def burst(self, messages: int, window: int, padding: int) -> None:
        """So many messages, at most `window` of them on their way."""
        begun = self.received
        until, sent = begun + messages * self.count, 0
        while self.received < until:
            free = sent - (self.received - begun) // self.count < window
            if sent < messages and free and self.ready:
                self.trigger(padding)
                sent += 1
            else:
                self.drain(until)
        while not self.ready:
            self.drain(until)

    def paced(self, messages: int, pause: float, padding: int) -> list[float]:
        """Seconds from each message's sending to each reader's receiving, one at a time."""
        delays: list[float] = []
        for _ in range(messages):
            until, begun = self.received + self.count, time.perf_counter()
            self.trigger(padding)
            while self.received < until:
                self.drain(
                    until,
                    lambda count: delays.extend([time.perf_counter() - begun] * count),  # noqa: B023
                )
            while not self.ready:
                self.drain(until)
            time.sleep(max(0.0, begun + pause - time.perf_counter()))
        return delays

    def close(self) -> None:
        for stream in (*self.sockets.values(), self.sender):
            stream.close()


def fan_out(
    server: Server, count: int, messages: int, *, websocket: bool, stalled: int = 0
) -> dict[str, float]:
    """CPU a delivered message, messages a second in a burst, and delays at an easy pace.

    `stalled` of the `count` never read: their buffers are full before the measurement begins.
    """
    dropped = _dropped(server) if stalled else 0
    held = [open_stream(server, websocket=websocket, small=True) for _ in range(stalled)]
    readers = Readers(server, count - stalled, websocket=websocket)
    if held:
        _fill(held[0], readers)
    else:
        readers.burst(60, 1, 1900)
    cpu, begun = server.cpu(), time.perf_counter()
    readers.burst(messages, 4, 40)
    took, cpu = time.perf_counter() - begun, server.cpu() - cpu
    delivered = messages * readers.count
    delays = readers.paced(max(2, messages // 10), 0.03, 40)
    if stalled and _dropped(server) != dropped:
        raise SystemExit(f"{server.name} has dropped the stalled client: then it stalls nobody")
    for stream in held:
        stream.close()
    readers.close()
    percentiles = quantiles(delays, n=100)
    return {
        "cpu_us": cpu / delivered * 1e6,
        "rate": delivered / took,
        "messages": delivered,
        "p50_ms": percentiles[49] * 1000,
        "p99_ms": percentiles[98] * 1000,
    }


def _fill(stalled: socket.socket, readers: Readers) -> None:
    """Send until the kernel takes no more for the stalled client, and then what fills 64 KiB, where
    a transport tells its writers to wait: from now on each message goes to the client's queue."""
    taken, same = -1, 0
    while same < 36:
        readers.burst(1, 1, 1900)
        now = _kernel_holds(stalled)
        taken, same = now, same + 1 if now == taken else 0


def _kernel_holds(stream: socket.socket) -> int:
    """Bytes that the server's kernel has not been able to send to this client."""
    here, there = (f":{name[1]:04X}" for name in (stream.getpeername(), stream.getsockname()))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if local.endswith(here) and remote.endswith(there):
            return int(queues.split(":")[0], 16)
    raise SystemExit("the stalled client has been dropped")


def _dropped(server: Server) -> float:
    """How many slow sockets the generated service has dropped."""
    text = ask(server, request("GET", "/metrics"))[2].decode()
    (line,) = [line for line in text.splitlines() if line.startswith(DROPPED)]
    return float(line.split()[-1])


def memory_of_a_stream(server: Server, count: int, *, websocket: bool) -> float:
    """KiB of the server's own memory for each of so many idle streams, the first ones aside."""
    first = [open_stream(server, websocket=websocket) for _ in range(50)]
    server.settle()
    before = server.memory()
    opened = [open_stream(server, websocket=websocket) for _ in range(count)]
    server.settle()
    each = (server.memory() - before) / count / 1024
    for stream in (*first, *opened):
        stream.close()
    return each
