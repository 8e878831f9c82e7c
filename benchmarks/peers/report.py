"""What was promised and what was measured, as tables and plots, from results/peers.json.

    python benchmarks/peers/report.py            print the promises and the tables
    python benchmarks/peers/report.py --write    and put them into README.md and docs/

Ratios are medians of the ratios within a round, with the least and the greatest. The plots are
plain SVG that reads in light and in dark pages. No package is needed.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
IMAGES = ROOT / "docs" / "images"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "performance.md")

NAMES = {
    "service": "the generated service",
    "bare": "aiohttp, bare (the floor; not the same work)",
    "usual": "aiohttp, as usually written",
    "starlette_tricks": "Starlette, with our own tricks",
    "starlette_features": "Starlette, with our own tricks and features",
    "starlette": "Starlette",
    "blacksheep": "BlackSheep",
    "sanic": "Sanic",
    "litestar": "Litestar",
    "quart": "Quart",
    "fastapi_best": "FastAPI, at its best",
    "fastapi_popular": "FastAPI, as popular templates write it",
}
CHAT = {
    "service": "the generated service, one client stalled",
    "service_none_stalled": "the generated service",
    "loop": "aiohttp, plain loop of `send_str()`",
    "broadcast": "`websockets`, `broadcast()`",
    "broadcast_uvloop": "`websockets`, `broadcast()`, uvloop",
    "uvicorn_sansio": "Starlette, uvicorn `websockets-sansio`",
    "uvicorn_websockets": "Starlette, uvicorn `websockets`",
    "uvicorn_wsproto": "Starlette, uvicorn `wsproto`",
}
EVENTS = {
    "service": "the generated service",
    "streaming": "Starlette, StreamingResponse and a queue",
    "sse_starlette": "Starlette, sse-starlette and a queue",
}
START = {
    "service": "the generated service",
    "parts": "aiohttp.web, pydantic and jwt",
    "fastapi": "fastapi",
    "fastapi_popular": "FastAPI, as popular templates write it",
}
HTTPX = ("starlette", "sanic", "litestar", "quart", "fastapi_best", "fastapi_popular")

Results = dict[str, Any]
Rounds = list[float]


@dataclass(frozen=True)
class Spread:
    """A median over the rounds, with the least and the greatest."""

    values: Rounds

    @property
    def median(self) -> float:
        return median(self.values)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({min(self.values):.2f} to {max(self.values):.2f})"


def rounds(results: Results, path: str, row: str, figure: str) -> Rounds:
    part: Any = results
    for name in path.split("."):
        part = part[name]
    return [each[figure] for each in part[row]]


def ratio(results: Results, path: str, pair: tuple[str, str], figure: str = "cpu_us") -> Spread:
    """The first row's figure over the second's, round by round."""
    over, under = (rounds(results, path, row, figure) for row in pair)
    return Spread([a / b for a, b in zip(over, under, strict=True)])


def least(results: Results, path: str, rows: Iterable[str], under: str = "service") -> Spread:
    """Against the best of those rows."""
    found = [ratio(results, path, (row, under)) for row in rows]
    return min(found, key=lambda spread: spread.median)


@dataclass(frozen=True)
class Promise:
    """A figure, what it has to be, what is aimed for; `most`: no more than that, else no less."""

    name: str
    must: float
    aim: float
    measure: Callable[[Results], Spread]
    most: bool = False

    def row(self, results: Results) -> tuple[str, str, str, str, str]:
        spread = self.measure(results)
        sign = "<=" if self.most else ">="
        return (
            self.name,
            f"{sign} {self.must:g}",
            f"{sign} {self.aim:g}",
            str(spread),
            self.met(spread),
        )

    def met(self, spread: Spread) -> str:
        def reached(bar: float) -> bool:
            return spread.median <= bar if self.most else spread.median >= bar

        return "aim met" if reached(self.aim) else "met" if reached(self.must) else "MISSED"


def against(load: str, row: str) -> Callable[[Results], Spread]:
    """Requests a CPU second, the service's over that row's: CPU a request the other way round."""
    return lambda results: ratio(results, f"http.{load}", (row, "service"))


def absolute(path: str, row: str, figure: str) -> Callable[[Results], Spread]:
    return lambda results: Spread(rounds(results, path, row, figure))


UVICORN = ("uvicorn_websockets", "uvicorn_sansio", "uvicorn_wsproto")
BROADCAST = ("broadcast", "broadcast_uvloop")
PROMISES = (
    Promise(
        "POST with auth, validation, log: CPU a request against bare aiohttp",
        2.0,
        1.6,
        lambda results: ratio(results, "http.post", ("service", "bare")),
        most=True,
    ),
    Promise(
        "the same, requests a CPU second: against FastAPI, popular",
        10,
        15,
        against("post", "fastapi_popular"),
    ),
    Promise("against FastAPI at its best", 3, 4, against("post", "fastapi_best")),
    Promise("against Starlette", 2.3, 3, against("post", "starlette")),
    Promise("against Starlette with equal tricks", 1.0, 1.15, against("post", "starlette_tricks")),
    Promise(
        "without token cache, against Starlette without",
        1.2,
        1.4,
        against("post_fresh", "starlette"),
    ),
    Promise(
        "GET with auth, small JSON: CPU a request against bare aiohttp",
        1.5,
        1.3,
        lambda results: ratio(results, "http.get", ("service", "bare")),
        most=True,
    ),
    Promise(
        "call through the shared ClientSession, requests a CPU second: against bare aiohttp",
        0.8,
        0.9,
        against("relay", "bare"),
    ),
    Promise(
        "against the best of the peers on httpx",
        8,
        12,
        lambda results: least(results, "http.relay", HTTPX),
    ),
    Promise(
        "WebSocket fan-out, one stalled, messages a CPU second: plain loop, none stalled",
        0.9,
        1.1,
        lambda results: ratio(results, "chat", ("loop", "service")),
    ),
    Promise(
        "against the best of Starlette on uvicorn",
        1.3,
        1.7,
        lambda results: least(results, "chat", UVICORN),
    ),
    Promise(
        "against the better `broadcast()`",
        1.0,
        1.2,
        lambda results: least(results, "chat", BROADCAST),
    ),
    Promise(
        "SSE fan-out, messages a CPU second: against the better Starlette",
        1.5,
        2,
        lambda results: least(results, "events", ("streaming", "sse_starlette")),
    ),
    Promise(
        "memory of an SSE stream, KiB",
        14,
        11,
        absolute("memory.events", "service", "kib"),
        most=True,
    ),
    Promise(
        "memory of an idle WebSocket, KiB",
        18,
        15,
        absolute("memory.websocket", "service", "kib"),
        most=True,
    ),
    Promise(
        "import of the service against aiohttp.web, pydantic and jwt",
        1.25,
        1.10,
        lambda results: ratio(results, "start", ("service", "parts"), "cpu_ms"),
        most=True,
    ),
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def promises(results: Results) -> str:
    head = ("figure", "must", "aim", "measured: median (least to greatest)", "")
    return table(head, (promise.row(results) for promise in PROMISES))


def middle(results: Results, path: str, row: str, figure: str) -> float:
    return median(rounds(results, path, row, figure))


def in_order(
    results: Results, path: str, names: dict[str, str], figure: str = "cpu_us"
) -> list[str]:
    return sorted(names, key=lambda row: middle(results, path, row, figure))


def http_table(results: Results) -> str:
    """CPU of a request in microseconds, what the service does in that time, and throughput."""
    rows: list[list[str]] = []
    for row in in_order(results, "http.post", NAMES):
        cells = [NAMES[row]]
        for load in ("post", "get", "relay"):
            cpu = middle(results, f"http.{load}", row, "cpu_us")
            times = ratio(results, f"http.{load}", (row, "service")).median
            rate = ratio(results, f"http.{load}", (row, "bare"), "rate").median
            cells.append(f"{cpu:.0f} · {times:.2f} · {rate:.2f}")
        rows.append(cells)
    return table(("CPU µs · ÷ the service's · req/s ÷ bare", "POST", "GET", "relayed call"), rows)


def fresh_table(results: Results) -> str:
    rows = [
        [
            NAMES[row],
            f"{middle(results, 'http.post', row, 'cpu_us'):.0f}",
            f"{middle(results, 'http.post_fresh', row, 'cpu_us'):.0f}",
            str(ratio(results, "http.post_fresh", (row, "service"))),
        ]
        for row in in_order(
            results, "http.post_fresh", dict.fromkeys(results["http"]["post_fresh"], "")
        )
    ]
    head = ("POST, CPU µs", "one token", "a new token each time", "of these, ÷ the service's")
    return table(head, rows)


def spread_table(results: Results) -> str:
    """Every ratio of the HTTP loads with its range."""
    rows = [
        [
            NAMES[row],
            *(
                str(ratio(results, f"http.{load}", (row, "service")))
                for load in ("post", "get", "relay")
            ),
        ]
        for row in in_order(results, "http.post", NAMES)
        if row != "service"
    ]
    return table(("CPU a request ÷ the service's", "POST", "GET", "relayed call"), rows)


def fan_out_table(results: Results, part: str, names: dict[str, str], kind: str) -> str:
    rows: list[list[str]] = []
    for row in in_order(results, part, names):
        memory = results["memory"][kind].get(row)
        rows.append(
            [
                names[row],
                f"{middle(results, part, row, 'cpu_us'):.1f}",
                str(ratio(results, part, (row, "service"))),
                f"{middle(results, part, row, 'rate') / 1000:.0f}",
                " / ".join(f"{middle(results, part, row, p):.1f}" for p in ("p50_ms", "p99_ms")),
                f"{median(each['kib'] for each in memory):.1f}" if memory else "",
            ]
        )
    head = (
        "1,000 clients",
        "CPU µs a message",
        "÷ the service's",
        "thousand messages/s",
        "paced p50 / p99 ms",
        "idle KiB each",
    )
    return table(head, rows)


def start_table(results: Results) -> str:
    rows = [
        [
            START[row],
            f"{middle(results, 'start', row, 'cpu_ms'):.0f}",
            str(ratio(results, "start", (row, "parts"), "cpu_ms")),
        ]
        for row in in_order(results, "start", START, "cpu_ms")
    ]
    return table(("import", "CPU ms", "÷ its parts"), rows)


def compact(results: Results) -> str:
    """For the README: CPU of the loads, as times of the service's."""
    rows: list[list[str]] = []
    for row in in_order(results, "http.post", NAMES):
        cpu = f"{middle(results, 'http.post', row, 'cpu_us'):.0f}"
        times = [
            f"{ratio(results, f'http.{load}', (row, 'service')).median:.1f}"
            for load in ("post", "get", "relay")
        ]
        rows.append([NAMES[row], cpu, *times])
    return table(("", "CPU µs a POST", "POST ÷ ours", "GET ÷ ours", "relayed call ÷ ours"), rows)


