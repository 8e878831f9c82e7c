"""The comparison with the peers (`make peers`) still runs, and says what it measured."""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

PEERS = ROOT / "benchmarks" / "peers"
RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
UV = Path(sys.executable).with_name("uv")
HTTP = {
    *("service", "bare", "usual", "starlette", "starlette_tricks", "starlette_features"),
    *("fastapi_popular", "fastapi_best", "litestar", "blacksheep", "sanic", "quart"),
}
ALONE = """
import sys, pathlib, check, fleet
folder = pathlib.Path(sys.argv[1])
nothing = fleet.Baked(folder, pathlib.Path(sys.executable))
with fleet.fleet({"peer": "on_starlette.py"}, nothing, folder) as servers:
    check.same_work(servers["peer"])
"""
AN_ID = "or str(uuid.uuid4())\n"
TWICE = f'{AN_ID}        log_request(self.logger, request_id, "", "", 201, started)\n'


def run(*command: object) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="session")
def python() -> Path:
    """The interpreter that has the peers as they are locked; kept under build/ for the next run."""
    lock = ROOT / "requirements" / "peers.txt"
    key = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:8]
    venv = ROOT / "build" / f"peers-{key}"
    python, ready = venv / "bin" / "python", venv / ".ready"
    if not ready.exists():
        install = ["pip", "install", "--quiet", "--require-hashes", "--requirement", lock]
        for command in (["venv", "--clear", venv], install):
            done = run(UV, *command, "--python", python if command is install else sys.executable)
            assert done.returncode == 0, done.stderr
        ready.touch()
    return python


@pytest.fixture(scope="session")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("report", PEERS / "report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["report"] = module
    spec.loader.exec_module(module)
    return module


def test_every_peer_does_the_same_work_and_every_load_runs(python: Path, tmp_path: Path) -> None:
    output = tmp_path / "peers.json"
    done = run(python, PEERS / "run.py", "--size", "smoke", "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())
    for load in ("post", "get", "relay"):
        assert found["http"][load].keys() == HTTP
        assert all(row[0]["requests"] > 0 for row in found["http"][load].values())
    assert found["http"]["post_fresh"].keys() < HTTP
    assert {"service", "loop", "broadcast", "uvicorn_sansio"} < found["chat"].keys()
    assert found["events"].keys() == {"service", "streaming", "sse_starlette"}
    assert found["memory"].keys() == {"websocket", "events"}
    assert found["start"].keys() == {"service", "parts", "fastapi", "fastapi_popular"}
    assert "of 16 met" in done.stdout


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            ("asgi.py", 'MutableHeaders(scope=message)["X-Request-ID"] = request_id', "pass"),
            "id is",
        ),
        (("asgi.py", "            log_request(", "            ("), "line of log"),
        (("asgi.py", "log_request(self.logger, request_id", 'log_request(self.logger, ""'), "log"),
        (("asgi.py", AN_ID, TWICE), "line of log"),
        (("parts.py", '"require": [', '"verify_signature": False, "require": ['), "token"),
        (("parts.py", 'extra="forbid"', 'extra="ignore"'), "more"),
        (("parts.py", "id=name, room=room", 'id=name, room=""'), "model"),
        (("on_starlette.py", "model_dump_json(), 201", "model_dump_json(), 200"), "created"),
    ],
)
def test_a_peer_that_does_less_is_not_measured(
    change: tuple[str, str, str], complaint: str, python: Path, tmp_path: Path
) -> None:
    file, line, instead = change
    copy = Path(shutil.copytree(PEERS, tmp_path / "peers"))
    source = (copy / file).read_text()
    assert line in source
    (copy / file).write_text(source.replace(line, instead))
    (copy / "alone.py").write_text(ALONE)
    done = run(python, copy / "alone.py", tmp_path)
    assert done.returncode == 1
    assert "does not do the same work" in done.stderr
    assert complaint in done.stderr


def test_a_peer_that_does_the_same_is_measured(python: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(PEERS, tmp_path / "peers"))
    (copy / "alone.py").write_text(ALONE)
    done = run(python, copy / "alone.py", tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_promise_is_judged_by_the_median_of_the_ratios_of_each_round(report: ModuleType) -> None:
    promise = report.PROMISES[0]
    assert promise.most

    def judged(*times: float) -> str:
        rows = {
            "service": [{"cpu_us": 50 * (n + 1) * factor} for n, factor in enumerate(times)],
            "bare": [{"cpu_us": 50.0 * (n + 1)} for n in range(len(times))],
        }
        results = {"http": {"post": rows}}
        return str(promise.met(promise.measure(results)))

    assert judged(1.5, 9.0, 1.6) == "aim met"
    assert judged(1.9, 2.0, 9.0) == "met"
    assert judged(1.0, 2.1, 2.2) == "MISSED"


def test_what_is_published_is_what_was_measured(report: ModuleType) -> None:
    results = json.loads(RESULTS.read_text())
    published = "".join(path.read_text() for path in report.DOCUMENTS)
    for name, section in report.SECTIONS.items():
        assert f"<!-- peers: {name} -->\n{section(results)}\n<!-- / -->" in published, name
    assert all(len(rows) >= 5 for load in results["http"].values() for rows in load.values())
