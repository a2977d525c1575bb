"""What the package stands on: the core works with the core dependencies alone, and the bounds are true."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LICENCES = (ROOT / "docs" / "dependencies.md").read_text()

# A finder in front of all others: what is not among the allowed names looks as if it were not installed.
BLOCKED = """
import importlib.abc, sys
FORBIDDEN = set({forbidden!r})

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""
USED = """
import importlib, pkgutil
import jax.numpy as jnp, numpy as np
import rewardsmith as rs

OPTIONAL = ("rewardsmith.envs.native.gymnax", "rewardsmith.envs.native.brax")
for module in pkgutil.walk_packages(rs.__path__, "rewardsmith."):
    if not module.name.startswith(OPTIONAL) and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
world = rs.MDP(np.full((2, 2, 2), 0.5), [1.0, 0.0], 0.9)
problem = rs.BilevelProblem(
    world, reward=lambda x: x, upper_loss=lambda x, policy: jnp.sum(policy[:, 0]), temperature=1.0
)
phi, gradient = rs.hypergradient(problem, jnp.zeros((2, 2)))
assert abs(float(phi) - 1.0) < 1e-6 and gradient.shape == (2, 2)
"""
COMMAND = """
from rewardsmith.cli import main
main({arguments!r})
"""


def closure(names):
    """Canonical names of all that the requirements bring along on this machine."""
    found, waiting = set(), [Requirement(line) for line in names]
    while waiting:
        wanted = waiting.pop()
        for extra in {"", *wanted.extras}:
            name = canonicalize_name(wanted.name)
            if (name, extra) in found or (wanted.marker and not wanted.marker.evaluate({"extra": extra})):
                continue
            found.add((name, extra))
            lines = importlib.metadata.requires(name) or []
            for line in map(Requirement, lines):
                if line.marker is None or line.marker.evaluate({"extra": extra}):
                    waiting.append(line)
    return {name for name, _ in found}


def forbidden():
    """Modules of this environment that no core dependency brings."""
    core = closure(PROJECT["dependencies"]) | {"rewardsmith", "packaging"}
    modules = importlib.metadata.packages_distributions()
    return sorted(
        module
        for module, owners in modules.items()
        if not {canonicalize_name(owner) for owner in owners} & core
        and module not in sys.stdlib_module_names
        and not module.startswith("_")
    )


def run_without(modules, program):
    script = BLOCKED.format(forbidden=modules) + program
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)


def test_what_is_blocked_are_the_extras():
    assert {"gymnax", "brax", "ray", "optuna", "minari", "psycopg", "pytest", "hypothesis"} <= set(
        forbidden()
    )
    assert not {"jax", "equinox", "gymnasium", "mujoco", "ale_py", "fastapi", "tyro"} & set(forbidden())


def test_the_core_works_without_any_extra():
    done = run_without(forbidden(), USED + COMMAND.format(arguments=["list"]))
    assert done.returncode == 0, done.stderr
    assert "m-sobirl" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train", "--env", "gymnax/Pendulum-v1"], "gymnax"),
        (["train", "--env", "brax/ant"], "brax"),
        (["sweep", "--methods", "sac", "--engine", "ray"], "ray"),
        (["tune", "--search", "discount=0.9:0.99"], "tune"),
        (["label", "postgresql://localhost/answers", "--clips", "clips"], "postgresql"),
        (["label", "store", "--minari", "D4RL/door/human-v2"], "minari"),
    ],
)
def test_an_extra_that_is_missing_is_named(arguments, extra, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_without(forbidden(), COMMAND.format(arguments=arguments))
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and f"rewardsmith[{extra}]" in lines[0]


def test_all_but_atari_works_without_its_emulator(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--env", "ALE/Pong-v5", "--preset", "atari"]
    done = run_without(["ale_py"], COMMAND.format(arguments=arguments))
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "ale-py" in done.stderr


def test_every_requirement_has_a_lower_bound_and_a_line_with_its_licence():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for line in {line for group in groups for line in group}:
        wanted = Requirement(line)
        assert re.fullmatch(r">=[\d.]+", str(wanted.specifier)), line
        assert f"| `{wanted.name}` |" in LICENCES, f"docs/dependencies.md has no row for {wanted.name}"


def test_what_is_under_the_gpl_is_known_and_told():
    found = set()
    for name in closure(PROJECT["dependencies"]):
        told = importlib.metadata.metadata(name)
        classifiers = [line for line in told.get_all("Classifier") or [] if line.startswith("License")]
        text = " ".join(
            [told.get("License-Expression") or "", (told.get("License") or "")[:200], *classifiers]
        )
        if re.search(r"(?<!L)GPL|GNU (Affero )?General Public", text) and "Lesser" not in text:
            found.add(name)
    assert found == {"ale-py"}
    assert "| `ale-py` | **GPL-2.0** |" in LICENCES
