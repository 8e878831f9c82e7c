"""An application that knows nothing of the shelf, for one pattern at a time to be wired into."""

from aiohttp import web

PRODUCTS = web.AppKey("products", dict[str, int])


async def products(request: web.Request) -> web.Response:
    return web.json_response(request.app[PRODUCTS])


async def order(request: web.Request) -> web.Response:
    asked = await request.json()
    if asked["product"] not in request.app[PRODUCTS]:
        raise web.HTTPNotFound
    return web.json_response({"ordered": asked["product"]}, status=201)


def create_app() -> web.Application:
    app = web.Application()
    app[PRODUCTS] = {"tea": 3, "milk": 1}
    app.router.add_get("/products", products)
    app.router.add_post("/orders", order)
    return app
