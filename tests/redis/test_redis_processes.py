"""Several processes of a generated service around one Redis are, to clients, one service."""

import asyncio
import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Bake
from processes import DURABLE, Process, Redis, outage, resumed, same_order, with_redis

UV = Path(sys.executable).with_name("uv")


@pytest.fixture(scope="module")
def installed(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a service with Redis, and the interpreter of its environment."""
    assert shutil.which("redis-server"), "these tests start a Redis: install redis-server"
    baked = bake(fresh=True, redis=True)
    lock = hashlib.sha256(baked.read("requirements/run.txt").encode()).hexdigest()[:8]
    venv = ROOT / "build" / f"service-redis-{lock}"
    bin_ = tmp_path_factory.mktemp("bin")
    (bin_ / "uv").symlink_to(UV)
    path = f"{bin_}{os.pathsep}{os.environ['PATH']}"
    done = baked.run("make", f"VENV={venv}", "install", PATH=path, PYTHON=sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    return baked.path, venv / "bin" / "python"


@pytest.mark.parametrize("count", [2, 4])
def test_every_client_of_a_room_sees_the_same_in_the_same_order(
    count: int, installed: tuple[Path, Path], tmp_path: Path
) -> None:
    async def check(processes: list[Process], redis: Redis) -> None:
        assert await same_order(processes, rooms=4, clients=16 * count, messages=400) == []

    asyncio.run(with_redis(*installed, count, tmp_path, check))


def test_who_resumes_on_another_process_misses_and_doubles_nothing(
    installed: tuple[Path, Path], tmp_path: Path
) -> None:
    async def check(processes: list[Process], redis: Redis) -> None:
        sent, got = await resumed(processes, cuts=200)
        assert got == sent

    asyncio.run(with_redis(*installed, 3, tmp_path, check))


@pytest.mark.parametrize("kept", [DURABLE, ()], ids=["kept", "forgotten"])
def test_a_redis_that_is_killed_loses_no_confirmed_message_without_a_word(
    kept: tuple[str, ...], installed: tuple[Path, Path], tmp_path: Path
) -> None:
    async def check(processes: list[Process], redis: Redis) -> None:
        told = await outage(
            processes,
            redis,
            lambda: redis.start(*kept),
            rooms=3,
            clients=24,
            messages=1000,
        )
        assert told.refused > 0
        assert told.lost() == []
        assert told.twice() == []
        assert told.resets() == ({0} if kept else {1})
        assert told.recovered < 5
        assert (told.failures, told.slowest < 1) == (0, True), told.slowest

    asyncio.run(with_redis(*installed, 2, tmp_path, check, *kept))
