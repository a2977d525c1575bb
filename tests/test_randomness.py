"""Everything random follows from a run's seed: nothing else is drawn from, and no order is left to chance."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rewardsmith
from rewardsmith.runs.choices import METHODS
from rewardsmith.runs.folder import RunFolder
from tests.fuzzing import LONG
from tests.small_runs import assert_same

ROOT = Path(__file__).parents[1]
PACKAGE = Path(rewardsmith.__file__).parent
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}

# What only the machine can give, for secrets, and for names that no two may share.
SECRETS = {
    "label/app.py": "keys that films are asked for by",
    "label/serve.py": "the link of the person at this machine",
    "preferences/store/people.py": "tokens and sessions",
    "preferences/store/schema.py": "what tells a store from all others",
    "runs/sweep/on_ray.py": "the token of a cluster on this machine",
}
# Of NumPy's module what draws nothing by itself.
WITHOUT_STATE = {"Generator", "SeedSequence", "BitGenerator", "PCG64"}
# Of `uuid` what draws nothing.
NAMES_ONLY = {"UUID", "uuid3", "uuid5"}
CLOCKS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "now", "getpid"}
LISTINGS = {"glob", "rglob", "iterdir", "listdir", "scandir"}
# Who takes any iterable and does not care for its order.
ANY_ORDER = {"sorted", "set", "frozenset", "len", "any", "all", "min", "max"}
# Loops over what a folder holds, each turn of which could come first.
UNORDERED_LOOPS = {
    ("label/app.py", "iterdir"): "files of the page, each under its name",
    ("preferences/store/clip_files.py", "glob"): "removes old files",
    ("runs/audit/films.py", "glob"): "removes old films",
    ("runs/folder.py", "glob"): "removes half-written files",
    ("runs/folder.py", "iterdir"): "numbered files, which are sorted at once",
}


def dotted(node):
    """`np.random.default_rng` of the node that says so; "" of anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def unfounded(source):
    """Each place that draws from anything but a seed, as (line, words); `secret …` where only names tell."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            from_module = getattr(node, "module", None) or ""
            whole = getattr(node, "level", 0) == 0
            for name in node.names:
                module = (from_module or name.name).split(".")[0]
                drawn_from = f"{from_module}.{name.name}".strip(".")
                if whole and module == "random":
                    yield node.lineno, "the module random"
                elif whole and module == "secrets":
                    yield node.lineno, "secret secrets"
                elif whole and from_module == "uuid" and name.name not in NAMES_ONLY:
                    yield node.lineno, f"secret {drawn_from}"
                elif whole and from_module in ("numpy.random", "os") and _draws(drawn_from):
                    yield node.lineno, drawn_from
        elif isinstance(node, ast.Attribute):
            name = dotted(node)
            if name.startswith("uuid.") and node.attr not in NAMES_ONLY:
                yield node.lineno, f"secret {name}"
            elif _draws(name):
                yield node.lineno, name
        elif isinstance(node, ast.Call):
            called = dotted(node.func) or getattr(node.func, "attr", "")
            if called.split(".")[-1] in ("default_rng", "SeedSequence") and not (node.args or node.keywords):
                yield node.lineno, f"{called}() without a seed"
            if called.split(".")[-1] in ("default_rng", "SeedSequence", "PRNGKey", "key", "seed", "reset"):
                within = {dotted(inner.func).split(".")[-1] for inner in ast.walk(node) if _called(inner)}
                if found := within & (CLOCKS | {"id", "hash"}):
                    yield node.lineno, f"a seed by {', '.join(sorted(found))}"


def _called(node):
    return isinstance(node, ast.Call)


def _draws(name):
    first, _, rest = name.partition(".")
    if name in ("os.urandom", "os.getrandom"):
        return True
    numpy = first in ("np", "numpy", "onp") and rest.startswith("random.")
    return numpy and rest.split(".")[1] not in WITHOUT_STATE | {"default_rng"}


def unordered(source):
    """Each loop over a set or over a folder as the disk lists it, as (line, words)."""
    tree = ast.parse(source)
    excused = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and dotted(node.func) in ANY_ORDER
        for argument in node.args
        for inner in (argument, *(argument.generators if isinstance(argument, ast.GeneratorExp) else ()))
    }
    sets = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and _is_set(node.value, ())
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.For):
            gone_through = [node.iter]
        elif isinstance(node, ast.ListComp | ast.DictComp | ast.GeneratorExp):
            gone_through = [each.iter for each in node.generators if id(each) not in excused]
        elif isinstance(node, ast.Call) and id(node) not in excused:
            # list(a set), np.array(a set), joined names.
            gone_through = [] if dotted(node.func) in ANY_ORDER else _ordered_by(node)
        elif isinstance(node, ast.Starred):
            gone_through = [node.value]
        else:
            continue
        for each in gone_through:
            if _is_set(each, sets):
                yield each.lineno, "a set"
            elif isinstance(each, ast.Call) and (name := getattr(each.func, "attr", "")) in LISTINGS:
                yield each.lineno, name


def _ordered_by(call):
    """The arguments whose order what is called keeps."""
    name = dotted(call.func) or getattr(call.func, "attr", "")
    keeping = ("list", "tuple", "enumerate", "zip", "map", "iter", "next", "dict.fromkeys", "join")
    numpy = name in ("np.array", "np.asarray", "np.fromiter", "np.stack", "jnp.array", "jnp.asarray")
    return call.args if name in keeping or name.split(".")[-1] == "join" or numpy else []


def _is_set(node, names):
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.Name):
        return node.id in names
    if isinstance(node, ast.Call):
        called = dotted(node.func)
        return called in ("set", "frozenset") or called.startswith(("set.", "frozenset."))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr | ast.Sub | ast.BitXor):
        return _is_set(node.left, names) or _is_set(node.right, names)
    return False


def test_all_randomness_comes_from_a_seed():
    drawn = {name: list(unfounded(path.read_text())) for name, path in MODULES.items()}
    secret = {name for name, found in drawn.items() if any(what.startswith("secret") for _, what in found)}
    assert secret == SECRETS.keys()
    others = [f"{n}:{line} {what}" for n, found in drawn.items() for line, what in found]
    assert not [one for one in others if " secret " not in one]


def test_no_order_is_left_to_hashes_or_to_the_disk():
    loops = {(name, what) for name, path in MODULES.items() for _, what in unordered(path.read_text())}
    assert loops == UNORDERED_LOOPS.keys()


@pytest.mark.parametrize(
    "source",
    [
        "import random",
        "from random import choice",
        "import secrets",
        "from uuid import uuid4",
        "import uuid\nname = uuid.uuid1()",
        "import os\nos.urandom(8)",
        "from os import urandom",
        "np.random.seed(0)",
        "x = np.random.normal(size=3)",
        "from numpy.random import normal",
        "rng = np.random.default_rng()",
        "rng = default_rng()",
        "key = jax.random.key(time.time_ns())",
        "rng = np.random.default_rng(int(time.time()))",
        "rng = np.random.default_rng(hash(name))",
        "rng = np.random.RandomState(3)",
    ],
)
def test_the_rule_about_seeds_can_fail(source):
    assert list(unfounded(source))


@pytest.mark.parametrize(
    "source",
    [
        "for name in {'a', 'b'}: pass",
        "names = set(rows)\nfor name in names: pass",
        "names: set[int] = set()\nx = [n for n in names]",
        "x = list(set(rows))",
        "x = {n: 0 for n in frozenset(rows)}",
        "x = {n: 0 for n in set.intersection(*rows)}",
        "x = ', '.join(set(rows) - known)",
        "x = np.array(list(a | {1}))",
        "x = [*{1, 2}]",
        "for path in folder.glob('*'): pass",
        "x = [path for path in folder.iterdir()]",
        "x = list(os.listdir(folder))",
        "for path in os.scandir(folder): pass",
    ],
)
def test_the_rule_about_order_can_fail(source):
    assert list(unordered(source))


@pytest.mark.parametrize(
    "source",
    [
        "rng = np.random.default_rng((seed, 1))",
        "words = np.random.SeedSequence(seed).generate_state(3)",
        "def f(rng: np.random.Generator): return rng.normal()",
        "key = jax.random.key(0)",
        "from .random import x",
        "uuid.UUID(text)",
    ],
)
def test_what_has_a_seed_passes(source):
    assert not list(unfounded(source))


@pytest.mark.parametrize(
    "source",
    [
        "for name in sorted({'a', 'b'}): pass",
        "x = sorted(p for p in folder.glob('*') if p)",
        "x = any(folder.iterdir())",
        "x = {n for n in set(rows)}",
        "x = len(set(rows))",
        "x = 3 in set(rows)",
        "for name in {'a': 1}: pass",
    ],
)
def test_what_has_an_order_passes(source):
    assert not list(unordered(source))


# ---- by running ---------------------------------------------------------------------------------

RUN = """
import sys
from pathlib import Path
from rewardsmith.runs.train import train
from tests.small_runs import settings
changes = {"hidden": (8,), "learning_starts": 120, "leader_warmup_steps": 4, "snapshot_every": None}
for method in sys.argv[2:]:
    pebble = {"pretrain_steps": 80} if method == "pebble" else {}
    config = settings(env="Pendulum-v1", method=method, steps=320, **changes | pebble)
    train(config, Path(sys.argv[1]) / method)
"""
EVERY = list(METHODS) if LONG else ["sobirl"]


def test_two_processes_find_the_same_bit_for_bit(tmp_path):
    """Whatever the hashes of strings, and so the order of sets, are in either."""
    for salt in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", RUN, tmp_path / salt, *EVERY],
            cwd=ROOT,
            env=os.environ
            | {"PYTHONHASHSEED": salt, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
            check=True,
            stdout=subprocess.DEVNULL,
        )
    for method in EVERY:
        first, second = (RunFolder.open(tmp_path / salt / method) for salt in ("1", "2"))
        assert_same(first, second)
