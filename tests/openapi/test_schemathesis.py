"""The running service does what its document says: `make schemathesis` is this at length."""

import pytest
from conftest import Bake

from .schemathesis_run import cases, examine, running


@pytest.mark.parametrize("authenticated", [True, False], ids=["with-token", "without-token"])
def test_the_service_does_what_its_document_says(bake: Bake, authenticated: bool) -> None:
    with running(bake().path) as (url, token):
        done = examine(url, token if authenticated else None, seed=1, examples=20)
    assert done.returncode == 0, done.stdout + done.stderr
    assert cases(done.stdout) > 300, done.stdout
    assert "Stateful (not applicable)" not in done.stdout
