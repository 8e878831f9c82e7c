# Circulates, and is wrong: ../docs_page.md says how. Not for copying.

from aiohttp import web

PAGE = """<!doctype html><title>API</title><div id="ui"></div>
<link rel="stylesheet" href="https://cdn.example/swagger-ui/swagger-ui.css">
<script src="https://cdn.example/swagger-ui/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "/openapi.json", dom_id: "#ui"})</script>"""


async def docs(request):
    return web.Response(text=PAGE, content_type="text/html")
