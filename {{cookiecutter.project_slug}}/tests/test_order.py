from typing import Any

from {{cookiecutter.package_name}}.app import create_app

from .conftest import make_settings


def name(function: Any) -> str:
    return f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}"


def test_the_middlewares_are_in_their_order() -> None:
    app = create_app(make_settings(), lambda _: None)
    assert [name(middleware) for middleware in app.middlewares] == [
        "backpressure.guard",
        "drain.count",
        "request_id.identify",
        "request_log.log",
        "metrics.measure",
        "errors.problems",
        "cors.preflight",
        "jwt_auth.auth",
    ]


def test_the_session_is_there_before_what_needs_it() -> None:
    settings = make_settings(jwt_jwks_url="https://id.test/jwks")
    contexts = create_app(settings, lambda _: None).cleanup_ctx
    assert [name(context).split(".")[0] for context in contexts][:3] == [
        "loop_watch",
        "client_session",
        "jwks",
    ]
