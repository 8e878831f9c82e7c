"""A rolling restart of four workers under load: what their clients see.

    python benchmarks/rolling_restart.py PATH_OF_GENERATED_SERVICE [--quick]

Run it with the Python of the service's environment, the service generated with Redis; it needs
`redis-server` on the PATH and nothing else. supervisord runs the workers as the service's own
`supervisord.conf` says, and `supervisorctl restart` restarts one after the other. No client tries
again. Each promise is a line with its figure and its bar; the exit code is 1 when one is missed.

40 clients open a connection for each request, 40 keep theirs and send messages to 20 rooms; 100
SSE streams resume by `Last-Event-ID`, 100 WebSockets take what they missed from the history.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "workers"))

from clients import check
from rolling import Size, redis, rolling_restart, running

FULL = Size(getting=40, posting=40, streams=100, rooms=20, pause=1.0)
QUICK = Size(getting=10, posting=10, streams=12, rooms=3, pause=0.2)


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer clients")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--delay", default="5", help="APP_DRAIN_DELAY, in seconds")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        async with (
            redis(Path(folder)) as url,
            running(
                given.folder.resolve(),
                Path(sys.executable),
                given.workers,
                url,
                APP_DRAIN_DELAY=given.delay,
            ) as workers,
        ):
            load, took = await rolling_restart(workers, QUICK if given.quick else FULL)
    seen, wrong = load.outcomes, load.wrong()
    requests = seen["get", 200] + seen["post", 201]
    returned = sum(stream.returned for stream in load.streams)
    came = sum(len(stream.got) for stream in load.streams)
    print(f"restart of each worker, until the new one was ready: {[round(s, 1) for s in took]} s")
    print(f"{requests} requests, the slowest {load.slowest * 1000:.0f} ms, {came} events")
    return not all(
        [
            check(
                "requests, handshakes and streams that failed", load.failed, "[]", not load.failed
            ),
            check("... of requests", requests, "> 1000", requests > 1000),
            check(
                "WebSockets closed with 1001", seen["ws end", 1001], "> 0", seen["ws end", 1001] > 0
            ),
            check(
                "streams resumed",
                returned,
                f">= {len(load.streams)}",
                returned >= len(load.streams),
            ),
            check("streams that missed or doubled an event", wrong[:3], "[]", not wrong),
        ]
    )


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
