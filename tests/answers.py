"""The combinations of answers, all of them and a few that show every pair."""

import itertools
import os

CHOICES: dict[str, tuple[object, ...]] = {
    "license": ("MIT", "Apache-2.0", "BSD-3-Clause", "none"),
    "example_api": (True, False),
    "redis": (False, True),
    "docker": (True, False),
    "ci": ("github", "none"),
}
EVERY = [dict(zip(CHOICES, row, strict=True)) for row in itertools.product(*CHOICES.values())]
# Eight rows in which any two answers occur together, the defaults first.
PAIRS = [
    dict(zip(CHOICES, row, strict=True))
    for row in (
        ("MIT", True, False, True, "github"),
        ("MIT", False, True, False, "none"),
        ("Apache-2.0", True, True, True, "none"),
        ("Apache-2.0", False, False, False, "github"),
        ("BSD-3-Clause", True, False, False, "none"),
        ("BSD-3-Clause", False, True, True, "github"),
        ("none", True, True, False, "github"),
        ("none", False, False, True, "none"),
    )
]
# `make combinations` asks for all of them.
COMBINATIONS = EVERY if os.environ.get("EVERY") else PAIRS


def title(answers: dict[str, object]) -> str:
    """A combination as the name of a test."""
    return "-".join(
        answer if isinstance(answer, str) else f"{'' if answer else 'no_'}{question}"
        for question, answer in answers.items()
    )