def conditions(results: Results) -> str:
    about = results["about"]
    count = len(results["http"]["post"]["service"])
    refused = max(rounds(results, "http.post", "service", "refused"))
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    words = (
        f"{about['date'][:10]}, {about['cpu']}, {about['cores']} cores, {about['system']}, "
        f"{about['python']}; {versions}. {count} rounds of {about['seconds']:g} s a cell and "
        f"{len(results['chat']['service'])} of fan-out, {about['connections']} connections. Token "
        f"cache: {about['token_cache']}. Of the service's POSTs at most {refused:.1%} a round were "
        f"refused with 503, and are not counted as requests. {pace(results)} "
        f"{about.get('note', '')}"
    )
    return words.rstrip()


def pace(results: Results) -> str:
    """How often visits had to be made again, as the core was faster or slower than usual."""
    tables = [*results["http"].values(), results["chat"], results["events"], results["start"]]
    visits = [one for rows in tables for each in rows.values() for one in each]
    again = sum(one["repeated"] for one in visits)
    unsteady = sum(not one["steady"] for one in visits)
    return (
        f"The {len(visits)} visits took {again:.0f} repetitions, as the core was not at its usual "
        f"pace; {unsteady} never were at it."
    )


SECTIONS: dict[str, Callable[[Results], str]] = {
    "compact": compact,
    "conditions": conditions,
    "promises": promises,
    "http": http_table,
    "ranges": spread_table,
    "fresh": fresh_table,
    "chat": lambda results: fan_out_table(results, "chat", CHAT, "websocket"),
    "events": lambda results: fan_out_table(results, "events", EVENTS, "events"),
    "start": start_table,
}


