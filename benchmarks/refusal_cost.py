"""What a refusal costs: CPU of the service's 503, as a share of bare aiohttp's trivial answer.

    python benchmarks/refusal_cost.py PATH_OF_GENERATED_SERVICE

The service has a limit of 1 and one request that waits, so its whole stack refuses all others. Both
servers stand by and are visited in turn, five times; the median of the five ratios counts.
"""

import asyncio
import os
import sys
from pathlib import Path
from statistics import median

from open_loop import capacity
from overload import Server

BAR = 1.2
ROUNDS = 5


async def cost(server: Server) -> float:
    """CPU seconds an answer."""
    before = server.cpu()
    rate = await capacity("127.0.0.1", server.port, "/light", 16, 2.0)
    return (server.cpu() - before) / (rate * 2.3)  # it warms up for 0.3 seconds


async def main() -> None:
    service = Path(sys.argv[1])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[1:] or cores))
    refusing, bare = (Server(service, limit, "asyncio", cores[0]) for limit in ("1", "bare"))
    try:
        _, holder = await asyncio.open_connection("127.0.0.1", refusing.port)
        holder.write(b"GET /wait/600000 HTTP/1.1\r\nHost: bench\r\n\r\n")
        await asyncio.sleep(0.1)
        ratios: list[float] = []
        for _ in range(ROUNDS):
            refusal, answer = await cost(refusing), await cost(bare)
            ratios.append(refusal / answer)
            print(f"refusal {refusal * 1e6:5.1f} us, bare answer {answer * 1e6:5.1f} us")
        ratio = median(ratios)
        print(f"ratio {ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f}), at most {BAR}")
    finally:
        refusing.stop()
        bare.stop()
    sys.exit(ratio > BAR)


if __name__ == "__main__":
    asyncio.run(main())
