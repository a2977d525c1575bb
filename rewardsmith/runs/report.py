"""A run on one page: a single HTML file with its settings, curves, audit and films inside."""

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from rewardsmith._core import read_json
from rewardsmith._core.atomic import writing

from .audit.draw import Drawn
from .audit.page import CHECKED, AuditPart, audit_part
from .audit.record import Audit
from .audit.run import current_audit
from .audit.warn import temperature_drift, warnings_of
from .figures import run_figures
from .flat import flatten
from .folder import RunFolder
from .metrics import SCHEMA, read_metrics, recent_accuracy
from .plot import method_label
from .seat import EARLY_ENDS

_CHANCE = 0.5
LEARNING = ("True return", "Preferences")
_CAPTIONS = {
    "True return": "Evaluated under the true reward, which a learner from comparisons never sees.",
    "Preferences": "On comparisons not yet trained on; the dashed line is guessing.",
    "Hyper-gradient": "First term: the loss moves with the reward. Second: the clips move with it.",
    "How far to trust it": "Share of the second term's batch that counts; policy updates for each gradient "
    "step on the reward.",
    "Has the policy answered?": "How far the critics are from what the reward of now asks, and the policy "
    "from one that learns on for it.",
    "Policy": "How much randomness is paid for, and how random the policy is.",
    "Learner": "Losses of critics and policy, and the values the critics promise.",
    "Time": "Where the wall time went, and environment steps a second, all work included.",
}
# A warning's first words stand out, if they are few.
_HEAD = 30


@dataclass(frozen=True)
class RunPart:
    """What a template gets of one run; see `report.html`."""

    name: str
    subtitle: str
    headlines: list[tuple[str, str, str]]
    warnings: list[tuple[str, str]]
    checked: str
    film: str | None
    learning: list[Drawn]
    diagnostics: list[Drawn]
    audit: AuditPart | None
    evaluation: list[tuple[str, str]]
    settings: list[tuple[str, str]]
    versions: list[tuple[str, str]]


def write_report(
    run_path: Path | str, warnings: Sequence[str] = (), audit: Audit | None = None, out: Path | None = None
) -> Path:
    """Write ``report.html``: one page of a run that needs nothing beside itself.

    Whatever the run lacks (film, evaluations, all metrics) is left out, and said among the warnings.

    Args:
        run_path: the run's folder.
        warnings: lines to show behind those of the run itself.
        audit: of the run; None: that in its folder, if it is of the newest checkpoint.
        out: the page; None: in the run's folder.

    Returns:
        The path of the page.

    Raises:
        InputError: no run folder, damaged metrics, or a disk that cannot be written.
    """
    folder = RunFolder.open(run_path)
    audit = current_audit(folder) if audit is None else audit
    run = run_part(folder, warnings, audit)
    sections = {
        "policy": ("The policy at work", run.film),
        "learning": ("Learning", run.learning),
        "audit": ("" if run.audit is None else run.audit.title, run.audit),
        "disagreement": ("Disagreements", run.audit is not None and run.audit.films),
        "diagnostics": ("How it learned", run.diagnostics),
        "settings": ("Settings", True),
    }
    return write_page(
        folder.report_path if out is None else out,
        "report.html",
        name=run.name,
        subtitle=run.subtitle,
        run=run,
        sections=[(id, title) for id, (title, there) in sections.items() if there],
    )


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Fill one of our templates and write it to `path`, which is returned.

    Raises:
        InputError: the disk cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rewardsmith.runs"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template(template).render(**values)
    with writing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def run_part(
    folder: RunFolder,
    warnings: Sequence[str],
    audit: Audit | None,
    *,
    prefix: str = "",
    with_films: bool = True,
    only: Collection[str] | None = None,
) -> RunPart:
    """What a page shows of one run.

    Args:
        folder: of the run.
        warnings: lines to show behind those of the run itself.
        audit: of the run; None: there is none.
        prefix: of the ids of its figures, unique on the page.
        with_films: the film of the policy, and those of the audit.
        only: titles of the figures of its metrics that are wanted; None: all.
    """
    config = folder.config
    if folder.metrics_path.exists():
        metrics, figures = read_metrics(folder.path), run_figures(folder.path, prefix, only)
    else:
        metrics, figures = pl.DataFrame(schema=SCHEMA), {}
    film = folder.film_path.read_bytes() if folder.film_path.is_file() else None
    versions = config.pop("versions", {})
    versions = dict(versions) if isinstance(versions, Mapping) else {"versions": versions}
    if "rewardsmith" in config:
        versions = {"rewardsmith": config.pop("rewardsmith")} | versions
    drawn = [Drawn(title, _CAPTIONS.get(title, ""), svg) for title, svg in figures.items()]
    own = [] if audit is None else warnings_of(audit)
    # What an audit measured says it better.
    recorded = [line for line in folder.warnings() if not (own and line == EARLY_ENDS)]
    lines = [*own, *temperature_drift(metrics), *recorded, *warnings]
    lines += _warnings(metrics, config, film is not None)
    told = [str(value) for value in (config.get("env"), method_label(config)) if value]
    told += [f"seed {config['seed']}"] if "seed" in config else []
    return RunPart(
        folder.path.resolve().name,
        " · ".join(told),
        _headlines(metrics, config, audit),
        [_headed(line) for line in lines],
        CHECKED if audit is not None and audit.reward is not None else "",
        base64.b64encode(film).decode() if film and with_films else None,
        [one for one in drawn if one.title in LEARNING],
        [one for one in drawn if one.title not in LEARNING],
        None if audit is None else audit_part(audit, folder.audit_films_path if with_films else None, prefix),
        _evaluation(folder.eval_path),
        flatten(config),
        flatten(versions),
    )