def write(results: Results) -> None:
    """Replace what stands between `<!-- peers: NAME -->` and `<!-- / -->`, and draw the plots."""
    for document in DOCUMENTS:
        text = document.read_text()
        for name, section in SECTIONS.items():
            before, begin, rest = text.partition(f"<!-- peers: {name} -->\n")
            if begin:
                text = f"{before}{begin}{section(results)}\n{rest[rest.index('<!-- / -->') :]}"
        document.write_text(text)
    bars = {
        NAMES[row].split(" (")[0]: Spread(rounds(results, "http.post", row, "cpu_us"))
        for row in in_order(results, "http.post", NAMES)
    }
    title = "CPU µs of a POST with auth, validation and log"
    (IMAGES / "peers.svg").write_text(plot(title, bars, ("the generated service",)))
    bars = {
        CHAT[row].replace("`", ""): Spread(rounds(results, "chat", row, "cpu_us"))
        for row in in_order(results, "chat", CHAT)
    }
    title = "CPU µs to bring a message to one of 1,000 WebSockets"
    (IMAGES / "peers-chat.svg").write_text(
        plot(title, bars, (CHAT["service"], CHAT["service_none_stalled"]))
    )


WIDTH, LEFT, RIGHT, STEP, TOP = 690, 280, 70, 26, 34


