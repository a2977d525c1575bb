"""A run on one page: a single HTML file with its settings, curves and film inside."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import polars as pl
from markupsafe import Markup

from rewardsmith._core import InputError
from rewardsmith._core.atomic import writing

from .folder import RunFolder
from .metrics import SCHEMA, read_metrics
from .plot import method_label, run_figures

_CHANCE = 0.5
_CAPTIONS = {
    "True return": "Evaluated under the true reward, which a learner from comparisons never sees.",
    "Preferences": "On comparisons not yet trained on; the dashed line is guessing.",
    "Hyper-gradient": "First term: the loss moves with the reward. Second: the clips move with it.",
    "Policy": "How much randomness is paid for, and how random the policy is.",
    "Learner": "Losses of critics and policy, and the values the critics promise.",
    "Time": "Where the wall time went, and environment steps a second, all work included.",
}


def write_report(run_path: Path | str, warnings: Sequence[str] = ()) -> Path:
    """Write ``report.html`` into the run's folder: one page that needs nothing beside itself.

    Whatever the run lacks (film, evaluations, all metrics) is left out, and said among the warnings.

    Args:
        run_path: the run's folder.
        warnings: lines to show behind those of the run itself.

    Returns:
        The path of the page.

    Raises:
        InputError: no run folder, damaged metrics, or a disk that cannot be written.
    """
    folder = RunFolder.open(run_path)
    config = folder.config
    if folder.metrics_path.exists():
        metrics, figures = read_metrics(folder.path), run_figures(folder.path)
    else:
        metrics, figures = pl.DataFrame(schema=SCHEMA), {}
    film = folder.film_path.read_bytes() if folder.film_path.is_file() else None
    versions = config.pop("versions", {})
    versions = dict(versions) if isinstance(versions, Mapping) else {"versions": versions}
    if "rewardsmith" in config:
        versions = {"rewardsmith": config.pop("rewardsmith")} | versions
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rewardsmith.runs"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html").render(
        name=folder.path.resolve().name,
        env=config.get("env"),
        method=method_label(config),
        headlines=_headlines(metrics, config),
        # The figures are ours and made of numbers; every other text on the page is escaped.
        figures=[(title, Markup(svg), _CAPTIONS.get(title, "")) for title, svg in figures.items()],
        film=base64.b64encode(film).decode() if film else None,
        settings=flatten(config),
        evaluation=_evaluation(folder.eval_path),
        versions=flatten(versions),
        warnings=[*folder.warnings(), *warnings, *_warnings(metrics, config, film is not None)],
    )
    with writing(folder.report_path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder.report_path


def _headlines(metrics: pl.DataFrame, config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(number, what it is, a word beside it) of each headline there are data for."""
    lines = []
    if (value := _last(metrics, "true_return")) is not None:
        spread = _last(metrics, "true_return_std")
        lines.append((_number(value), "true return", _beside(spread)))
    if (value := _recent_accuracy(metrics)) is not None:
        lines.append((f"{value:.1%}", "preference accuracy", "of fresh comparisons, second half"))
    if value := _last(metrics, "comparisons"):
        lines.append((f"{value:,}", "comparisons", _of(config.get("comparisons"))))
    if (value := _last(metrics, "step")) is not None:
        lines.append((f"{value:,}", "environment steps", _of(config.get("steps"))))
    if value := _last(metrics, "seconds"):
        lines.append((_duration(value), "wall time", f"{(_last(metrics, 'step') or 0) / value:,.0f} steps/s"))
    return lines


def _recent_accuracy(metrics: pl.DataFrame) -> float | None:
    """Accuracy over the second half of the run, each session weighed by the pairs it asked: one is few."""
    asked = (
        metrics.filter(pl.col("kind") == "leader")
        .with_columns(pairs=pl.col("comparisons").diff().fill_null(pl.col("comparisons")))
        .filter(pl.col("preference_accuracy").is_not_null() & (pl.col("step") * 2 >= pl.col("step").max()))
    )
    pairs = asked["pairs"].to_numpy()
    return float(np.average(asked["preference_accuracy"].to_numpy(), weights=pairs)) if pairs.sum() else None


def _number(value: float) -> str:
    if abs(value) >= 1e9:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


def _beside(spread: float | None) -> str:
    return "last evaluation" if spread is None else f"± {spread:,.3g} over episodes"


def _of(budget: Any) -> str:
    return f"of {budget:,}" if isinstance(budget, int | float) else ""


def _last(metrics: pl.DataFrame, column: str) -> Any:
    values = metrics[column].drop_nulls()
    if values.dtype.is_float():
        values = values.filter(values.is_finite())
    return values[-1] if len(values) else None


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _warnings(metrics: pl.DataFrame, config: Mapping[str, Any], has_film: bool) -> list[str]:
    found = config.get("warnings", [])
    lines = [str(line) for line in found] if isinstance(found, list) else []
    if metrics.is_empty():
        lines.append("Nothing has been measured yet.")
        return lines
    steps, budget = _last(metrics, "step"), config.get("steps")
    if isinstance(budget, int) and steps < budget:
        lines.append(f"The run stopped at {steps:,} of {budget:,} steps; --resume goes on from there.")
    if _last(metrics, "true_return") is None:
        lines.append("The policy was never evaluated under the true reward.")
    floats = [name for name, dtype in SCHEMA.items() if dtype == pl.Float64]
    broken = [name for name in floats if metrics[name].drop_nulls().is_finite().not_().any()]
    if broken:
        lines.append(f"Not a finite number somewhere: {', '.join(broken)}. Learning has diverged.")
    accuracy = metrics["preference_accuracy"].drop_nulls().drop_nans()
    if len(accuracy) and (recent := float(accuracy.tail(5).to_numpy().mean())) < _CHANCE + 0.05:
        lines.append(
            f"The reward model guesses: accuracy {recent:.0%} over its last {min(5, len(accuracy))} rounds."
        )
    if not has_film:
        lines.append("There is no film of the policy.")
    return lines


def _evaluation(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        return []
    try:
        return flatten(json.loads(path.read_text()))
    except ValueError as error:
        raise InputError(f"{path} is no valid JSON: delete it and evaluate again") from error


def flatten(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Rows of nested settings: dotted name, text."""
    if isinstance(value, Mapping) and value:
        return [
            row
            for key, inner in value.items()
            for row in flatten(inner, f"{name}.{key}" if name else str(key))
        ]
    if isinstance(value, str):
        return [(name, value)]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return [(name, f"{value:,}")]
    return [(name, json.dumps(value, ensure_ascii=False))]
