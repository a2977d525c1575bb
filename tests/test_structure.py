"""The house as docs/design.md draws it: imports run down only, files stay small, nothing is pickled."""

import ast
from pathlib import Path

import pytest

import rewardsmith

PACKAGE = Path(rewardsmith.__file__).parent
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}

# Which rooms a room may import, besides itself. A room that is not built yet may stand here already.
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
    "follower": {"mdp", "envs", "_core"},
    "agents": {"mdp", "envs", "_core"},
    "exported": {"rewards", "preferences", "agents", "_core"},
    # The Bradley–Terry loss is a formula that the preference problem is made of.
    "problem": {"mdp", "rewards", "preferences", "_core"},
    "upper_losses": {"problem", "mdp", "_core"},
    "bilevel": BELOW_PROBLEM | {"problem", "upper_losses", "follower", "agents"},
    "problems": BELOW_PROBLEM | {"problem", "upper_losses"},
    "label": {"preferences", "_core"},
    "runs": ALL,
    "cli_exact": {"runs", "_core"},
    "cli_sweep": {"runs", "_core"},
    "cli_judge": {"runs", "_core"},
    "cli": ALL | {"cli_exact", "cli_sweep", "cli_judge"},
    "__main__": {"cli"},
    # The face re-exports.
    "__init__": ALL,
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
    for node in ast.walk(ast.parse(source)):
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
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell"):
                assert isinstance(node.value, ast.Constant) and node.value.value is False, name
            if isinstance(node, ast.Name):
                assert node.id not in ("eval", "exec"), name
