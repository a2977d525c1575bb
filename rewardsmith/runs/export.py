"""A run's reward and policy as a folder that stands by itself, with a card that says how they were judged."""

import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import polars as pl

from .. import exported
from .._core import InputError
from .._core.atomic import writing
from ..envs import EnvSpec
from ..exported import Spaces, describe_policy, describe_reward, save_module, write_config
from ..exported.layout import CARD, POLICY, REWARD, STANDALONE
from ..rewards import LearnedReward
from .audit.page import audit_rows
from .audit.run import current_audit
from .audit.warn import warnings_of
from .config import TrainConfig
from .flat import flatten
from .folder import RunFolder
from .loading import load_policy, load_reward
from .metrics import read_metrics, recent_accuracy
from .parts import make_env, seen_by_networks
from .plot import method_label


def export_run(run: Path | str, out: Path | None = None) -> Path:
    """Write the newest good checkpoint's reward and policy, their description and a card into one folder.

    Either all of the folder is there afterwards or nothing of it.

    Args:
        run: folder of the run.
        out: folder to write; None: ``export`` in the run's.

    Returns:
        The folder.

    Raises:
        InputError: no run, no whole checkpoint, numbers that are not finite, a place that holds something or
            cannot be written, or a run that was training meanwhile.
    """
    run_folder, config, policy, step = load_policy(run)
    out = run_folder.path / "export" if out is None else out
    _refuse_occupied(out)
    learned, spec = None, None
    if config.learns_reward:
        experiment, learned, reward_step = load_reward(run_folder, config)
        spec = experiment.spec
        if reward_step != step:
            raise InputError(f"{run_folder.path} wrote a checkpoint meanwhile: export it again")
    else:
        with contextlib.closing(make_env(config, 1)) as env:
            spec = env.spec
    spaces = spaces_of(config, spec)
    described = _described(run_folder, config, spec, spaces, step)
    with _appearing(out) as folder:
        described["policy"] = save_module(folder, POLICY, policy, describe_policy(policy))
        described["reward"] = None if learned is None else _save_reward(folder, learned)
        write_config(folder, described)
        code = Path(exported.__file__).with_name(STANDALONE).read_text("utf-8")
        for name, text in ((STANDALONE, code), (CARD, _card(run_folder, config, described))):
            with writing(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
    return out


def spaces_of(config: TrainConfig, spec: EnvSpec) -> Spaces:
    """What the networks of a run see, and the units of its environment's actions."""
    observation, _ = seen_by_networks(config, spec)
    return Spaces(config.env, observation, spec.action_low, spec.action_high, spec.num_actions)


def _save_reward(folder: Path, learned: LearnedReward) -> dict[str, Any]:
    entry = save_module(folder, REWARD, learned, describe_reward(learned))
    # For those who read; what counts lies among the arrays.
    for name in ("mean", "deviation"):
        entry[name] = np.asarray(getattr(learned, name)).tolist()
    return entry


def _described(
    folder: RunFolder, config: TrainConfig, spec: EnvSpec, spaces: Spaces, step: int
) -> dict[str, Any]:
    stored = folder.config
    trained = {"method": method_label(stored), "step": step, "steps": config.steps, "seed": config.seed}
    trained |= {"discount": config.discount, "sampled": config.eval_sampled}
    if config.learns_reward:
        trained |= {
            "comparisons": config.comparisons,
            "teacher": config.teacher,
            "preference_model": config.preference_model,
            "clip_length": config.clip_length,
            "normalised": config.reward_output == "normalise",
        }
    return {
        "rewardsmith": str(stored.get("rewardsmith", "unknown")),
        "environment": {
            "id": config.env,
            "options": dataclasses.asdict(config.env_options()),
            "max_episode_steps": spec.max_episode_steps,
            "can_terminate": spec.can_terminate,
        },
        **spaces.to_json(),
        # What Rewardsmith does in front of the networks.
        "networks_see": {
            "observations": "float32" if isinstance(spaces.observation, int) else "uint8 / 255",
            "actions": "indices from 0" if spaces.discrete else "low .. high as -1 .. 1, cut beyond",
        },
        "trained": trained,
        "versions": dict(flatten(stored.get("versions", {}))),
    }


def _card(folder: RunFolder, config: TrainConfig, described: Mapping[str, Any]) -> str:
    metrics = read_metrics(folder.path) if folder.metrics_path.exists() else None
    result, audit = _true_return(folder, metrics), current_audit(folder)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rewardsmith.runs"),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"yaml": json.dumps, "code": _code}
    return environment.get_template("card.md").render(
        name=f"{described['trained']['method']} on {config.env}",
        config=config,
        described=described,
        result=result,
        judged=_judged(metrics, result),
        audit=[] if audit is None else audit_rows(audit),
        cautions=[] if audit is None else warnings_of(audit),
        warned=[" ".join(line.split()) for line in folder.warnings()],
    )


def _true_return(folder: RunFolder, metrics: pl.DataFrame | None) -> dict[str, Any] | None:
    """Mean, deviation over episodes, and a line on where they are from; None where none was measured."""
    found = folder.evaluation()
    if found is not None:
        if found.std is None or found.episodes is None or found.seed is None:
            raise InputError(f"{folder.eval_path} is damaged: evaluate the run again")
        told = f"{found.episodes} episodes, seed {found.seed}, at step {found.step:,}"
        return {"mean": found.mean, "std": found.std, "told": told}
    rows = None if metrics is None else metrics.drop_nulls(["true_return", "true_return_std"])
    if rows is None or rows.is_empty():
        return None
    last = rows.row(-1, named=True)
    told = f"last evaluation of the run, at step {last['step']:,}"
    return {"mean": last["true_return"], "std": last["true_return_std"], "told": told}


def _judged(metrics: pl.DataFrame | None, result: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    rows = []
    if result is not None:
        mean, std = result["mean"], result["std"]
        rows.append(("true return of the policy", f"{mean:.4g} ± {std:.3g} ({result['told']})"))
    if metrics is None:
        return rows
    accuracy = recent_accuracy(metrics)
    if accuracy is not None:
        rows.append(("preference accuracy", f"{accuracy:.1%} of fresh comparisons, second half of the run"))
    held_out = metrics["held_out_accuracy"].drop_nulls().drop_nans()
    if len(held_out):
        rows.append(("held-out accuracy", f"{held_out[-1]:.1%} of answers that never trained it"))
    asked = metrics["comparisons"].drop_nulls()
    if len(asked) and asked[-1]:
        rows.append(("comparisons answered", f"{asked[-1]:,}"))
    return rows


def _code(text: Any) -> str:
    """As code in Markdown, whatever stands in it."""
    return "`" + " ".join(str(text).replace("`", "'").split()) + "`"


def _refuse_occupied(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something already: give another --out")


@contextlib.contextmanager
def _appearing(out: Path) -> Generator[Path, None, None]:
    """A folder beside `out` that becomes it in one step on success, and is removed otherwise."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    except OSError as error:
        raise InputError(f"cannot write {out} ({error.strerror}): give another --out") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        try:
            # Onto an empty folder this succeeds, onto any other it does not.
            temporary.rename(out)
        except OSError as error:
            raise InputError(f"cannot write {out} ({error.strerror}): give another --out") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
