"""Commands about many runs: sweep, tune, compare. Settings in, commands out."""

import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from ._core import InputError
from .runs.config import TrainConfig
from .runs.sweep.engines import Running


def sweep(
    config: tyro.conf.OmitArgPrefixes[TrainConfig],
    running: tyro.conf.OmitArgPrefixes[Running],
    methods: tuple[str, ...] = (),
    envs: tuple[str, ...] = (),
    seeds: tuple[str, ...] = (),
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    preset: str | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    film: bool = False,
) -> None:
    """Train every combination of methods, environments, seeds and varied settings.

    Each trial is an ordinary run folder and has a process of its own on one core. One whose process dies is
    started again and goes on from its last checkpoint; one that ends with an error is kept and reported, and
    the exit status is 1 then. Afterwards: rewardsmith compare OUT.

    Args:
        config: settings of all trials.
        running: how they are run.
        methods: instead of --method.
        envs: instead of --env.
        seeds: instead of --seed; whole numbers, or FIRST:END, as 0:5 for 0 1 2 3 4.
        vary: NAME=V1,V2 for any other setting; may be given several times, for a grid.
        preset: settings that belong together, for what is not given, as of train.
        out: folder of the sweep; must not hold anything. Default: runs/sweep.
        resume: go on with the sweep in this folder; finished trials stay, failed ones are tried again.
        film: film each finished run, as train does.
    """
    from .runs.sweep import run
    from .runs.sweep.manifest import Manifest, grid
    from .runs.sweep.values import read_seeds, read_vary

    if resume is not None:
        if config != TrainConfig() or any((methods, envs, seeds, vary, film)) or not (out is preset is None):
            raise InputError(
                "--resume takes the sweep's own settings: give only --workers, --engine, --address, "
                "--retries and --gpus-per-trial with it"
            )
        _end(run.resume(resume, running))
    _refuse_both("method", config.method, TrainConfig.method, methods)
    _refuse_both("env", config.env, TrainConfig.env, envs)
    numbers = read_seeds(seeds)
    if numbers and config.seed not in (TrainConfig.seed, *numbers):
        raise InputError("--seed and --seeds are both given: give --seeds alone")
    manifest = Manifest(grid(config, methods, envs, numbers, read_vary(vary)), film)
    _end(run.start(manifest, out if out is not None else Path("runs") / "sweep", running))


def tune(
    config: tyro.conf.OmitArgPrefixes[TrainConfig],
    running: tyro.conf.OmitArgPrefixes[Running],
    search: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    trials: int | None = None,
    objective: str = "true-return",
    seeds_per_trial: int = 1,
    preset: str | None = None,
    out: Path | None = None,
    resume: Path | None = None,
) -> None:
    """Search settings with Optuna; prints and keeps the best as a command line for train.

    Each trial is a folder with an ordinary run folder for each of its seeds. What was tried stays, so that a
    search that was stopped goes on where it was.

    Args:
        config: settings that stay; --seed is the first of each trial's.
        running: how they are run.
        search: NAME=LOW:HIGH, NAME=log:LOW:HIGH, NAME=int:LOW:HIGH or NAME=V1,V2; may be given several times.
        trials: settings to try. Default: 20.
        objective: true-return, held-out-accuracy (of people's answers) or preference-accuracy.
        seeds_per_trial: runs of each trial; their mean counts.
        preset: settings that belong together, for what is not given, as of train.
        out: folder of the search; must not hold anything. Default: runs/tune.
        resume: go on with the search in this folder; --trials may say to how many in all.
    """
    from .runs.sweep import tune as tuning

    if resume is not None:
        plain = config == TrainConfig() and (objective, seeds_per_trial) == ("true-return", 1)
        if not plain or search or not (out is preset is None):
            raise InputError(
                "--resume takes the search's own settings: give only --trials, --workers, --engine, "
                "--address, --retries and --gpus-per-trial with it"
            )
        _end(tuning.resume(resume, running, trials))
    plan = tuning.Plan(config, search, 20 if trials is None else trials, objective, seeds_per_trial)
    _end(tuning.start(plan, out if out is not None else Path("runs") / "tune", running))


def compare_runs(
    runs: tyro.conf.Positional[tuple[Path, ...]], out: Path | None = None, unfinished: bool = False
) -> None:
    """Rank runs by their true return: rewardsmith compare RUNS... is the same.

    By environment and by what differs between the runs: interquartile mean of the final return with a 95 %
    interval, mean along the curve, held-out accuracy, time; and how likely a run of the best kind beats one
    of another.

    Args:
        runs: folders of runs, of sweeps, or of several runs.
        out: folder for comparison.md, comparison.parquet and comparison.png. Default: print only.
        unfinished: also compare runs that have not made all their steps.
    """
    from .runs.ranking import compare

    if not runs:
        raise InputError("no runs to compare: name one or more run folders")
    compare.compare_runs(runs, out, unfinished)


def names_runs(arguments: Sequence[str]) -> bool:
    """Whether the first name behind ``compare`` is a folder of runs, and not a problem on tables.

    A word right behind an option is its value.
    """
    words = zip(arguments, ("", *arguments), strict=False)
    names = [word for word, before in words if not word.startswith("-") and not _is_flag(before)]
    return bool(names) and ("/" in names[0] or Path(names[0]).is_dir())


def _is_flag(word: str) -> bool:
    return word.startswith("--") and "=" not in word


def _refuse_both(name: str, one: str, default: str, many: Sequence[str]) -> None:
    if many and one not in (default, *many):
        raise InputError(f"--{name} and --{name}s are both given: give --{name}s alone")


def _end(failed: int) -> None:
    sys.exit(1 if failed else 0)
