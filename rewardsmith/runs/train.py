"""Start and go on with training runs: one, or several seeds side by side."""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

from .._core import InputError
from .choices import HUMAN
from .collect import check_roll_outs
from .config import TrainConfig
from .experiment import Experiment
from .folder import RunFolder
from .parts import check_fits, make_env
from .training import Stopped as Stopped
from .training import Training

# Settings in which runs of one program may differ: they lie in the states of the optimisers, or of τ.
VARIED = ("learning_rate", "reward_learning_rate", "temperature")


def train(config: TrainConfig, out: Path | str) -> RunFolder:
    """Run a new experiment in the folder `out`.

    Raises:
        InputError: the folder is taken, or the settings do not fit the environment. Nothing was written
            then, or only the new folder.
        Stopped: interrupted; the text says how to go on.
    """
    _check(config)
    folder = RunFolder.create(out, dataclasses.asdict(config))
    _run([folder], restored=False)
    return folder


def train_seeds(
    config: TrainConfig,
    out: Path | str,
    seeds: int,
    varied: Mapping[str, Sequence[float | None]] | None = None,
) -> list[RunFolder]:
    """Run experiments side by side in one program: `seeds` of them, from `config.seed` on, of each variation.

    Each is an ordinary run in a folder of its own, ``out/seed-0`` and so on, as if it had been trained
    alone, up to rounding.

    Args:
        config: settings of all.
        out: folder of their folders.
        seeds: how many.
        varied: values by setting, of `VARIED`; every combination is a run.

    Raises:
        InputError, Stopped: as `train`; or a setting that cannot be varied in one program.
    """
    grid = [dict(zip(varied or {}, values, strict=True)) for values in product(*(varied or {}).values())]
    together = seeds * len(grid)
    _check(config, seeds, together)
    _check_varied(config, varied or {})
    configs = [
        dataclasses.replace(config, seed=config.seed + seed, **own) for own in grid for seed in range(seeds)
    ]
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty: give another --out, or --resume {out}")
    folders = [RunFolder.create(out / _name(own, varied or {}), dataclasses.asdict(own)) for own in configs]
    _run(folders, restored=False)
    return folders


def start_all(
    config: TrainConfig, out: Path | str, seeds: int, varied: Mapping[str, Sequence[float | None]]
) -> list[RunFolder]:
    """`train` for one seed and nothing varied, else `train_seeds`."""
    return [train(config, out)] if seeds == 1 and not varied else train_seeds(config, out, seeds, varied)


def _name(config: TrainConfig, varied: Iterable[str]) -> str:
    told = [f"-{name.replace('_', '-')}-{getattr(config, name):g}" for name in varied]
    return f"seed-{config.seed}{''.join(told)}"


def _check_varied(config: TrainConfig, varied: Mapping[str, Sequence[float | None]]) -> None:
    for name, values in varied.items():
        flag = name.replace("_", "-")
        if name not in VARIED:
            can = ", ".join(each.replace("_", "-") for each in VARIED)
            raise InputError(
                f"--vary {flag}: in one program only {can} can differ: use rewardsmith sweep --vary {flag}=…"
            )
        if None in values:
            raise InputError(f"--vary {flag}: a temperature that is tuned cannot go beside one that is fixed")
        if name == "learning_rate" and config.decay_steps is not None:
            raise InputError("--vary learning-rate: it falls with --decay-steps: leave one of them out")


def resume(path: Path | str) -> RunFolder:
    """Go on with the run in folder `path` from its last good checkpoint.

    On a CPU the metrics become those of a run that was never stopped. Where no checkpoint was written yet
    the run starts anew. A run that is finished stays as it is.
    """
    folder = RunFolder.open(path)
    _run([folder], restored=True)
    return folder


def resume_all(path: Path | str) -> list[RunFolder]:
    """Go on with the run in folder `path`, or with all seeds in it."""
    return resume_seeds(path) if seed_folders(path) else [resume(path)]


def resume_seeds(path: Path | str) -> list[RunFolder]:
    """Go on with the runs that `train_seeds` made in `path`, side by side, as `resume`.

    Raises:
        InputError: there are none, or their settings differ in more than may differ in one program.
    """
    folders = seed_folders(path)
    if not folders:
        raise InputError(f"no runs at {path}: give the folder that `rewardsmith train` wrote")
    alike = [TrainConfig.from_json(folder.config) for folder in folders]
    first = {name: getattr(alike[0], name) for name in ("seed", *VARIED)}
    if any(dataclasses.replace(own, **first) != alike[0] for own in alike):
        raise InputError(f"the runs in {path} are not of one program: resume each by its own folder")
    _run(folders, restored=True)
    return folders


def seed_folders(path: Path | str) -> list[RunFolder]:
    """The runs that `train_seeds` made in `path`; none where it is a run itself."""
    if (Path(path) / "config.json").is_file():
        return []
    return [RunFolder.open(entry) for entry in sorted(Path(path).glob("seed-*")) if entry.is_dir()]


def _check(config: TrainConfig, seeds: int = 1, together: int = 1) -> None:
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}: give a whole number of at least 1")
    with contextlib.closing(make_env(config, config.num_envs)) as env:
        check_fits(config, env.spec, together)
        check_roll_outs(config, Experiment(config, env.spec).needs, env)
        if config.exploring_steps and env.spec.image is not None:
            raise InputError(f"pebble explores among vectors, {config.env} has pictures: give --method drlhf")
        if together > 1 and env.spec.image is not None:
            raise InputError(
                f"--seeds and --vary are for vectors, {config.env} has pictures: use rewardsmith sweep"
            )
    if together > 1 and config.teacher == HUMAN:
        raise InputError("--seeds and --vary would ask people about several runs at once: leave them out")


def _run(folders: Sequence[RunFolder], *, restored: bool) -> None:
    with contextlib.ExitStack() as held:
        for folder in folders:
            held.enter_context(folder.lock())
        training = Training([TrainConfig.from_json(folder.config) for folder in folders], folders)
        if restored:
            training.restore()
        training.run()
