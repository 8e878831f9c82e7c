"""Draw goodput against load from `results/overload.json` as `docs/images/overload.svg`, and write
the table of the README.

    python benchmarks/plot_overload.py

Plain SVG, drawn by hand, so that it needs no package and changes only where the figures do. Runs of
A1, A2, A5 and A10 give the points; it reads in light and in dark pages.
"""

import json
import math
import re
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "overload.json"
IMAGE = ROOT / "docs" / "images" / "overload.svg"
LOADS = {"A1": 1, "A2": 2, "A5": 5, "A10": 10}
README = ROOT / "README.md"
TABLE = re.compile(r"(<!-- overload -->\n).*?(?=<!-- / -->)", re.DOTALL)
CURVES = {
    "adaptive": ("adaptive, as generated", "#2f81f7"),
    "100": ("a fixed limit of 100", "#d29922"),
    "none": ("no limit", "#f85149"),
}
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 320, 56, 24, 176, 48


def x(load: float) -> float:
    return LEFT + math.log10(load) * (WIDTH - LEFT - RIGHT)


def y(goodput: float) -> float:
    return TOP + (1 - goodput) * (HEIGHT - TOP - BOTTOM)


def text(
    at_x: float, at_y: float, words: str, anchor: str = "middle", color: str = "#848d97"
) -> str:
    return (
        f'<text x="{at_x:.0f}" y="{at_y:.0f}" text-anchor="{anchor}" fill="{color}">{words}</text>'
    )


def table(results: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """Medians; the README says of how many runs."""
    rows = ["offered, of capacity", "answered in time, of capacity", "p99 of these", "refused in"]
    rows = ["| " + " | ".join([*rows, "with the best fixed limit", "with 100"]) + " |"]
    rows.append("|---" * 6 + "|")
    for scenario, load in LOADS.items():
        by_limit = results[scenario]
        middle = {
            limit: {key: median(run[key] for run in runs) for key in runs[0]}
            for limit, runs in by_limit.items()
        }
        own = middle["adaptive"]
        goods = [middle[limit]["good"] for limit in ("best", "100")]
        cells = [f"{load}x", f"{own['good']:.0%}", f"{own['p99'] * 1000:.0f} ms"]
        cells += [f"{own['refusal_p99'] * 1000:.0f} ms"] + [f"{good:.0%}" for good in goods]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def main() -> None:
    results = json.loads(RESULTS.read_text())["results"]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13" role="img" '
        'aria-label="Goodput against load, with and without a limit">'
    )
    parts = [head]
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path d="M{LEFT} {y(share):.0f}H{WIDTH - RIGHT}" stroke="#848d9755"/>')
        parts.append(text(LEFT - 8, y(share) + 4, f"{share:.0%}", "end"))
    parts += [text(x(load), HEIGHT - BOTTOM + 20, f"{load}x") for load in LOADS.values()]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(text(middle, HEIGHT - 8, "requests offered, in times of capacity"))
    parts.append(text(LEFT, 14, "answered within 250 ms, as a share of capacity", "start"))
    ends: list[float] = []
    for limit, (name, color) in CURVES.items():
        points = [
            (x(load), y(min(1.0, median(run["good"] for run in results[scenario][limit]))))
            for scenario, load in LOADS.items()
            if limit in results.get(scenario, {})
        ]
        line = "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
        parts.append(f'<path d="M{line}" fill="none" stroke="{color}" stroke-width="2.5"/>')
        parts += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{color}"/>' for px, py in points
        ]
        at = points[-1][1] + 4
        while any(abs(at - other) < 16 for other in ends):
            at -= 16
        ends.append(at)
        parts.append(text(WIDTH - RIGHT + 10, at, name, "start", color))
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    IMAGE.write_text("\n".join([*parts, "</svg>", ""]))
    README.write_text(TABLE.sub(lambda found: found[1] + table(results), README.read_text()))


if __name__ == "__main__":
    main()
