# Circulates, and is wrong: ../jwks.md says how. Not for copying.

import jwt


def key_source(url):
    client = jwt.PyJWKClient(url)

    async def key_for(token):
        return client.get_signing_key_from_jwt(token).key

    return key_for
