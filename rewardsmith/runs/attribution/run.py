"""``rewardsmith influence``: which answers moved a run's reward, and which look wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
from rich.console import Console
from rich.progress import Progress

from ..._core import InputError
from ..._core.atomic import writing
from ...agents import SACState
from ...preferences.models import Mixture, Regret
from ...rewards import LearnedReward
from ..beside import belonging
from ..config import TrainConfig
from ..experiment import Experiment
from ..folder import RunFolder
from ..loading import load_newest
from .answers import Answers, read_answers
from .cross_fit import cross_fit
from .heads import Heads, fitter, make_heads, seen_by, started, with_margin
from .measure import Circumstances, curvature_kind, measure

SCORES = {
    "cross-fit-loss": "the loss by a reward fitted without it",
    "loss": "how badly the reward foresees the answer",
    "self-influence": "how much of the answer's fit is its own doing",
    "leave-one-out-loss": "the loss without the answer, by one step of Newton's method",
}


@dataclass(frozen=True)
class Options:
    """See `rewardsmith influence --help`."""

    by: str | None = None
    damping: float = 0.1
    folds: int = 5
    fit_steps: int = 400
    polish: int = 0
    newest: int | None = None
    top: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by is not None and self.by not in SCORES:
            raise InputError(f'unknown --by "{self.by}": choose one of {", ".join(SCORES)}')
        if self.folds == 1 or self.folds < 0:
            raise InputError(f"--folds is {self.folds}: give at least 2, or 0 for none")
        if self.by == "cross-fit-loss" and not self.folds:
            raise InputError("--by cross-fit-loss needs rewards fitted anew: give --folds 5")
        if not 0.0 < self.damping < float("inf"):
            raise InputError(f"--damping is {self.damping}: give a positive share of the mean eigenvalue")
        if self.newest is not None and self.newest < 2:
            raise InputError(f"--newest is {self.newest}: give at least 2")
        if self.fit_steps < 1 or self.polish < 0 or self.top < 1 or self.seed < 0:
            raise InputError("--fit-steps and --top must be at least 1, --polish and --seed at least 0")

    @property
    def score(self) -> str:
        """`by`, or what finds most of the wrong labels that were planted (docs/influence.md)."""
        return self.by or ("cross-fit-loss" if self.folds else "self-influence")


def influence_of_run(path: Path | str, options: Options, console: Console | None = None) -> Path:
    """Measure what each answer of a run did, write influence.parquet into its folder, and print the worst.

    Raises:
        InputError: no run, no checkpoint, too few answers, or a store that cannot be read.
    """
    console = console or Console()
    folder = RunFolder.open(path)
    config = TrainConfig.from_json(folder.config)
    answers, held_out = read_answers(folder, config, options.newest)
    if options.folds > len(answers):
        raise InputError(f"--folds is {options.folds}, but there are {len(answers)} answers: give fewer")
    experiment, follower, leader, step = load_newest(folder, config)
    assert leader is not None
    x = leader.x
    seen = seen_by(experiment, x)
    with Progress(console=console, transient=True) as progress:
        said = progress.add_task("clips", total=None)
        heads = make_heads(experiment, x, answers.pairs, _others(experiment, x, follower, answers))
        if options.polish:
            progress.update(said, description="polishing")
            fit = fitter(experiment, seen, options.polish)(
                started(experiment, heads.networks), heads, jax.random.key(options.seed)
            )
            heads = Heads(fit.networks, heads.inputs, heads.others)
        heads = with_margin(experiment, seen, heads)
        apart = None
        if held_out is not None and not isinstance(experiment.preference_model, Mixture):
            others = {"label": held_out.label} | _offset(experiment, x, follower, held_out.pairs)
            made = make_heads(experiment, x, held_out.pairs, others)
            apart = with_margin(experiment, seen, Heads(heads.networks, made.inputs, made.others))
        progress.update(said, description="influence", total=heads.count + options.folds)
        kind = curvature_kind(heads)
        told = lambda: progress.advance(said)  # noqa: E731
        found, circumstances = measure(seen, heads, apart, kind, options.damping, options.seed, told)
        columns: dict[str, Any] = {name: getattr(found, name) for name in _MEASURED}
        columns["influence"] = found.influence
        columns["cross_fit_loss"] = None
        if options.folds:
            progress.update(said, description="rewards without a part of the answers")
            losses, influences = cross_fit(
                experiment, seen, heads, options.folds, options.fit_steps, options.damping, options.seed, told
            )
            columns["cross_fit_loss"] = losses
            if columns["influence"] is None:
                columns["influence"] = influences
    table = _table(answers, columns, options.score)
    out = folder.path / "influence.parquet"
    with writing(out) as temporary:
        table.write_parquet(temporary)
    target = "the answers held out" if apart is not None else "answers left out, by rewards fitted anew"
    _print(
        console, table, circumstances, kind, options, step, target, pictures=experiment.spec.image is not None
    )
    console.print(f"table   {out}", soft_wrap=True, highlight=False)
    return out


_MEASURED = ("probability", "loss", "margin", "self_influence", "leave_one_out_loss", "moved")


def _others(
    experiment: Experiment, x: LearnedReward, follower: SACState, answers: Answers
) -> dict[str, np.ndarray]:
    """What the loss is told beside the clips."""
    found = {"label": answers.label.astype(np.float32)} | _offset(experiment, x, follower, answers.pairs)
    if isinstance(experiment.preference_model, Mixture):
        pairs = dict(answers.pairs) | {"label": found["label"]}
        likely, _ = experiment.in_blocks(lambda *arrays: experiment.explain(x, *arrays), pairs, len(answers))
        found["groups"] = belonging(likely, answers.labeller)
    return found


def _offset(
    experiment: Experiment, x: LearnedReward, follower: SACState, pairs: Any
) -> dict[str, np.ndarray]:
    if not isinstance(experiment.preference_model, Regret):
        return {}

    def program(observations: Any, actions: Any) -> Any:
        return experiment.offsets(x, follower, observations, actions, jax.random.key(0))

    return {"offset": experiment.in_blocks(program, dict(pairs), len(pairs["actions"]))}


def _table(answers: Answers, columns: dict[str, Any], by: str) -> pl.DataFrame:
    suspicion = columns[by.replace("-", "_")]
    rank = np.empty(len(answers), np.int64)
    rank[np.argsort(-suspicion, kind="stable")] = np.arange(1, len(answers) + 1)
    measured = {
        name: np.full(len(answers), None) if values is None else values.astype(np.float64)
        for name, values in columns.items()
    }
    return pl.DataFrame(
        {
            "comparison": answers.number,
            "step": answers.step,
            "label": answers.label.astype(np.float64),
            "answered_by": answers.who,
            "first_clip": [first for first, _ in answers.clips],
            "second_clip": [second for _, second in answers.clips],
            **measured,
            "suspected_rank": rank,
        },
        schema_overrides={name: pl.Float64 for name in measured},
    )


def _print(
    console: Console,
    table: pl.DataFrame,
    circumstances: Circumstances,
    kind: str,
    options: Options,
    step: int,
    target: str,
    *,
    pictures: bool,
) -> None:
    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False, highlight=False)

    what = "the heads behind the encoders, which are held still" if pictures else "all its networks"
    polished = f", polished by {options.polish} steps" if options.polish else ""
    say(f"reward  of step {step:,}{polished}; {what}; {len(table)} answers")
    say(
        f"curve   {'exact Gauss–Newton' if kind == 'exact' else 'EK-FAC'}, λ = {circumstances.damping:.2g} "
        f"({options.damping:g} of the mean eigenvalue), residual {circumstances.residual:.1g}"
    )
    say(
        f"slope   ‖∇J‖ is {circumstances.gradient_norm:.2g} of one answer's: 0 where the reward is at rest, "
        f"{len(table) ** -0.5:.2g} where the answers' slopes are unrelated"
    )
    if table["influence"].null_count() == 0:
        say(f"target  influence is on the mean loss of {target}")
    else:
        say("target  none: nothing is held out, and --folds is 0")
    say(f"most influential: what the reward says would change most without them ({options.top})")
    _rows(say, table.sort("moved", descending=True).head(options.top))
    say(f"most suspicious, by {options.score}: {SCORES[options.score]} ({options.top})")
    _rows(say, table.sort("suspected_rank").head(options.top))


def _rows(say: Any, rows: pl.DataFrame) -> None:
    people = any(rows["first_clip"])
    names = f"{'comparison':>10} {'step':>9} {'answer':>7} {'P(first)':>8} {'moved':>8} {'influence':>10}"
    say(f"  {names} by{'  clips' if people else ''}")
    for row in rows.iter_rows(named=True):
        answer = {1.0: "first", 0.0: "second", 0.5: "equal"}.get(row["label"], f"{row['label']:.2f}")
        onto = "–" if row["influence"] is None else f"{row['influence']:+.3g}"
        ids = f"  {row['first_clip'][:8]} {row['second_clip'][:8]}" if people else ""
        say(
            f"  {row['comparison']:>10} {row['step']:>9,} {answer:>7} {row['probability']:>8.3f} "
            f"{row['moved']:>8.2%} {onto:>10} {row['answered_by']}{ids}"
        )
