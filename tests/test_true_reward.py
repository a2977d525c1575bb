"""The true reward cannot be read by accident, and only the modules named here can read it at all."""

import ast
import copy
import json
import operator
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rewardsmith
from rewardsmith._core import TracedTrueReward, TrueReward, TrueRewardReader

PACKAGE = Path(rewardsmith.__file__).parent

# Whoever holds a `TrueRewardReader` can read true rewards: those that teach, evaluate, write checkpoints,
# and the one method that is given the true reward.
READERS = {"preferences/teachers.py"} | {
    f"runs/{name}.py"
    for name in ("evaluate", "seat", "fused", "collect", "people", "audit/coverage", "audit/play")
}
# Rooms of learners: they must not so much as name the type.
BLIND = {"agents", "bilevel", "rewards", "follower", "mdp", "problem.py"}


# Either type, of the same numbers.
KINDS = {
    "host": lambda: TrueReward([[1.5, 2.5], [3.5, 4.5]]),
    "traced": lambda: TracedTrueReward(jnp.array([[1.5, 2.5], [3.5, 4.5]])),
}


@pytest.fixture
def sealed():
    return KINDS["host"]()


def attempt_to_iterate(value):
    for _ in value:
        pass


ATTEMPTS = {
    "np.asarray": np.asarray,
    "np.array": np.array,
    "np.array of a list": lambda value: np.array([value, value]),
    "np.stack": lambda value: np.stack([value, value]),
    "np.asarray with a dtype": lambda value: np.asarray(value, dtype=float),
    "np.sum": np.sum,
    "np.add": lambda value: np.add(value, 1.0),
    "array + sealed": lambda value: np.ones((2, 2)) + value,
    "array @ sealed": lambda value: np.ones((2, 2)) @ value,
    "array == sealed": lambda value: np.ones((2, 2)) == value,
    "array[...] = sealed": lambda value: np.zeros((2, 2)).__setitem__(..., value),
    "np.fromiter": lambda value: np.fromiter(value, float),
    "np.save": lambda value: np.save("/dev/null", value),
    "jnp.asarray": jnp.asarray,
    "jnp.array of a list": lambda value: jnp.array([value, value]),
    "jnp.sum": jnp.sum,
    "jax array * sealed": lambda value: jnp.ones((2, 2)) * value,
    "jit": lambda value: jax.jit(lambda v: v + 0.0)(value),
    "jax.grad": lambda value: jax.grad(lambda x: x * value[0, 0])(1.0),
    "float": lambda value: float(value[0, 0]),
    "int": lambda value: int(value[0, 0]),
    "complex": lambda value: complex(value[0, 0]),
    "round": lambda value: round(value[0, 0]),
    "index": lambda value: operator.index(value[0, 0]),
    "bool": lambda value: bool(value[0, 0]),
    "iteration": attempt_to_iterate,
    "list": list,
    "sum": sum,
    "max": max,
    "sorted": lambda value: sorted(value[0]),
    "unpacking": lambda value: (lambda a, b: None)(*value),
    "in": lambda value: 1.5 in value,
    "memoryview": memoryview,
    "bytes": bytes,
    "pickle": pickle.dumps,
    "copy": copy.deepcopy,
    "json": json.dumps,
    "negation": operator.neg,
    "abs": abs,
    "a format": lambda value: f"{value[0, 0]:.3f}",
    **{
        f"{do.__name__} {side}": lambda value, do=do, swap=swap: do(2.0, value) if swap else do(value, 2.0)
        for do in (
            operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
            operator.pow, operator.matmul, operator.lt, operator.le, operator.gt, operator.ge,
        )
        for side, swap in (("left", False), ("right", True))
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_cannot_be_read(kind, attempt):
    # JAX turns away what it cannot trace with either.
    with pytest.raises((TypeError, ValueError), match="."):
        attempt(KINDS[kind]())


def test_a_program_carries_it_and_cannot_read_it():
    def step(total, value):
        with pytest.raises(TypeError):
            total + value
        return total + 1.0, TracedTrueReward(value.reveal(TrueRewardReader.CEILING) * 2.0)

    _, doubled = jax.jit(lambda rewards: jax.lax.scan(step, 0.0, rewards))(KINDS["traced"]())
    assert repr(doubled) == "TracedTrueReward(shape=(2, 2), sealed)" and doubled.shape == (2, 2)
    np.testing.assert_array_equal(
        doubled[1].sealed().reveal(TrueRewardReader.TEACHER), [7.0, 9.0], "the host's type, sealed as it was"
    )
    assert isinstance(doubled.sealed(), TrueReward) and not hasattr(doubled, "__dict__")
    with pytest.raises(TypeError, match="TrueRewardReader"):
        doubled.reveal("TEACHER")


def test_two_of_them_cannot_be_compared(sealed):
    other = TrueReward([[0.0, 0.0], [0.0, 0.0]])
    for compare in (operator.lt, operator.le, operator.gt, operator.ge, operator.sub):
        with pytest.raises(TypeError):
            compare(sealed, other)
    # `==` asks whether it is the same object, and tells nothing of the numbers.
    assert (sealed == TrueReward([[1.5, 2.5], [3.5, 4.5]])) is False


def test_shows_its_shape_only(sealed):
    for text in (repr(sealed), str(sealed), f"{sealed}"):
        assert text == "TrueReward(shape=(2, 2), sealed)"
    assert sealed.shape == (2, 2) and len(sealed) == 2
    assert not hasattr(sealed, "__dict__") and not hasattr(sealed, "values")


def test_parts_and_stacks_stay_sealed(sealed):
    for part in (
        sealed[0],
        sealed[0, 0],
        sealed[:, 1],
        sealed[np.array([True, False])],
        sealed[np.array([[0]])],
    ):
        assert isinstance(part, TrueReward)
    stacked = TrueReward.stack([sealed, sealed], axis=1)
    assert isinstance(stacked, TrueReward) and stacked.shape == (2, 2, 2)
    np.testing.assert_array_equal(stacked.reveal(TrueRewardReader.TEACHER)[:, 1], [[1.5, 2.5], [3.5, 4.5]])


def test_only_true_rewards_are_stored_among_them(sealed):
    sealed[0] = TrueReward([9.0, 8.0])
    np.testing.assert_array_equal(sealed.reveal(TrueRewardReader.TEACHER), [[9.0, 8.0], [3.5, 4.5]])
    # If numbers could be written, a learner could test which of them change the teacher's answer.
    for value in (1.0, np.ones(2), [1.0, 2.0]):
        with pytest.raises(TypeError, match="only a TrueReward"):
            sealed[0] = value


@pytest.mark.parametrize("reader", ["TEACHER", None, 1, "a synthetic teacher compares two clips", object()])
def test_reveal_asks_for_a_reader(sealed, reader):
    with pytest.raises(TypeError, match="TrueRewardReader"):
        sealed.reveal(reader)


@pytest.mark.parametrize("reader", TrueRewardReader)
def test_reveals_a_copy(sealed, reader):
    sealed.reveal(reader)[:] = 0.0
    np.testing.assert_array_equal(sealed.reveal(reader), [[1.5, 2.5], [3.5, 4.5]])


def test_no_new_reader_without_a_look_here():
    assert {reader.name for reader in TrueRewardReader} == {"TEACHER", "EVALUATOR", "CHECKPOINT", "CEILING"}


# ---- who may read, by the source ----------------------------------------------------------------


def words(path):
    """Every name, attribute and imported name in a module; comments and docstrings do not count."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found |= set(node.name.split(".")) | {node.asname}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            # getattr(module, "TrueReward") is a mention too.
            found.add(node.value)
    return found


MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def test_only_readers_can_read():
    readers = {name for name, path in MODULES.items() if words(path) & {"TrueRewardReader", "reveal"}}
    assert {name for name in readers if not name.startswith("_core/")} <= READERS
    assert "preferences/teachers.py" in readers


def test_learners_do_not_know_the_type():
    blind = {name: path for name, path in MODULES.items() if name.split("/")[0] in BLIND}
    assert {"agents/sac.py", "bilevel/sampled/sobirl.py", "rewards/ensemble.py", "problem.py"} <= blind.keys()
    assert not {
        name
        for name, path in blind.items()
        if words(path) & {"TrueReward", "TracedTrueReward", "TrueRewardReader", "reveal"}
    }


def test_nobody_goes_round_the_seal():
    assert not {name for name, path in MODULES.items() if "TrueReward__values" in path.read_text()}


def test_each_reader_names_its_own_reason():
    allowed = {
        "preferences/teachers.py": {"TEACHER"},
        "runs/evaluate.py": {"EVALUATOR"},
        "runs/audit/coverage.py": {"EVALUATOR"},
        "runs/seat.py": {"CEILING"},
        "runs/fused.py": {"CEILING"},
        "runs/collect.py": {"CHECKPOINT"},
        "runs/people.py": {"CHECKPOINT"},
        "runs/audit/play.py": {"EVALUATOR"},
    }
    assert allowed.keys() == READERS
    for name, reasons in allowed.items():
        assert words(MODULES[name]) & set(TrueRewardReader.__members__) == reasons
