"""Stream tickets: how a browser, which cannot set headers on a stream, opens one all the same."""

from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from ..patterns.jwt_auth import CLAIMS, scope
from ..patterns.request_parts import Body
from ..patterns.typed_handlers import typed
from .keys import TICKETS

__all__ = ["issue_ticket"]

StreamPath = Annotated[str, Field(pattern=r"^/[!-~]*$", max_length=512, examples=["/streams/7"])]


class TicketRequest(BaseModel):
    """The path of the stream to open."""

    model_config = ConfigDict(extra="forbid")

    path: StreamPath


class Ticket(BaseModel):
    """Good once, on that path, for `expires_in` seconds."""

    ticket: str
    expires_in: int


@scope()
@typed
async def issue_ticket(request: web.Request, body: Body[TicketRequest]) -> Ticket:
    """Exchange the token for a ticket that opens one stream.

    Send it as `?ticket=` on that path: a browser cannot set headers when it opens a stream.
    """
    claims, tickets = request[CLAIMS], request.app[TICKETS]
    ticket = tickets.issue(
        sub=claims.sub, scopes=claims.scopes, expires_at=claims.expires_at, path=body.path
    )
    return Ticket(ticket=ticket, expires_in=int(tickets.ttl))
