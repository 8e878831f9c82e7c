# Circulates, and is wrong: ../static_files.md says how. Not for copying.

from aiohttp import web


def add_files(app, folder):
    app.router.add_static("/", folder, show_index=True, follow_symlinks=True)