def plot(title: str, bars: dict[str, Spread], ours: Sequence[str]) -> str:
    """Bars from the top, the shortest first, each with its range over the rounds."""
    longest = max(spread.median for spread in bars.values())
    height = TOP + STEP * len(bars) + 8

    def x(value: float) -> float:
        return LEFT + min(value / longest, 1.08) * (WIDTH - LEFT - RIGHT)

    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="13" role="img" aria-label="{title}">'
    )
    parts = [head, f'<text x="8" y="18" fill="#848d97">{title}</text>']
    for number, (name, spread) in enumerate(bars.items()):
        at = TOP + STEP * number
        color = "#2f81f7" if name in ours else "#848d97"
        low, end, high = (
            x(value) for value in (min(spread.values), spread.median, max(spread.values))
        )
        paint, end_of_text = f'fill="{color}"', f'x="{LEFT - 8}" y="{at + 14}" text-anchor="end"'
        box = f'x="{LEFT}" y="{at + 2}" width="{end - LEFT:.1f}" height="16"'
        beside = f'x="{max(high, end) + 6:.1f}" y="{at + 14}"'
        parts += [
            f"<text {end_of_text} {paint}>{name}</text>",
            f'<rect {box} {paint} fill-opacity="0.75"/>',
            f'<path d="M{low:.1f} {at + 10}H{high:.1f}" stroke="{color}" stroke-width="1.5"/>',
            f"<text {beside} {paint}>{spread.median:.3g}</text>",
        ]
    return "\n".join([*parts, "</svg>", ""])


def print_all(results: Results) -> int:
    """Print what there is; 1 when a `must` is missed, 0 when all that was measured is met."""
    missing = {"http", "chat", "events", "memory", "start"} - results.keys()
    if missing:
        print(f"not measured yet: {', '.join(sorted(missing))}")
        return 0
    for name in ("conditions", "http", "fresh", "chat", "events", "start", "promises"):
        print(f"\n{SECTIONS[name](results)}")
    missed = [promise for promise in PROMISES if promise.met(promise.measure(results)) == "MISSED"]
    print(f"\n{len(PROMISES) - len(missed)} of {len(PROMISES)} met")
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    results = json.loads(given.results.read_text())
    if given.write:
        write(results)
    return print_all(results)


if __name__ == "__main__":
    sys.exit(main())
