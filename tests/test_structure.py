"""The house as docs/design.md draws it: imports run down only, files stay small, nothing is pickled."""

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import rewardsmith

PACKAGE = Path(rewardsmith.__file__).parent
parsed = cache(ast.parse)
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}

# Which rooms a room may import, besides itself: the rows of docs/design.md.
BELOW_PROBLEM = {"_core", "mdp", "rewards", "preferences", "envs"}
ALL = BELOW_PROBLEM | {
    "follower",
    "agents",
    "exported",
    "problem",
    "upper_losses",
    "bilevel",
    "problems",
    "label",
    "runs",
}
MAY_IMPORT = {
    "_core": set(),
    "mdp": {"_core"},
    "rewards": {"_core"},
    "preferences": {"_core"},
    "envs": {"_core"},
    "follower": {"mdp", "_core"},
    "agents": {"mdp", "envs", "_core"},
    "exported": {"rewards", "preferences", "agents", "_core"},
    # The Bradley–Terry loss is a formula that the preference problem is made of.
    "problem": {"mdp", "rewards", "preferences", "_core"},
    "upper_losses": {"problem", "mdp", "_core"},
    "bilevel": BELOW_PROBLEM | {"problem", "upper_losses", "follower", "agents"},
    "problems": BELOW_PROBLEM | {"problem", "upper_losses"},
    "label": {"preferences", "_core"},
    "runs": ALL - {"runs", "label"},
    "cli_exact": {"runs", "_core"},
    "cli_sweep": {"runs", "_core"},
    "cli_judge": {"runs", "_core"},
    "cli": {"envs", "label", "runs", "cli_exact", "cli_sweep", "cli_judge", "_core"},
    "__main__": {"cli"},
    # The face re-exports.
    "__init__": ALL,
}
# Which libraries a room may import, wherever in it: mathematics needs no simulator, server or database.
# A folder of a room that has a row of its own has that alone.
ARRAYS = {"jax", "equinox", "jaxtyping", "numpy"}
LIBRARIES = {
    "_core": ARRAYS | {"optax", "safetensors"},
    "mdp": ARRAYS,
    "rewards": ARRAYS,
    "preferences": ARRAYS | {"polars"},
    "preferences/models": ARRAYS,
    "preferences/attribution": ARRAYS | {"optax", "lineax", "scipy"},
    "preferences/store": {"numpy", "polars", "safetensors", "sqlalchemy", "psycopg", "minari"},
    "envs": {"numpy", "gymnasium", "ale_py", "mujoco", "imageio"},
    "envs/native": ARRAYS,
    "follower": ARRAYS,
    "agents": ARRAYS | {"optax"},
    "exported": ARRAYS,
    "problem": ARRAYS,
    "upper_losses": ARRAYS,
    "bilevel": ARRAYS | {"optax", "lineax"},
    "problems": ARRAYS,
    "label": {"fastapi", "starlette", "pydantic", "uvicorn", "polars"},
    "runs": ARRAYS | {"optax", "polars", "scipy", "rich", "matplotlib", "jinja2", "tyro", "ray", "optuna"},
    "cli_exact": {"tyro"},
    "cli_sweep": {"tyro"},
    "cli_judge": {"tyro"},
    "cli": {"tyro"},
    "__main__": set(),
    "__init__": set(),
}
OWN_ROW = tuple(f"{row}/" for row in LIBRARIES if "/" in row)
# What a strict checker is told to let pass; pyproject.toml says why.
LENIENT = {
    "reportUnknownMemberType",
    "reportUnknownArgumentType",
    "reportUnknownVariableType",
    "reportUnknownLambdaType",
    "reportUnknownParameterType",
    "reportMissingTypeStubs",
    "reportConstantRedefinition",
    "reportUnnecessaryIsInstance",
}
# Records of comparisons are read by people and pages that have no use for JAX.
WITHOUT_JAX = (
    "preferences/clips.py",
    "preferences/comparisons.py",
    "preferences/schedule.py",
    "preferences/selection.py",
    "preferences/store/",
    "preferences/teachers.py",
    "label/",
    "envs/",
)
# But for worlds that run inside compiled programs, which are imported when one is asked for.
WITH_JAX = "envs/native/"


def room_of(name):
    return name.split("/")[0].removesuffix(".py")


def imports(name, source):
    """Absolute dotted names of all that a module imports, wherever in it."""
    # A package's own __init__ is the package itself, so one dot is where it lies in either case.
    package = ["rewardsmith", *name.split("/")[:-1]]
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            yield from (".".join([*module, alias.name]) for alias in node.names)


def rooms_imported(name, source):
    for imported in imports(name, source):
        first, *rest = imported.split(".")
        if first == "rewardsmith" and rest and rest[0] != "__version__":
            yield rest[0]


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_down(name):
    room = room_of(name)
    assert room in MAY_IMPORT, f"{name}: a new room needs a row in this table"
    forbidden = set(rooms_imported(name, MODULES[name].read_text())) - MAY_IMPORT[room] - {room}
    assert not forbidden, f"{name} imports {sorted(forbidden)}"


