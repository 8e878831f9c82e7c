"""aiohttp by itself, the floor: no middleware, no token, no model, no log; it is not the same work.

The relayed call is what a handler with one shared session does at the least.
"""

from collections.abc import AsyncGenerator

from aiohttp import ClientSession, web
from parts import MESSAGES, PORT, RATES, UPSTREAM

SESSION = web.AppKey("session", ClientSession)
FIXED = (
    b'{"id":"1795254408387-00000001","room":"lobby","author":"bench","text":"%b",'
    b'"sent_at":"2026-11-21T09:46:48.387870Z"}' % (b"x" * 250)
)


async def send(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(status=201, body=FIXED, content_type="application/json")


async def page(_: web.Request) -> web.Response:
    return web.Response(body=b'{"items":[%b],"next":null}' % FIXED, content_type="application/json")


async def rate(request: web.Request) -> web.Response:
    url = f"{UPSTREAM}/rates/{request.match_info['currency']}"
    async with request.app[SESSION].get(url) as response:
        return web.Response(body=await response.read(), content_type="application/json")


async def session(app: web.Application) -> AsyncGenerator[None]:
    async with ClientSession() as app[SESSION]:
        yield


app = web.Application()
app.cleanup_ctx.append(session)
app.add_routes([web.post(MESSAGES, send), web.get(MESSAGES, page), web.get(RATES, rate)])

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=PORT, access_log=None, print=None)
