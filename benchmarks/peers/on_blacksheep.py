"""BlackSheep: its JWTBearerAuthentication and policies, bound bodies, and its own HTTP client."""

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

from blacksheep import Application, FromJSON, FromQuery, Request, Response, auth, json
from blacksheep.client import ClientSession
from blacksheep.server.authentication.jwt import JWTBearerAuthentication
from essentials.secrets import Secret
from guardpost import Policy
from guardpost.authorization import AuthorizationContext, Requirement
from parts import (
    AUDIENCE,
    ISSUER,
    MESSAGES,
    RATES,
    SECRET,
    UPSTREAM,
    NewMessage,
    Page,
    Rate,
    Rooms,
    json_logger,
    limiter,
    log_request,
    run_uvicorn,
)

Next = Callable[[Request], Awaitable[Response]]
app = Application()
logger, rooms, semaphore = json_logger(), Rooms(), limiter()


class Scope(Requirement):
    def __init__(self, scope: str) -> None:
        self.scope = scope

    def handle(self, context: AuthorizationContext) -> None:
        scopes = context.identity.get("scope") if context.identity else None
        if scopes and self.scope in scopes.split():
            context.succeed(self)


app.use_authentication().add(
    JWTBearerAuthentication(
        valid_audiences=[AUDIENCE],
        valid_issuers=[ISSUER],
        secret_key=Secret(SECRET, direct_value=True),
    )
)
authorization = app.use_authorization()
for name in ("rooms:read", "rooms:write", "rates:read"):
    authorization += Policy(name, Scope(name))


@app.lifespan
async def client() -> AsyncIterator[None]:
    async with ClientSession() as session:
        app.services.register(ClientSession, instance=session)
        yield


async def log(request: Request, handler: Next) -> Response:
    started = time.perf_counter()
    given = request.get_first_header(b"X-Request-ID")
    request_id = given.decode() if given else str(uuid.uuid4())
    response = await handler(request)
    response.add_header(b"X-Request-ID", request_id.encode())
    log_request(logger, request_id, request.method, request.path, response.status, started)
    return response


async def limit(request: Request, handler: Next) -> Response:
    if semaphore.locked():
        return json({"error": "Service Unavailable"}, 503)
    async with semaphore:
        return await handler(request)


app.middlewares.append(log)
app.middlewares.append(limit)


@auth("rooms:write")
@app.router.post(MESSAGES)
async def send(request: Request, room: str, new: FromJSON[NewMessage]) -> Response:
    message = rooms.send(room, request.user.sub, new.value)
    return json(message.model_dump(mode="json"), 201)


@auth("rooms:read")
@app.router.get(MESSAGES)
async def page(room: str, limit: FromQuery[int], after: FromQuery[str | None]) -> Response:
    query = Page(limit=limit.value, after=after.value or "")
    return json(rooms.page(room, query.limit, query.after).model_dump(mode="json"))


@auth("rates:read")
@app.router.get(RATES)
async def rate(currency: str, http: ClientSession) -> Response:
    response = await http.get(f"{UPSTREAM}/rates/{currency}")
    found = Rate.model_validate(await response.json())
    return json(found.model_dump(mode="json"))


if __name__ == "__main__":
    run_uvicorn(app)
