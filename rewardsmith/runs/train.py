"""Start and go on with training runs: one, or several seeds side by side."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from .._core import InputError
from .choices import HUMAN
from .collect import check_roll_outs
from .config import TrainConfig
from .experiment import Experiment
from .folder import RunFolder
from .parts import make_env
from .training import Stopped as Stopped
from .training import Training


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


def train_seeds(config: TrainConfig, out: Path | str, seeds: int) -> list[RunFolder]:
    """Run `seeds` experiments side by side in one program, seed by seed from `config.seed` on.

    Each is an ordinary run in a folder of its own, ``out/seed-0`` and so on, as if it had been trained
    alone, up to rounding.

    Raises:
        InputError, Stopped: as `train`.
    """
    _check(config, seeds)
    configs = [dataclasses.replace(config, seed=config.seed + lane) for lane in range(seeds)]
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty: give another --out, or --resume {out}")
    folders = [RunFolder.create(out / f"seed-{own.seed}", dataclasses.asdict(own)) for own in configs]
    _run(folders, restored=False)
    return folders


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
        InputError: there are none, or their settings differ in more than the seed.
    """
    folders = seed_folders(path)
    if not folders:
        raise InputError(f"no runs at {path}: give the folder that `rewardsmith train` wrote")
    alike = [TrainConfig.from_json(folder.config) for folder in folders]
    if any(dataclasses.replace(own, seed=alike[0].seed) != alike[0] for own in alike):
        raise InputError(f"the runs in {path} differ in more than the seed: resume each by its own folder")
    _run(folders, restored=True)
    return folders


def seed_folders(path: Path | str) -> list[RunFolder]:
    """The runs that `train_seeds` made in `path`, by seed; none where it is a run itself."""
    if (Path(path) / "config.json").is_file():
        return []
    found = [entry for entry in Path(path).glob("seed-*") if entry.name.removeprefix("seed-").isdigit()]
    return [RunFolder.open(entry) for entry in sorted(found, key=lambda entry: int(entry.name[5:]))]


def _check(config: TrainConfig, seeds: int = 1) -> None:
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}: give a whole number of at least 1")
    with contextlib.closing(make_env(config, config.num_envs)) as env:
        check_roll_outs(config, Experiment(config, env.spec).needs, env)
        if config.exploring_steps and env.spec.image is not None:
            raise InputError(f"pebble explores among vectors, {config.env} has pictures: give --method drlhf")
        if seeds > 1 and env.spec.image is not None:
            raise InputError(f"--seeds is for vectors, {config.env} has pictures: use rewardsmith sweep")
    if seeds > 1 and config.teacher == HUMAN:
        raise InputError("--seeds would ask people about several runs at once: leave it out")


def _run(folders: Sequence[RunFolder], *, restored: bool) -> None:
    with contextlib.ExitStack() as held:
        for folder in folders:
            held.enter_context(folder.lock())
        training = Training([TrainConfig.from_json(folder.config) for folder in folders], folders)
        if restored:
            training.restore()
        training.run()
