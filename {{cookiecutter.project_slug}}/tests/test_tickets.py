import pytest

from .conftest import Service

URL = "/api/v1/stream-tickets"


async def test_any_valid_token_buys_a_ticket(service: Service) -> None:
    body = {"path": "/api/v1/somewhere"}
    async with service.session.post(URL, json=body, headers=service.bearer()) as response:
        assert response.status == 200
        assert (await response.json())["expires_in"] == 30


@pytest.mark.parametrize("path", ["", "relative", "/with a space", "/" + "x" * 600, 7])
async def test_a_ticket_is_for_a_path(service: Service, path: object) -> None:
    body = {"path": path}
    async with service.session.post(URL, json=body, headers=service.bearer()) as response:
        assert response.status == 422
