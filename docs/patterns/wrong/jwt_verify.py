# Circulates, and is wrong: ../jwt_verify.md says how. Not for copying.

import jwt

SECRET = "a secret of thirty-two bytes, or more"


async def verify(token):
    return jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_exp": True})
