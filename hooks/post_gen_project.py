"""Give the new service a secret for development, and say what to do next; safe to run again."""

import contextlib
import json
import os
import secrets

ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")

try:
    # Readable by its owner alone; a secret that is there already stays.
    with open(os.open(".env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as env:
        env.write(f"APP_JWT_SECRET={secrets.token_hex(32)}\n")
except FileExistsError:
    pass

for folder in (".github/workflows", ".github"):
    with contextlib.suppress(OSError):  # not empty: there is continuous integration
        os.rmdir(folder)

print(
    f"""
Your service is in {ANSWERS["project_slug"]}/. Next:

    cd {ANSWERS["project_slug"]}
    make test     # installs what is locked, then runs the tests
    make run      # answers on http://127.0.0.1:8080
    make          # lists the other commands; README.md has each without make
"""
)