def _headed(line: str) -> tuple[str, str]:
    """A warning's first words, before a colon, and the rest."""
    head, colon, text = line.partition(": ")
    return (head, text) if colon and len(head) <= _HEAD else ("", line)


def _audited(audit: Audit | None) -> list[tuple[str, str, str]]:
    if audit is None or audit.reward is None or not audit.reward.along:
        return []
    last, lines, what = audit.reward.along[-1], [], "distance to the true reward"
    if last.distance is not None:
        between = f"STARC, {last.distance.low:.2f} to {last.distance.high:.2f}; 1.4: unrelated"
        lines.append((f"{last.distance.value:.2f}", what, between))
    elif last.clip_distance is not None:
        lines.append((f"{last.clip_distance.value:.2f}", what, "Pearson, clip returns; 0.7: unrelated"))
    return lines


def _headlines(
    metrics: pl.DataFrame, config: Mapping[str, Any], audit: Audit | None
) -> list[tuple[str, str, str]]:
    """(number, what it is, a word beside it) of each headline there are data for."""
    lines = []
    if (value := _last(metrics, "true_return")) is not None:
        spread = _last(metrics, "true_return_std")
        lines.append((_number(value), "true return", _beside(spread)))
    if (value := recent_accuracy(metrics)) is not None:
        lines.append((f"{value:.1%}", "preference accuracy", "of fresh comparisons, second half"))
    lines += _audited(audit)
    if value := _last(metrics, "comparisons"):
        lines.append((f"{value:,}", "comparisons", _of(config.get("comparisons"))))
    if (value := _last(metrics, "step")) is not None:
        lines.append((f"{value:,}", "environment steps", _of(config.get("steps"))))
    if value := _last(metrics, "seconds"):
        lines.append((_duration(value), "wall time", f"{(_last(metrics, 'step') or 0) / value:,.0f} steps/s"))
    return lines


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
    try:
        return flatten(read_json(path, "is no valid JSON: delete it and evaluate again"))
    except FileNotFoundError:
        return []
