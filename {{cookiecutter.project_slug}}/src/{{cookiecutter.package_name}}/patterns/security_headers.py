"""Security headers on every answer of the application: errors, redirects and handshakes too.

Headers set after `await handler(request)` are missing from raised errors and come too late for
streams; `on_response_prepare` is the one place that sees them all.

Wiring::

    app.on_response_prepare.append(security_headers())

Needs: aiohttp>=3.14.4
Order: an `on_response_prepare` callback; a header that the handler has set is left as it is.
Not: HSTS, which belongs to whoever ends TLS; nor the parser's own 400s, which no callback sees.
"""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import hdrs, web
from multidict import istr

__all__ = ["API_HEADERS", "security_headers"]

# OWASP REST Security Cheat Sheet: an API answers data, so nothing in it may be run or framed.
API_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def security_headers(
    headers: Mapping[str, str] = API_HEADERS,
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Give every answer these headers, unless its handler chose a value of its own.

    A page of HTML brings its own `Content-Security-Policy`; the default forbids everything.
    """
    folded = [(istr(name), value) for name, value in headers.items()]  # half the cost of str

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        present = response.headers
        present.popall(hdrs.SERVER, None)  # aiohttp's own names its and Python's version
        for name, value in folded:
            present.setdefault(name, value)

    return add
