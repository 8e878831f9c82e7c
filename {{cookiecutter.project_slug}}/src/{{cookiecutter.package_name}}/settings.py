"""Settings: one frozen model, read once at start and passed on; no module imports its values.

Every variable begins with `APP_`; in development `.env` is read too. A secret may come from a file
that `APP_<NAME>_FILE` names, as Docker and Kubernetes mount them.
"""

import difflib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import Field, HttpUrl, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict
from yarl import URL

from .api.settings import ApiSettings
from .events import EventSettings

__all__ = ["Settings", "SettingsError", "load_settings"]

PREFIX = "APP_"
PYDANTIC = "Value error, "  # what pydantic puts before the text of our own checks
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
MIN_SECRET_BYTES = 32  # RFC 7518, section 3.2: a key of the size of the hash
# Pieces of the keys that tutorials and templates print: anybody can sign with those.
WELL_KNOWN = (
    "change-me", "change_me", "changeme", "changethis", "example", "insecure", "password",
    "your-256-bit", "at-least-256-bits", "secret-key", "secret_key", "my-secret", "supersecret",
    "09d25e094faa6ca2556c818166b7a956",
)  # fmt: skip

Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Delay = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]


class SettingsError(Exception):
    """The environment is wrong; `problems` holds one line each, beginning with the variable."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def by_env(*, dev: object, prod: object) -> Any:
    """A default that depends on `APP_ENV`; untyped, as pydantic's own `Field` is."""
    return Field(default_factory=lambda data: dev if data["env"] == "dev" else prod)


class Settings(ApiSettings, EventSettings):
    """The whole configuration; times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True
    )

    env: Literal["dev", "prod"] = "prod"
    host: str = by_env(dev="127.0.0.1", prod="0.0.0.0")
    port: Port = 8080
    admin_port: Port | None = None
    docs: bool = by_env(dev=True, prod=False)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = by_env(dev="console", prod="json")

    jwt_jwks_url: HttpUrl | None = None
    # Signs tokens (HS256) unless keys come from an issuer, and stream tickets in any case.
    jwt_secret: SecretStr = Field(SecretStr(""), validate_default=True)
    jwt_issuer: str = Field("", validate_default=True)
    jwt_audience: str = Field("", validate_default=True)
    jwt_leeway: Annotated[float, Field(ge=0, le=60)] = 10
    allowed_origins: Annotated[frozenset[str], NoDecode] = frozenset()

    adaptive_concurrency: bool = True
    max_concurrency: Count = Field(
        default_factory=lambda data: 1000 if data["adaptive_concurrency"] else 100
    )
    max_streams: Count = 10_000
    max_body_bytes: Count = 1024**2
    body_timeout: Seconds = 10
    upstream_timeout: Seconds = 5
    drain_delay: Delay = by_env(dev=0, prod=5)
    shutdown_timeout: Seconds = 10

    @field_validator("jwt_jwks_url")
    @classmethod
    def _https(cls, url: HttpUrl | None) -> HttpUrl | None:
        if url is not None and url.scheme != "https" and url.host not in LOOPBACK:
            raise ValueError("keys fetched without https could be anybody's; use an https URL")
        return url

    @field_validator("jwt_secret")
    @classmethod
    def _strong(cls, secret: SecretStr, info: ValidationInfo) -> SecretStr:
        value = secret.get_secret_value()
        if not value:
            if info.data.get("jwt_jwks_url", ...) is None and info.data.get("env") == "prod":
                raise ValueError("required, unless APP_JWT_JWKS_URL is set")
            return SecretStr(secrets.token_hex(MIN_SECRET_BYTES))  # good for this process alone
        if len(value.encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"shorter than {MIN_SECRET_BYTES} bytes; use `openssl rand -hex 32`")
        if any(piece in value.lower() for piece in WELL_KNOWN) or len(set(value)) < 8:
            raise ValueError("an example or well-known value; use `openssl rand -hex 32`")
        return secret

    @field_validator("jwt_issuer", "jwt_audience")
    @classmethod
    def _given(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.data.get("env") == "prod":
            raise ValueError("required when APP_ENV is prod")
        return value or "development"

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [item.strip() for item in value.split(",")] if isinstance(value, str) else value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: frozenset[str]) -> frozenset[str]:
        for origin in origins:
            url = URL(origin)
            if url.scheme not in {"http", "https"} or str(url.origin()) != origin:
                raise ValueError("each origin is scheme://host or scheme://host:port, no path")
        return origins


SECRETS = [n for n, field in Settings.model_fields.items() if "Secret" in str(field.annotation)]


def load_settings(env_file: Path = Path(".env")) -> Settings:
    """Read the environment, below it `env_file` when `APP_ENV` is `dev`, and check all at once.

    Raises SettingsError for values out of range, missing ones, and `APP_` names nobody knows.
    """
    given = {name.upper(): value for name, value in os.environ.items()}
    dotenv = env_file if given.get(f"{PREFIX}ENV") == "dev" else None
    if dotenv is not None:
        given = {k.upper(): v or "" for k, v in dotenv_values(dotenv).items()} | given
    problems = _unknown(given)
    from_files: dict[str, Any] = {}
    for name in SECRETS:
        try:
            from_files |= _read_file(name, given)
        except SettingsError as error:
            problems += error.problems
    try:
        settings = Settings(_env_file=dotenv, **from_files)  # type: ignore[call-arg]  # pydantic-settings' own
    except ValidationError as error:
        # One bad value keeps later defaults from being made; those are consequences, not problems.
        found = [e for e in error.errors() if e["type"] != "default_factory_not_called"]
        problems += [f"{_variable(e['loc'])}: {e['msg'].removeprefix(PYDANTIC)}" for e in found]
        raise SettingsError(problems) from None
    if problems:
        raise SettingsError(problems)
    return settings


def _variable(loc: tuple[int | str, ...]) -> str:
    return f"{PREFIX}{loc[0]}".upper()


def _unknown(given: Mapping[str, str]) -> list[str]:
    known = [_variable((name,)) for name in Settings.model_fields]
    known += [f"{_variable((name,))}_FILE" for name in SECRETS]
    problems: list[str] = []
    for name in sorted(given):
        if name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            problems.append(f"{name}: no such setting{hint}")
    return problems


def _read_file(name: str, given: Mapping[str, str]) -> dict[str, str]:
    variable = _variable((name,))
    path = given.get(f"{variable}_FILE")
    if not path:
        return {}
    if given.get(variable):
        raise SettingsError([f"{variable}_FILE: {variable} is set as well; set one of them"])
    try:
        return {name: Path(path).read_text().strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{variable}_FILE: cannot be read ({type(error).__name__})"]) from None
