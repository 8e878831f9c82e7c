import asyncio

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


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent(service: Service) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.url.port)
    head = f"POST {URL} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.token()}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 9999999\r\n"
    writer.write(f"{head}Expect: 100-continue\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()