def test_the_rule_can_fail():
    source = "from ..bilevel import SoBiRL\nfrom . import losses\n"
    source += "import rewardsmith.runs.train\nfrom .. import problem"
    assert set(rooms_imported("agents/sac.py", source)) == {"bilevel", "agents", "runs", "problem"}
    assert set(rooms_imported("problem.py", "from .mdp import MDP\nfrom . import rewards")) == {
        "mdp",
        "rewards",
    }
    assert set(rooms_imported("runs/__init__.py", "from .train import train")) == {"runs"}
    assert set(rooms_imported("problem.py", "from ._core import MLP\nimport numpy")) == {"_core"}


def test_the_table_of_rooms_is_that_of_the_design():
    lines = (PACKAGE.parent / "docs" / "design.md").read_text().splitlines()
    rows = [line.split("|")[1:3] for line in lines if re.match(r"\| `\w+` \|", line)]
    drawn = {name.strip(" `"): set(re.findall(r"`(\w+)`", allowed)) for name, allowed in rows}
    here = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert here == MAY_IMPORT.keys()
    assert {room: MAY_IMPORT[room] for room in MAY_IMPORT if room not in ("__main__", "__init__")} == {
        room: allowed for room, allowed in drawn.items() if room in MAY_IMPORT
    }


def libraries(name, source):
    tops = {imported.split(".")[0] for imported in imports(name, source)}
    return tops - sys.stdlib_module_names - {"rewardsmith"}


def libraries_of(name):
    return LIBRARIES["/".join(name.split("/")[:2]) if name.startswith(OWN_ROW) else room_of(name)]


def test_libraries_are_imported_where_they_belong():
    used = {name: libraries(name, path.read_text()) for name, path in MODULES.items()}
    assert not {
        name: found - libraries_of(name) for name, found in used.items() if found - libraries_of(name)
    }
    assert {"jax", "fastapi"} == libraries(
        "mdp/model.py", "import jax.numpy, json\nfrom fastapi import FastAPI"
    )
    assert "sqlalchemy" not in libraries_of("bilevel/sampled/hpgd.py") | libraries_of("preferences/clips.py")
    assert "jax" not in libraries_of("label/api.py") | libraries_of("preferences/store/store.py")


def test_the_checker_is_strict_in_every_room():
    """`make lint` runs it."""
    config = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["basedpyright"]
    assert config.pop("typeCheckingMode") == "strict" and config.pop("include") == ["rewardsmith"]
    assert config.pop("pythonVersion") == "3.11"
    assert {rule for rule, level in config.items() if level != "error"} <= LENIENT


def untyped(source):
    """Functions that leave open what they take or give, lambdas aside."""
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own = node.args
            taken = [*own.posonlyargs, *own.args, *own.kwonlyargs, own.vararg, own.kwarg]
            named = [one for one in taken if one is not None and one.arg not in ("self", "cls")]
            made = node.name.startswith("__") and node.name.endswith("__")
            if any(one.annotation is None for one in named) or not (node.returns or made):
                yield node.name


def test_functions_say_what_they_take_and_give():
    open_ones = {name: list(untyped(path.read_text())) for name, path in MODULES.items()}
    assert not {name: found for name, found in open_ones.items() if found}


def test_a_missing_type_is_seen():
    source = "def f(a: int, *b: int) -> int:\n  def g(c: int): ...\nclass C:\n  def __init__(self, d): ..."
    assert list(untyped(source)) == ["g", "__init__"]
    assert not list(untyped("def f(a: int) -> int: ...\nclass C:\n  def __init__(self): ..."))


def test_records_do_not_need_jax():
    for name, path in MODULES.items():
        if name.startswith(WITHOUT_JAX) and not name.startswith(WITH_JAX):
            first = {imported.split(".")[0] for imported in imports(name, path.read_text())}
            assert not first & {"jax", "jaxlib", "equinox", "optax"}, name


def test_native_worlds_are_imported_only_when_one_is_asked_for():
    for name, path in MODULES.items():
        if name.startswith("envs/") and not name.startswith(WITH_JAX):
            at_once = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
            found = imports(name, "\n".join(map(ast.unparse, at_once)))
            assert not [imported for imported in found if imported.startswith("rewardsmith.envs.native")], (
                name
            )


@pytest.mark.parametrize("folder", ["rewardsmith", "tests", "benchmarks", "examples"])
def test_no_file_is_long(folder):
    files = (PACKAGE.parent / folder).rglob("*.py")
    long = {path.name: count for path in files if (count := len(path.read_text().splitlines())) > 400}
    assert not long


def test_nothing_is_pickled_and_no_shell_is_asked():
    unsafe = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for name, path in MODULES.items():
        source = path.read_text()
        assert not {imported.split(".")[0] for imported in imports(name, source)} & unsafe, name
        for node in ast.walk(parsed(source)):
            if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell"):
                assert isinstance(node.value, ast.Constant) and node.value.value is False, name
            if isinstance(node, ast.Name):
                assert node.id not in ("eval", "exec"), name
