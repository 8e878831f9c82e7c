"""Ask schemathesis whether a running service does what its OpenAPI document says.

    python tests/openapi/schemathesis_run.py PATH_OF_A_GENERATED_SERVICE

Run it with the Python of an environment that has schemathesis and the service's packages. It starts
the service in development mode on a free port, and runs every check in every phase (examples,
coverage, fuzzing, stateful) with 200 examples for each of three seeds, once with a token that has
every scope and once without a token: some ten minutes. `--seeds 4 5` and `--examples 20` change
that. Exit 0 when there is no failure; of what failed the curl command that repeats it is printed.
For the stateful phase, the document that the service gives is completed with links: what POST
creates is read with the GET of the same path. The only exceptions are in schemathesis.toml beside
this file, each with its reason. A 503 with `Retry-After` is documented for every operation:
overload protection may refuse a client this eager.
"""

import argparse
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

CONFIG = Path(__file__).with_name("schemathesis.toml")
SCOPES = "rooms:read rooms:write rates:read"


@contextmanager
def running(service: Path) -> Iterator[tuple[str, str]]:
    """The address of the started service, and a token for it."""
    (app,) = (service / "src").glob("*/app.py")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("APP_")}
    given = {"APP_ENV": "dev", "APP_PORT": str(port), "APP_JWT_SECRET": secrets.token_hex(32)}
    env = clean | given | {"APP_LOG_LEVEL": "error", "PYTHONPATH": str(service / "src")}
    command = [sys.executable, "-m", app.parent.name]
    mint = [*command, "token", "--sub", "schemathesis", "--scope", SCOPES]
    token = subprocess.check_output(mint, env=env, cwd=service, text=True).strip()
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, env=env, cwd=service) as server:
        try:
            _wait(f"{url}/readyz")
            yield url, token
        finally:
            server.terminate()


def _wait(url: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            with urlopen(url, timeout=1):  # noqa: S310  # loopback
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def linked(url: str) -> str:
    """The service's document, with the links that stateful testing follows."""
    with urlopen(f"{url}/openapi.json") as response:  # noqa: S310  # loopback
        document = json.load(response)
    for methods in document["paths"].values():
        created = methods.get("post", {}).get("responses", {}).get("201")
        if created and "get" in methods:
            found = [each["name"] for each in methods["get"]["parameters"] if each["in"] == "path"]
            names = {name: f"$request.path.{name}" for name in found}
            read = {"operationId": methods["get"]["operationId"], "parameters": names}
            created["links"] = {"read": read}
    return json.dumps(document)


def examine(
    url: str, token: str | None, seed: int, examples: int
) -> subprocess.CompletedProcess[str]:
    """One run of schemathesis: every check, every phase."""
    how = ["--checks", "all", "--phases", "examples,coverage,fuzzing,stateful", "--no-color"]
    how += ["--seed", str(seed), "--max-examples", str(examples), "--suppress-health-check", "all"]
    how += ["--request-timeout", "10", *(["-H", f"Authorization: Bearer {token}"] if token else [])]
    run = ["--config-file", str(CONFIG), "run", "openapi.json", "--url", url, *how]
    with tempfile.TemporaryDirectory() as folder:  # where it keeps what it learns about examples
        Path(folder, "openapi.json").write_text(linked(url), encoding="utf-8")
        return subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", *run],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )


def cases(output: str) -> int:
    """How many requests that passed were made for their own sake; 0 when it is not said."""
    found = re.search(r"(\d+) generated, (\d+) passed", output)
    return int(found[2]) if found else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("service", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--examples", type=int, default=200)
    given = parser.parse_args(arguments)
    failed = 0
    with running(given.service.resolve()) as (url, token):
        for seed in given.seeds:
            for name, bearer in (("with a token", token), ("without a token", None)):
                started = time.monotonic()
                done = examine(url, bearer, seed, given.examples)
                failed += done.returncode != 0
                took = f"{cases(done.stdout)} cases passed, {time.monotonic() - started:.0f} s"
                print(f"seed {seed}, {name}: {took}, exit {done.returncode}", flush=True)
                if done.returncode:
                    print(done.stdout, done.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
