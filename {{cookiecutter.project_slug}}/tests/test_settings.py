import os
from pathlib import Path

import pytest

from {{cookiecutter.package_name}}.settings import Settings, SettingsError, load_settings

SECRET = "c0ffee" * 4 + "0123456789abcdef"
PROD = {"APP_JWT_SECRET": SECRET, "APP_JWT_ISSUER": "https://id.test", "APP_JWT_AUDIENCE": "api"}


@pytest.fixture(autouse=True)
def only_these_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test begins in an empty folder, with no `APP_` variable set."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("APP_")]:
        monkeypatch.delenv(name)


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def problems(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        settings(monkeypatch, **variables)
    return caught.value.problems


def test_production_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, **PROD)
    assert (found.env, found.host, found.port) == ("prod", "0.0.0.0", 8080)
    assert (found.docs, found.log_format, found.drain_delay) == (False, "json", 5)
    assert (found.max_concurrency, found.max_streams) == (1000, 10_000)


def test_development_needs_nothing_but_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, APP_ENV="dev")
    assert (found.host, found.docs, found.log_format) == ("127.0.0.1", True, "console")
    assert (found.drain_delay, found.jwt_issuer) == (0, "development")


def test_a_secret_made_in_development_is_new_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (settings(monkeypatch, APP_ENV="dev").jwt_secret for _ in range(2))
    assert first.get_secret_value() != second.get_secret_value()


def test_a_fixed_limit_has_a_lower_default(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, **PROD, APP_ADAPTIVE_CONCURRENCY="false")
    assert found.max_concurrency == 100


def test_settings_cannot_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, **PROD)
    with pytest.raises(ValueError, match="frozen"):
        found.port = 1


def test_the_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, **PROD)
    assert SECRET not in f"{found!r} {found} {found.model_dump_json()}"


def test_all_that_production_lacks_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch) == [
        "APP_JWT_SECRET: required, unless APP_JWT_JWKS_URL is set",
        "APP_JWT_ISSUER: required when APP_ENV is prod",
        "APP_JWT_AUDIENCE: required when APP_ENV is prod",
    ]


@pytest.mark.parametrize("env", ["dev", "prod"])
@pytest.mark.parametrize(
    "weak",
    [
        "tiny",
        "x" * 40,
        "please-change-me-please-change-me-please",
        "your-256-bit-secret-your-256-bit-secret",
        "a-string-secret-at-least-256-bits-long",
        "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    ],
)
def test_weak_and_well_known_secrets_are_refused_everywhere(
    monkeypatch: pytest.MonkeyPatch, env: str, weak: str
) -> None:
    (problem,) = problems(monkeypatch, **PROD | {"APP_ENV": env, "APP_JWT_SECRET": weak})
    assert problem.startswith("APP_JWT_SECRET: ")
    assert weak not in problem


def test_keys_of_an_issuer_make_the_secret_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {k: v for k, v in PROD.items() if k != "APP_JWT_SECRET"}
    found = settings(monkeypatch, **given, APP_JWT_JWKS_URL="https://id.test/jwks.json")
    assert str(found.jwt_jwks_url) == "https://id.test/jwks.json"


def test_keys_are_not_fetched_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems(monkeypatch, **PROD, APP_JWT_JWKS_URL="http://id.test/jwks.json")
    assert problem.startswith("APP_JWT_JWKS_URL: ")


def test_a_bad_key_url_is_one_problem_and_not_two(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {k: v for k, v in PROD.items() if k != "APP_JWT_SECRET"}
    found = problems(monkeypatch, **given, APP_JWT_JWKS_URL="http://id.test/jwks.json")
    assert [line.split(":")[0] for line in found] == ["APP_JWT_JWKS_URL"]


def test_a_typo_is_refused_with_what_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, **PROD, APP_PROT="80") == [
        "APP_PROT: no such setting; did you mean APP_PORT?"
    ]


def test_an_unknown_name_like_no_other_is_refused_without_a_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert problems(monkeypatch, **PROD, APP_QQQQQQQQ="1") == ["APP_QQQQQQQQ: no such setting"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("APP_ENV", "production"),
        ("APP_PORT", "65536"),
        ("APP_PORT", "tcp://10.0.0.1:80"),
        ("APP_BODY_TIMEOUT", "nan"),
        ("APP_SHUTDOWN_TIMEOUT", "0"),
        ("APP_MAX_BODY_BYTES", "-1"),
        ("APP_JWT_LEEWAY", "61"),
        ("APP_LOG_LEVEL", "loud"),
        ("APP_ALLOWED_ORIGINS", "*"),
        ("APP_ALLOWED_ORIGINS", "https://a.test/"),
        ("APP_ALLOWED_ORIGINS", "https://a.test,null"),
    ],
)
def test_a_bad_value_is_one_line_that_begins_with_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    (problem,) = problems(monkeypatch, **PROD | {name: value})
    assert problem.startswith(f"{name}: ")
    assert "\n" not in problem


def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    given = "https://a.test, http://localhost:3000"
    found = settings(monkeypatch, **PROD, APP_ALLOWED_ORIGINS=given)
    assert found.allowed_origins == {"https://a.test", "http://localhost:3000"}


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, **PROD, APP_PORT="").port == 8080


def test_the_env_file_is_read_in_development_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("APP_PORT=9999\nOTHER=1\n")
    assert settings(monkeypatch, **PROD).port == 8080
    assert settings(monkeypatch, APP_ENV="dev").port == 9999


def test_the_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("APP_PORT=9999\n")
    assert settings(monkeypatch, APP_ENV="dev", APP_PORT="7777").port == 7777


def test_a_typo_in_the_env_file_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("APP_PROT=9999\n")
    assert problems(monkeypatch, APP_ENV="dev") == [
        "APP_PROT: no such setting; did you mean APP_PORT?"
    ]


def test_a_secret_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("secret").write_text(SECRET + "\n")
    given = {k: v for k, v in PROD.items() if k != "APP_JWT_SECRET"}
    found = settings(monkeypatch, **given, APP_JWT_SECRET_FILE="secret")
    assert found.jwt_secret.get_secret_value() == SECRET


def test_a_secret_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems(monkeypatch, **PROD, APP_JWT_SECRET_FILE="secret")
    assert problem.startswith("APP_JWT_SECRET_FILE: ")


def test_a_secret_file_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {k: v for k, v in PROD.items() if k != "APP_JWT_SECRET"}
    found = problems(monkeypatch, **given, APP_JWT_SECRET_FILE="nowhere")
    assert found[0] == "APP_JWT_SECRET_FILE: cannot be read (FileNotFoundError)"
