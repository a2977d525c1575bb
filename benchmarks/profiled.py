"""One run of the command line in this process, its seconds counted part by part."""

import os
from pathlib import Path
from typing import Any

from .sampler import REST, Rule, Sampler

PACKAGES = ("rewardsmith", "jax", "equinox", "optax", "numpy", "mujoco", "ale-py")

_TRAINING = "rewardsmith/runs/training.py"


def _rule(part: str, file: str, functions: str = "") -> Rule:
    return Rule(part, file, frozenset(functions.split()))


# The first that holds counts: a compilation is one wherever it happens.
RULES: tuple[Rule, ...] = (
    _rule("compiling", "jax/_src/compiler.py"),
    _rule("compiling", "jax/_src/interpreters/partial_eval.py"),
    _rule("compiling", "jax/_src/interpreters/mlir.py"),
    _rule("compiling", "jax/_src/interpreters/pxla.py", "lower_sharding_computation compile"),
    _rule("imports", "<frozen importlib._bootstrap>"),
    _rule("film, curves, report", "rewardsmith/runs/finish.py", "film_run"),
    _rule("film, curves, report", "rewardsmith/runs/plot.py"),
    _rule("film, curves, report", "rewardsmith/runs/report.py"),
    _rule("evaluation", "rewardsmith/runs/finish.py", "evaluate_run"),
    _rule("evaluation", _TRAINING, "_evaluate _snapshot"),
    _rule("checkpoints", _TRAINING, "_checkpoint"),
    _rule("leader: asking", _TRAINING, "_ask"),
    _rule("leader: updates", _TRAINING, "_session"),
    _rule("environment", "rewardsmith/runs/seat.py", "act"),
    _rule("acting", _TRAINING, "_actions"),
    _rule("replay and learner", _TRAINING, "_iterate"),
)
PARTS = (*dict.fromkeys(rule.part for rule in RULES), REST)


def build(what: str):
    """`what`: "whole"; "no film"; or "pictures", without a film and with one episode judged at the end."""
    # Nothing was compiled before.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path("compiled").resolve())

    def measure(options: list[str]) -> dict[str, Any]:
        with Sampler(RULES) as sampler:
            import jax

            # A program then runs where it is called, and its time is not that of who waits for it.
            jax.config.update("jax_cpu_enable_async_dispatch", False)
            from rewardsmith.cli import main
            from rewardsmith.runs import finish

            if what != "whole":
                finish.film_run = lambda path, seed: Path(path, str(seed))
            if what == "pictures":
                finish._FINAL_EPISODES = 1
            try:
                main(["train", *options, "--out", "run"])
            except SystemExit as stop:
                raise RuntimeError(f"the run ended with exit status {stop.code}") from stop
        return dict(sampler.seconds)

    return measure
