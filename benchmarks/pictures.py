"""The pictures of docs/problems, and the numbers beside them: `python -m benchmarks.pictures [NAME ...]`.

Each problem is solved by `rewardsmith solve` with the settings below, in a folder that is thrown away. Its
map, or its curves where it has none, becomes docs/images/problems/NAME.png; `methods` is a comparison, for
docs/choosing.md. At the end lines are printed for each: what was run, and φ and the outcomes before and
after, means over starts.
"""

import sys
import tempfile
from pathlib import Path

import polars as pl
from PIL import Image

from rewardsmith._core import write_atomically
from rewardsmith.cli import main as rewardsmith
from rewardsmith.runs.exact.records import OUTCOME, outcome_label

IMAGES = Path(__file__).parents[1] / "docs" / "images"
MAP, CURVES = "picture.png", "curves.png"
_COLOURS = 200

# Name -> the picture taken, and what `rewardsmith` is given.
PICTURES = {
    "random-mdp": (CURVES, "solve random-mdp --method m-sobirl --seeds 5"),
    "four-rooms": (MAP, "solve four-rooms --rungs 6 --steps 100 --seeds 3"),
    "tax": (CURVES, "solve tax --option points=51 --option hours=5 --option levels=3 --seeds 3"),
    "shaping": (MAP, "solve shaping"),
    "stackelberg": (CURVES, "solve stackelberg --seeds 5"),
    "contract": (CURVES, "solve contract --seeds 5"),
    "inverse-rl": (MAP, "solve inverse-rl"),
    "navigation": (MAP, "solve navigation"),
    "preference": (CURVES, "solve preference --seeds 5"),
    "methods": (CURVES, "compare contract --seeds 3"),
}


def place(name: str) -> Path:
    """Where a picture goes."""
    return IMAGES / f"{name}.png" if name == "methods" else IMAGES / "problems" / f"{name}.png"


def before_and_after(metrics: pl.DataFrame) -> str:
    """φ and the outcomes at the first and the last measurement, means over starts."""
    ends = [
        metrics.group_by("method", "seed")
        .agg(pl.all().sort_by("step").get(at))
        .group_by("method")
        .agg(pl.col(pl.Float64).mean())
        .sort("method")
        for at in (0, -1)
    ]
    names = ["phi", *(name for name in metrics.columns if name.startswith(OUTCOME))]
    lines = []
    for first, last in zip(*(end.iter_rows(named=True) for end in ends), strict=True):
        parts = [f"{outcome_label(name)} {first[name]:.4g} → {last[name]:.4g}" for name in names]
        lines.append(f"  {first['method']}: " + " · ".join(parts).replace("phi", "φ"))
    return "\n".join(lines)


def draw(name: str) -> str:
    """Make one picture; the lines to print."""
    taken, command = PICTURES[name]
    with tempfile.TemporaryDirectory() as parent:
        out = Path(parent) / name
        try:
            rewardsmith([*command.split(), "--out", str(out)])
        except SystemExit as stop:
            if stop.code:
                raise
        with Image.open(out / taken) as picture, write_atomically(place(name)) as temporary:
            # Lines need few colours, and are a third of the bytes then; a map's scales need all.
            if taken == CURVES:
                picture = picture.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
            picture.save(temporary, format="PNG", optimize=True)
        metrics = pl.read_parquet(out / "metrics.parquet")
    return f"rewardsmith {command}\n{before_and_after(metrics)}"


def main() -> None:
    names = sys.argv[1:] or list(PICTURES)
    if unknown := [name for name in names if name not in PICTURES]:
        sys.exit(f"unknown picture {unknown[0]!r}: choose one of {', '.join(PICTURES)}")
    lines = [draw(name) for name in names]
    print("\n".join(["", *lines]))


if __name__ == "__main__":
    main()
