"""Bake services into temporary folders; nothing here touches the home of whoever runs the tests."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from cookiecutter.main import cookiecutter

ROOT = Path(__file__).resolve().parents[1]
LICENSES = ("MIT", "Apache-2.0", "BSD-3-Clause", "none")
CACHES = {
    *("build", "demo", "__pycache__", ".venv", ".git"),
    *(".import_linter_cache", ".mypy_cache", ".pytest_cache", ".ruff_cache"),
}


@dataclass(frozen=True)
class Baked:
    """A generated service."""

    path: Path

    def read(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def tree(self) -> dict[str, bytes]:
        """Every file by its path, but for the development secret and what running leaves behind."""
        return {
            file.relative_to(self.path).as_posix(): file.read_bytes()
            for file in sorted(self.path.rglob("*"))
            if file.is_file()
            and file.name != ".env"
            and CACHES.isdisjoint(file.relative_to(self.path).parts)
        }

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the service's folder, with `env` over the environment."""
        return subprocess.run(
            command,
            cwd=self.path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )


Bake = Callable[..., Baked]


def literally(text: str) -> str:
    """An answer that stays `text`: cookiecutter renders the answers of a command line as Jinja."""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"


@pytest.fixture(scope="session", autouse=True)
def private_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Cookiecutter's clones and replays go to a temporary folder, for commands too."""
    home = tmp_path_factory.mktemp("home")
    config = home / "config.yaml"
    config.write_text(f"cookiecutters_dir: {home}/clones\nreplay_dir: {home}/replay\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COOKIECUTTER_CONFIG", str(config))
        patch.setenv("COOKIECUTTER_REPLAY_DIR", str(home / "replay"))
        for name in ("MAKEFLAGS", "MAKELEVEL", "PYTHONPATH", "VENV"):
            patch.delenv(name, raising=False)
        yield


def template_files() -> list[str]:
    """What a clone would hold: by git where there is a repository, else all but what was made."""
    if (ROOT / ".git").exists():
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
        names = [name for name in listed.stdout.split("\0") if name]
    else:
        paths = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        names = [str(path) for path in paths if CACHES.isdisjoint(path.parts)]
    return sorted(name for name in names if (ROOT / name).is_file())


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a clone would give it, without what running its tools leaves behind."""
    folder = tmp_path_factory.mktemp("clone") / "aiohttp-template"
    for name in template_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


@pytest.fixture(scope="session")
def bake(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Bake:
    """Generate a service from answers; the same answers are generated once."""
    baked: dict[str, Baked] = {}

    def make(*, fresh: bool = False, hooks: bool = True, **answers: object) -> Baked:
        key = json.dumps([hooks, answers], sort_keys=True)
        if fresh or key not in baked:
            path = generate(template, tmp_path_factory.mktemp("bake"), answers, hooks=hooks)
            if fresh:
                return Baked(path)
            baked[key] = Baked(path)
        return baked[key]

    return make


def generate(
    template: Path, out: Path, answers: Mapping[str, object], *, hooks: bool = True
) -> Path:
    """One generation into `out`, in this process."""
    return Path(
        cookiecutter(
            str(template),
            no_input=True,
            extra_context=dict(answers),
            output_dir=str(out),
            accept_hooks=hooks,
        )
    )
