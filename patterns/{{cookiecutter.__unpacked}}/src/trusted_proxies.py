"""Trusted proxies: who the client is, believed only as far as proxies of ours have written it.

Behind a proxy `request.remote` is the proxy and the scheme is `http`. The usual cure, the leftmost
address of `X-Forwarded-For`, is whatever the client chose to send.

Wiring::

    app.middlewares.insert(0, trusted_proxies(["10.0.0.0/8", "fd00::/8"]))

Needs: aiohttp>=3.14.4
Order: outermost, before anything looks at `request.remote`, `.scheme`, `.url` or reads the body.
Not: the PROXY protocol, nor proxies that hide addresses (`for=unknown`), which are refused. Only
    one family of headers is read: a proxy that writes one passes the other on as the client sent
    it. The proxies must set the scheme's header themselves, for the same reason.
"""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal, NamedTuple

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

__all__ = ["trusted_proxies"]

Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  # RFC 9110, section 5.6.2
PAIR = re.compile(rf'\s*({TOKEN})=(?:({TOKEN})|"((?:[^"\\]|\\.)*)")\s*([;,]|$)')
NODE = re.compile(r"(?:\[([^\]]+)\]|([^:]+))(?::\d{1,5})?")
HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")


class Hop(NamedTuple):
    """What one proxy says of whom it was called by, and how."""

    client: str
    scheme: str | None
    host: str | None


def trusted_proxies(
    networks: Iterable[str],
    *,
    header: Literal["X-Forwarded-For", "Forwarded"] = "X-Forwarded-For",
    host: bool = False,
) -> Middleware:
    """Give handlers a request with the client's `remote` and `scheme`, and with `host` its `host`.

    From the right, every address of `networks` is a proxy of ours, and the first that is not is
    the client; what stands left of it was sent by the client and is never looked at. The name
    `unix` trusts a Unix socket. With `X-Forwarded-For` go `X-Forwarded-Proto` and `-Host`;
    `Forwarded` (RFC 7239) has all in one. From any other peer the headers mean nothing.

    Raises ValueError for what is no network; 400 when a trusted proxy's headers are malformed.
    """
    listed = set(networks)
    unix = "unix" in listed
    trusted = [ip_network(each) for each in listed - {"unix"}]
    hops = _forwarded if header == "Forwarded" else _x_forwarded

    @web.middleware
    async def believe(request: web.Request, handler: Handler) -> web.StreamResponse:
        peer = request.remote
        if not (_is_trusted(_address(peer), trusted) if peer else unix):
            return await handler(request)
        chosen: Hop | None = None
        for hop in hops(request):
            chosen = hop._replace(client=str(address := _node(hop.client)))
            if not _is_trusted(address, trusted):
                break
        if chosen is None:
            return await handler(request)
        return await _handle_as(request, handler, chosen, host=host)

    return believe


async def _handle_as(
    request: web.Request, handler: Handler, hop: Hop, *, host: bool
) -> web.StreamResponse:
    if hop.scheme not in {"http", "https", None}:
        raise _malformed()
    named = hop.host if host and hop.host else request.host
    if named != request.host and not HOST.fullmatch(named):
        raise _malformed()
    clone = request.clone(remote=hop.client, scheme=hop.scheme or request.scheme, host=named)
    try:
        return await handler(clone)
    finally:
        # A clone's keys are its own, while `on_response_prepare` and the access log are given the
        # request that aiohttp knows: without this they would see no request id of the handler's.
        request.update(clone.items())


def _x_forwarded(request: web.Request) -> Iterable[Hop]:
    """From the right. A proxy appends to `-For`; the others it appends to as well, or replaces."""
    clients = _values(request, hdrs.X_FORWARDED_FOR)
    schemes = _values(request, hdrs.X_FORWARDED_PROTO)
    hosts = _values(request, hdrs.X_FORWARDED_HOST)
    for number, client in enumerate(reversed(clients), 1):
        scheme, host = (
            values[-min(number, len(values))] if values else None for values in (schemes, hosts)
        )
        yield Hop(client, scheme and scheme.lower(), host)


def _forwarded(request: web.Request) -> Iterable[Hop]:
    text = ",".join(request.headers.getall(hdrs.FORWARDED, []))
    hops: list[dict[str, str]] = [{}]
    at = 0
    while at < len(text):
        if (pair := PAIR.match(text, at)) is None:
            raise _malformed()
        name, token, quoted, end = pair.groups()
        if name.lower() in hops[-1]:
            raise _malformed()  # RFC 7239, section 4: each parameter once
        hops[-1][name.lower()] = token or re.sub(r"\\(.)", r"\1", quoted or "")
        at = pair.end()
        if end == ",":
            hops.append({})
    for hop in reversed(hops if text else []):
        yield Hop(hop.get("for", ""), hop.get("proto", "").lower() or None, hop.get("host"))


def _values(request: web.Request, name: str) -> list[str]:
    lines = ",".join(request.headers.getall(name, []))
    return [value.strip() for value in lines.split(",")] if lines else []


def _node(text: str) -> Address:
    """An address with or without a port; IPv6 in brackets, or bare as `X-Forwarded-For` has it."""
    node = NODE.fullmatch(text)
    address = _address((node[1] or node[2]) if node else text)
    if address is None:
        raise _malformed()
    return address


def _address(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address  # a socket for both shows IPv4 peers as ::ffff:a.b.c.d


def _is_trusted(address: Address | None, trusted: Networks) -> bool:
    return address is not None and any(address in network for network in trusted)


def _malformed() -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text="The headers of the proxy cannot be understood.")
