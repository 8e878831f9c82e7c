from {{cookiecutter.package_name}}.app import create_app
from {{cookiecutter.package_name}}.settings import Settings


def test_the_middlewares_are_in_their_order() -> None:
    app = create_app(Settings(env="dev"), lambda _: None)
    names = [f"{m.__module__.rsplit('.', 1)[-1]}.{m.__name__}" for m in app.middlewares]
    assert names == [
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
    settings = Settings(env="dev", jwt_jwks_url="https://id.test/jwks")
    contexts = create_app(settings, lambda _: None).cleanup_ctx
    modules = [context.__module__.rsplit(".", 1)[-1] for context in contexts]
    assert modules[:3] == ["loop_watch", "client_session", "jwks"]
