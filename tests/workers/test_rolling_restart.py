"""Four workers behind one port are, to clients, one service that never goes away."""

import asyncio
import hashlib
import os
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Bake, Baked
from rolling import Size, redis, rolling_restart, running

UV = Path(sys.executable).with_name("uv")
SMALL = Size(getting=10, posting=10, streams=12, rooms=3, pause=0.2)


@pytest.fixture(scope="module")
def installed(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> tuple[Baked, Path]:
    """A service with Redis, and the interpreter of its environment."""
    baked = bake(fresh=True, redis=True)
    lock = hashlib.sha256(baked.read("requirements/dev.txt").encode()).hexdigest()[:8]
    venv = ROOT / "build" / f"service-workers-{lock}"
    bin_ = tmp_path_factory.mktemp("bin")
    (bin_ / "uv").symlink_to(UV)
    path = f"{bin_}{os.pathsep}{os.environ['PATH']}"
    done = baked.run("make", f"VENV={venv}", "install", PATH=path, PYTHON=sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    return baked, venv / "bin" / "python"


def test_a_rolling_restart_fails_no_request_and_every_stream_resumes(
    installed: tuple[Baked, Path], tmp_path: Path
) -> None:
    service, python = installed

    async def restart() -> None:
        async with (
            redis(tmp_path) as url,
            running(service.path, python, 4, url, APP_DRAIN_DELAY="2") as workers,
        ):
            load, _ = await rolling_restart(workers, SMALL)
        assert load.failed == []
        assert load.wrong() == []
        assert min(load.outcomes[kind] for kind in (("get", 200), ("post", 201))) > 100
        # Each worker held some of the streams; none stayed with a worker that was restarted.
        assert sum(stream.returned for stream in load.streams) >= len(load.streams)

    asyncio.run(restart())


def test_several_workers_without_redis_are_refused_before_they_start(
    installed: tuple[Baked, Path],
) -> None:
    service, python = installed
    done = service.run("make", f"VENV={python.parents[1]}", "run", "WORKERS=4")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("APP_")]
    assert line.startswith("APP_LISTEN_FD: several workers cannot share what is in memory")
    assert "APP_REDIS_URL" in line
    assert "supervisord" not in done.stdout


def test_a_service_for_one_process_says_so_when_it_is_asked_for_more(bake: Bake) -> None:
    done = bake().run("make", "run", "WORKERS=4", "--old-file=.venv/.installed")
    assert done.returncode != 0
    assert "WORKERS=4: events are kept in the memory of one process" in done.stderr
