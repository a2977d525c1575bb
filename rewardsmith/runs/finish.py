"""What is made of a run once its training is done: evaluation, film, curves, report."""

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._core import InputError
from .._core.atomic import writing
from ..envs import film
from .audit.run import audit_run, is_cheap
from .evaluate import evaluate
from .folder import RunFolder
from .loading import load_policy
from .parts import make_env
from .plot import plot_runs
from .report import write_report

_FILM_SEED = 0
_FINAL_EPISODES = 20


def finish(folder: RunFolder, *, with_film: bool = True) -> None:
    """Evaluate a finished run, film it, draw its curves, audit it, write its report; print where they are.

    A film that cannot be drawn on this machine is a warning, not the end. An audit that would take long
    beside the run, and that of a run without a film, is left to ``rewardsmith report``.
    """
    result = evaluate_run(folder.path, _FINAL_EPISODES, seed=0)
    if with_film:
        try:
            film_run(folder.path, _FILM_SEED)
        except InputError as error:
            folder.warn(f"no film: {error}")
            print(f"warning: no film: {error}")
    plot_runs([folder.path], folder.curves_path)
    audit = audit_run(folder.path) if with_film and is_cheap(folder) else None
    write_report(folder.path, audit=audit)
    print(
        f"true return {result['mean']:.1f} ± {result['std']:.1f} over {result['episodes']} episodes "
        f"after {result['step']:,} steps"
    )
    for path in (folder.film_path, folder.curves_path, folder.report_path):
        if path.exists():
            print(f"{path.stem:7} {path}")
    print(f"run     {folder.path}")


def evaluate_run(path: Path | str, episodes: int, seed: int, sampled: bool | None = None) -> dict[str, Any]:
    """Evaluate the newest checkpoint under the true reward, and write the result to ``eval.json``.

    Args:
        path: folder of the run.
        episodes: each played to its end.
        seed: of the starts and of sampled actions.
        sampled: act by samples of the policy, or by its mode; None: as the run was evaluated.

    Raises:
        InputError: no run, no checkpoint, or fewer than one episode.
    """
    if episodes < 1:
        raise InputError(f"--episodes is {episodes}: give a whole number of at least 1")
    if seed < 0:
        raise InputError(f"--seed is {seed}: give 0 or a positive whole number")
    folder, config, policy, step = load_policy(path)
    sampled = config.eval_sampled if sampled is None else sampled
    with contextlib.closing(make_env(config, episodes, judged=True)) as env:
        found = evaluate(policy, env, seed, sampled=sampled)
    result = {
        "step": step,
        "episodes": episodes,
        "seed": seed,
        "sampled": sampled,
        "mean": float(found.returns.mean()),
        "std": float(found.returns.std()),
        "returns": found.returns.tolist(),
        "lengths": found.lengths.tolist(),
    }
    with writing(folder.eval_path) as temporary:
        temporary.write_text(json.dumps(result, indent=2))
    return result


def film_run(path: Path | str, seed: int) -> Path:
    """Film one episode of the newest checkpoint's policy; the path of the film."""
    folder, config, policy, _ = load_policy(path)
    options = config.env_options(judged=True)
    with contextlib.closing(make_env(config, 1, judged=True)) as env:
        spec = env.spec
    mode, sample = eqx.filter_jit(policy.mode), eqx.filter_jit(policy.sample)
    steps = itertools.count()

    def act(observation: np.ndarray) -> np.ndarray:
        seen = jnp.asarray(observation, jnp.uint8 if spec.image else jnp.float32)
        key = jax.random.fold_in(jax.random.key(seed), next(steps))
        return spec.from_policy(np.asarray(sample(seen, key) if config.eval_sampled else mode(seen)))

    return film(config.env, act, folder.film_path, seed=seed, options=options)
