# Circulates, and is wrong: ../json_logging.md says how. Not for copying.

import logging

FORMAT = '{"time": "%(asctime)s", "level": "%(levelname)s", "message": "%(message)s"}'


def configure(stream):
    logging.basicConfig(stream=stream, format=FORMAT, level=logging.INFO, force=True)
