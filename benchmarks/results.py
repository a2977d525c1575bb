"""The table of docs/results.md, from run folders: `python -m benchmarks.results RUN... [--reference FILE]`.

The runs come from `make results`. Each method's row is the mean over seeds of the true return at a common
step, with the 95 % bootstrap interval over seeds (of three seeds nearly their range), and the preference
accuracy on the fresh comparisons of the second half of the steps; behind it every seed. A second table has
what the leader's steps were like. `--reference` adds rows of another library's own evaluation, one JSON
object a line: env, steps, seed, mean.
"""

import argparse
import json
import os
import platform
from collections import defaultdict
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import polars as pl

from rewardsmith._core import write_atomically
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.metrics import read_metrics
from rewardsmith.runs.plot import method_label
from rewardsmith.runs.statistics import mean_interval


def at_step(run: RunFolder, step: int) -> tuple[float, float | None]:
    """The last true return by `step`, and the accuracy on what was asked in the second half up to it."""
    rows = read_metrics(run.path).filter(pl.col("step") <= step + run.config["num_envs"])
    evaluations = rows.filter(pl.col("kind") == "eval")
    leader = rows.filter((pl.col("kind") == "leader") & pl.col("preference_accuracy").is_not_null())
    # Accuracy of one session is that of a few pairs: weigh the second half of the run by pairs asked.
    asked = leader.with_columns(pairs=pl.col("comparisons").diff()).filter(pl.col("step") > step / 2)
    accuracy = None
    if asked.height and asked["pairs"].sum():
        accuracy = float((asked["preference_accuracy"] * asked["pairs"]).sum() / asked["pairs"].sum())
    return float(evaluations["true_return"][-1]), accuracy


def row(label: str, step: int, returns: list[float], accuracies: list[float | None]) -> str:
    """One line of the table."""
    values = np.array(returns)[:, None]
    mean, low, high = mean_interval(values)
    interval = "–" if low is None or high is None else f"{low[0]:,.0f} … {high[0]:,.0f}"
    known = [value for value in accuracies if value is not None]
    accuracy = f"{np.mean(known):.0%}" if known else "–"
    seeds = ", ".join(f"{value:,.0f}" for value in returns)
    return f"| {label} | {step:,} | {mean[0]:,.0f} | {interval} | {accuracy} | {seeds} |"


LOGGED = {
    "preference_loss": "loss, nats",
    "first_norm": "‖first‖",
    "second_norm": "‖second‖",
    "cosine": "cosine",
    "effective_share": "share that counts",
    "bellman_residual": "Bellman residual",
    "kl_to_longer": "KL to longer, nats",
    "step_ratio": "updates : leader steps",
}
"""Columns of metrics -> titles. Medians over a run, then the mean over seeds; the last value of the ratio."""


def diagnostics(label: str, runs: list[RunFolder]) -> str:
    """One line of the second table: what the leader's steps were like, and what they cost."""
    tables = [read_metrics(run.path) for run in runs]

    def mean(values: list[float | None]) -> str:
        known = [value for value in values if value is not None]
        return f"{np.mean(known):.3g}" if known else "–"

    def middle(rows: pl.DataFrame, name: str) -> float | None:
        known = rows[name].drop_nulls() if name in rows.columns else pl.Series([], dtype=pl.Float64)
        if known.is_empty():
            return None
        return float(known[-1] if name == "step_ratio" else known.median())  # pyright: ignore

    cells = [mean([middle(rows, name) for rows in tables]) for name in LOGGED]
    extra = [rows["extra_steps"].max() if "extra_steps" in rows.columns else None for rows in tables]
    share = [float(rows["share_leader"].drop_nulls()[-1]) for rows in tables]
    steps = "–" if extra[0] is None else f"{extra[0]:,.0f}"
    return f"| {label} | {' | '.join(cells)} | {steps} | {np.mean(share):.0%} |"


def film_strip(film: Path, picture: Path, count: int = 8) -> None:
    """`count` pictures of a film, evenly spaced over its second and third second, in two rows."""
    with imageio.get_reader(film) as reader:
        fps = reader.get_meta_data()["fps"]
        chosen = [reader.get_data(int(at)) for at in np.linspace(fps, 3 * fps, count)]
    rows = [np.hstack(chosen[: count // 2]), np.hstack(chosen[count // 2 :])]
    small = np.vstack(rows)[::2, ::2]
    with write_atomically(picture) as temporary:
        imageio.imwrite(temporary, small)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--strip", type=Path, help="write pictures of the first run's film to this PNG")
    arguments = parser.parse_args()
    if arguments.strip is not None:
        film_strip(RunFolder.open(arguments.runs[0]).film_path, arguments.strip)
    groups: dict[str, list[RunFolder]] = defaultdict(list)
    for path in arguments.runs:
        run = RunFolder.open(path)
        groups[method_label(run.config)].append(run)
    common = min(run.config["steps"] for runs in groups.values() for run in runs)
    lines = [
        "| method | steps | mean true return | 95 % interval of the mean | preference accuracy | each seed |",
        "|---|---|---|---|---|---|",
    ]
    for label, runs in sorted(groups.items()):
        runs.sort(key=lambda run: run.config["seed"])
        for step in sorted({common, min(run.config["steps"] for run in runs)}):
            found = [at_step(run, step) for run in runs]
            lines.append(row(label, step, [r for r, _ in found], [a for _, a in found]))
    if arguments.reference is not None:
        entries = [json.loads(line) for line in arguments.reference.read_text().splitlines() if line.strip()]
        env = next(iter(groups.values()))[0].config["env"]
        found = sorted(
            (entry["seed"], entry["steps"], entry["mean"]) for entry in entries if entry["env"] == env
        )
        if found:
            means = [mean for _, _, mean in found]
            lines.append(row("Stable-Baselines3 SAC", found[0][1], means, [None] * len(means)))
    titles = [*LOGGED.values(), "extra simulator steps", "leader's share of time"]
    lines += ["", "| method | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
    lines += [
        diagnostics(label, runs)
        for label, runs in sorted(groups.items())
        if runs[0].config["method"] != "sac"
    ]
    some = next(iter(groups.values()))[0].config
    versions = ", ".join(f"{name} {version}" for name, version in some["versions"].items())
    print("\n".join(lines))
    print(
        f"\n{some['env']}; {platform.machine()}, {os.cpu_count()} cores, one pinned to each run; {versions}."
    )


if __name__ == "__main__":
    main()
