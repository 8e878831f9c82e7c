import pytest

from {{cookiecutter.package_name}}.patterns.jwt_auth import required_scopes
from {{cookiecutter.package_name}}.patterns.openapi import routes_of

from .conftest import Service, Start


async def test_the_document_and_the_router_name_the_same_routes(service: Service) -> None:
    async with service.session.get("/openapi.json") as response:
        document = await response.json()
    described = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert described == {(method, path) for method, path, _ in routes_of(service.app)}


async def test_the_document_says_which_token_a_route_needs(service: Service) -> None:
    async with service.session.get("/openapi.json") as response:
        document = await response.json()
    for method, path, handler in routes_of(service.app):
        needed = required_scopes(handler, method)
        security = [] if needed is None else [{"bearer": sorted(needed)}]
        assert document["paths"][path][method.lower()]["security"] == security


async def test_every_operation_says_what_it_does(service: Service) -> None:
    async with service.session.get("/openapi.json") as response:
        document = await response.json()
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["summary"]


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_production_has_documentation_only_when_it_is_asked_for(
    start: Start, path: str
) -> None:
    prod = {"env": "prod", "jwt_issuer": "i", "jwt_audience": "a"}
    secret = "0123456789abcdef" * 4
    for docs, status in ((None, 404), (True, 200)):
        changes = {} if docs is None else {"docs": docs}
        service = await start(**prod, jwt_secret=secret, **changes)
        async with service.session.get(path) as response:
            assert response.status == status
