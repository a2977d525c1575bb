"""What is audited: the policies and rewards of one run, and how much is asked of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from ...agents import Policy, SACState
from ...envs import EnvSpec
from ...rewards import LearnedReward
from ..config import TrainConfig
from ..experiment import Experiment
from ..folder import RunFolder
from ..loading import load_newest
from ..metrics import read_metrics
from ..snapshots import evenly, load_snapshot


@dataclass(frozen=True)
class Budget:
    """How much an audit plays and asks.

    Attributes:
        policies: of the run, the newest among them, at most.
        episodes: of each policy, and of random actions.
        newest: so many times as many of the newest policy.
        longest: steps after which an episode is cut off.
        pairs: fresh pairs of clips of each kind.
        earlier_pairs: of these, those on which the rewards of earlier snapshots are asked, too.
        rewards: of which a distance is estimated, at most; 0: none is.
        states, repeats, horizon: of that estimate, see `cover`.
    """

    policies: int
    episodes: int
    newest: int
    longest: int
    pairs: int
    earlier_pairs: int
    rewards: int
    states: int
    repeats: int
    horizon: int


OF_VECTORS = Budget(12, 4, 3, 1000, 512, 256, 12, 128, 8, 50)
OF_PICTURES = Budget(4, 1, 2, 500, 96, 48, 0, 0, 0, 0)


def budget_of(spec: EnvSpec) -> Budget:
    """Small ones for pictures, which take hundreds of times as long to judge as vectors."""
    return OF_VECTORS if spec.image is None else OF_PICTURES


@dataclass(frozen=True)
class Subject:
    """A run that is being audited.

    Attributes:
        folder, config, experiment, spec: of the run.
        steps: of its snapshots, the checkpoint's last.
        policies: of each.
        rewards: of each; empty where none is learned.
        follower: of the checkpoint, for models that want its values.
        comparisons: of each step, answered by then.
        budget, seed: of the audit.
    """

    folder: RunFolder
    config: TrainConfig
    experiment: Experiment
    spec: EnvSpec
    steps: tuple[int, ...]
    policies: tuple[Policy, ...]
    rewards: tuple[LearnedReward, ...]
    follower: SACState
    comparisons: tuple[int | None, ...]
    budget: Budget
    seed: int

    @property
    def stack(self) -> int:
        """Frames of one observation."""
        return 1 if self.spec.image is None else self.spec.image.stack

    @property
    def owners(self) -> list[int | None]:
        """Of each copy in `Played` the index of its policy; None: random actions."""
        each, newest = self.budget.episodes, len(self.policies) - 1
        order = [*range(newest), *[newest] * self.budget.newest, None]
        return [owner for owner in order for _ in range(each)]


def load_subject(folder: RunFolder, seed: int) -> Subject:
    """What the audit of a run needs of its folder: snapshots, checkpoint, programs."""
    config = TrainConfig.from_json(folder.config)
    experiment, follower, leader, last = load_newest(folder, config, judged=True)
    budget = budget_of(experiment.spec)
    earlier = evenly([step for step in folder.snapshot_steps() if step < last], budget.policies - 1)
    kept = [load_snapshot(folder, step, experiment) for step in earlier]
    rewards = [x for _, x in kept if x is not None]
    steps = (*earlier, last)
    return Subject(
        folder,
        config,
        experiment,
        experiment.spec,
        steps,
        (*(policy for policy, _ in kept), follower.policy),
        () if leader is None else (*rewards, leader.x),
        follower,
        _comparisons(folder, steps),
        budget,
        seed,
    )


def _comparisons(folder: RunFolder, steps: Sequence[int]) -> tuple[int | None, ...]:
    if not folder.metrics_path.is_file():
        return tuple(None for _ in steps)
    rows = read_metrics(folder.path).filter(pl.col("comparisons").is_not_null())
    by = [rows.filter(pl.col("step") <= step)["comparisons"].max() for step in steps]
    return tuple(int(count) if isinstance(count, int) else None for count in by)
