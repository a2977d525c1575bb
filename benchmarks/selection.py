"""``python -m benchmarks.selection``: how fast a reward is learned from pairs that each rule selects.

Small random worlds with a known reward, a new one for each seed; all seeds at once on one core, some
three minutes. Writes the table between the two marks in docs/teachers.md, or whole to --out.
"""

import argparse
import platform
import time
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import rewardsmith as rs
from rewardsmith._core import MLP, TrueReward
from rewardsmith._core.atomic import writing
from rewardsmith.bilevel import DRLHF, Evidence, Follower, LabelledClips, OneStep
from rewardsmith.bilevel.sampled import LeaderState, TablePolicy
from rewardsmith.bilevel.sampled.estimator import Estimator
from rewardsmith.bilevel.sampled.influence import expected_influence
from rewardsmith.mdp import roll_out, solve_policy
from rewardsmith.preferences.selection import CANDIDATES, Candidates, make_selection
from rewardsmith.preferences.teachers import make_teacher
from rewardsmith.problem import PreferenceLoss
from rewardsmith.runs.statistics import mean_interval

STATES, ACTIONS, FEATURES, DISCOUNT, TEMPERATURE = 40, 4, 6, 0.9, 0.3
HORIZON, BATCH, STEPS, MEMBERS, FRESH = 5, 10, 50, 3, 1000
SESSION = 32  # pairs a leader step
ANSWERS = (20, 50, 100, 200)
SEEDS = 20
TEACHERS = ("oracle", "mistake", "stochastic")
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_PAGE = Path(__file__).resolve().parents[1] / "docs" / "teachers.md"


class Row(NamedTuple):
    """A rule as it is measured: its label, its name, and how influence sees the second term."""

    label: str
    rule: str
    estimator: Estimator | None = None


ROWS = (
    Row("uniform", "uniform"),
    Row("disagreement", "disagreement"),
    Row("entropy", "entropy"),
    Row("k-centre", "k-centre"),
    Row("k-centre after disagreement", "k-centre-disagreement"),
    Row("k-centre after entropy", "k-centre-entropy"),
    Row("influence, first term", "influence"),
    Row("influence, one step", "influence", OneStep(2)),
)


class World(NamedTuple):
    """One task: P (S, A, S), features (S, A, n) and the true reward (S, A)."""

    transition: Any
    features: Any
    truth: Any


def make_worlds(seeds: int) -> World:
    """A task for each seed: sparse transitions, normal features, and a smooth reward that is not linear."""
    worlds = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        P = rng.dirichlet(np.full(STATES, 0.1), (STATES, ACTIONS))
        features = rng.normal(size=(STATES, ACTIONS, FEATURES))
        hidden = np.tanh(features @ rng.normal(size=(FEATURES, 8)) / np.sqrt(FEATURES))
        truth = hidden @ rng.normal(size=8)
        worlds.append(World(P, features, (truth - truth.mean()) / truth.std()))
    return World(*(jnp.asarray(np.stack(arrays), jnp.float32) for arrays in zip(*worlds, strict=True)))


def make_problem(world: World) -> rs.BilevelProblem:
    """Its reward is a small ensemble of networks on the features, in units of their spread."""
    mdp = rs.MDP(world.transition, jnp.full(STATES, 1.0 / STATES), DISCOUNT)

    def members(x: Any) -> Array:
        """(S, A, M)."""
        at_pairs = jax.vmap(jax.vmap(lambda f: eqx.filter_vmap(lambda member: member(f)[0])(x)))
        return at_pairs(world.features)

    def reward(x: Any) -> Array:
        table = jnp.mean(members(x), axis=-1)
        held = jax.lax.stop_gradient(table)
        return (table - jnp.mean(held)) / jnp.maximum(jnp.std(held), 1e-3)

    loss = PreferenceLoss(HORIZON, members=lambda x, state, action: members(x)[state, action])
    return rs.BilevelProblem(mdp, reward, loss, TEMPERATURE)


LEADER = DRLHF(optax.adam(3e-3))


def start(key: Array) -> LeaderState:
    x = eqx.filter_vmap(lambda key: MLP([FEATURES, 32, 1], key=key))(jax.random.split(key, MEMBERS))
    index = jnp.zeros((), jnp.int32)
    return LEADER.init(x, index, index, key)


# ---- what is compiled: each for one seed, and mapped over all of them ----------------------------


def follower_of(problem: rs.BilevelProblem, reward: Array) -> Follower:
    answer = rs.solve_follower(problem.world, reward, problem.tau, tolerance=1e-4)
    return Follower(
        TablePolicy((answer.q_values - answer.values[:, None]) / TEMPERATURE), jnp.float32(TEMPERATURE)
    )


def pairs_of(problem: rs.BilevelProblem, policy: Array, key: Array, count: int) -> LabelledClips:
    walks = roll_out(problem.world, policy, key, 2 * count, HORIZON)
    shaped = (leaf.reshape(count, 2, HORIZON) for leaf in (walks.states, walks.actions, walks.alive))
    return LabelledClips(*shaped, jnp.zeros(count))


def differences(problem: rs.BilevelProblem, x: Any, clips: LabelledClips) -> Array:
    """(B, M) D of each member."""
    rewards = problem.upper_loss.members(x, clips.observations, clips.actions)  # pyright: ignore
    return jnp.diff(rewards.sum(axis=2), axis=1)[:, 0] * -1.0


def offer(estimator: Estimator | None, with_influence: bool, world: World, x: Any, key: Array) -> Any:
    """Candidates that π*(x) drew, and what the rules may want to know of them."""
    problem = make_problem(world)
    follower = follower_of(problem, problem.reward(x))
    draw_key, key = jax.random.split(key)
    clips = pairs_of(problem, follower.policy.table, draw_key, CANDIDATES * BATCH)
    influence = jnp.zeros(clips.count)
    if with_influence:
        influence = expected_influence(
            problem, x, clips, follower, estimator, None, key, bound=1.0, together=clips.count
        )
    probabilities = jax.nn.sigmoid(differences(problem, x, clips))
    features = world.features[clips.observations, clips.actions].reshape(clips.count, -1)
    returns = world.truth[clips.observations, clips.actions]
    return clips, probabilities, features, influence, returns


def learn(world: World, state: LeaderState, clips: LabelledClips, held: Any, key: Array):
    """A session of leader steps on the answers held so far."""
    problem = make_problem(world)
    follower = Follower(TablePolicy(jnp.zeros((STATES, ACTIONS))), jnp.float32(TEMPERATURE))

    def body(state: LeaderState, key: Array):
        drawn = clips.take(jax.random.randint(key, (SESSION,), 0, held))
        return LEADER.step(problem, state, Evidence(drawn, drawn, follower), key)[0], None

    return jax.lax.scan(body, state, jax.random.split(key, STEPS))[0]


def judge(world: World, x: Any, key: Array) -> tuple[Array, Array]:
    """Accuracy on fresh pairs of uniformly random behaviour, and where π*(x) is between it and the best."""
    problem = make_problem(world)
    uniform = jnp.full((STATES, ACTIONS), 1.0 / ACTIONS)
    clips = pairs_of(problem, uniform, key, FRESH)
    returns = world.truth[clips.observations, clips.actions].sum(axis=2)
    foretold = jnp.mean(differences(problem, x, clips), axis=1)
    accuracy = jnp.mean((foretold > 0) == (returns[:, 0] > returns[:, 1]))
    policies = [follower_of(problem, reward).policy.table for reward in (problem.reward(x), world.truth)]
    worth = [
        jnp.mean(solve_policy(problem.world, policy, jnp.sum(policy * world.truth, axis=1))[0])
        for policy in (uniform, *policies)
    ]
    return accuracy, (worth[1] - worth[0]) / (worth[2] - worth[0])


@cache
def _offer(estimator: Estimator | None, with_influence: bool) -> Callable[..., Any]:
    return eqx.filter_jit(eqx.filter_vmap(partial(offer, estimator, with_influence)))


_learn = eqx.filter_jit(eqx.filter_vmap(learn, in_axes=(0, 0, 0, None, 0)))
_judge = eqx.filter_jit(eqx.filter_vmap(judge))


# ---- one row ------------------------------------------------------------------------------------


def measure(row: Row, teacher_name: str, worlds: World, seeds: int) -> tuple[np.ndarray, ...]:
    """Accuracies (seeds, answers) and worth (seeds,) after the last."""
    teacher = make_teacher(teacher_name)
    rule, rngs = make_selection(row.rule), [np.random.default_rng(seed) for seed in range(seeds)]
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    state = eqx.filter_jit(eqx.filter_vmap(start))(keys)
    shape = (seeds, ANSWERS[-1], 2, HORIZON)
    states, actions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    label = np.zeros(shape[:2], np.float32)
    accuracies, worth, fold = [], np.zeros(seeds), jax.jit(jax.vmap(jax.random.fold_in, (0, None)))
    for answered in range(0, ANSWERS[-1], BATCH):
        clips, probabilities, features, influence, returns = jax.tree.map(
            np.asarray, _offer(row.estimator, row.rule == "influence")(worlds, state.x, fold(keys, answered))
        )
        place = slice(answered, answered + BATCH)
        for seed in range(seeds):
            candidates = Candidates(
                CANDIDATES * BATCH,
                probabilities=partial(probabilities.__getitem__, seed),
                features=partial(features.__getitem__, seed),
                influence=partial(influence.__getitem__, seed),
            )
            rows = rule(BATCH, candidates, rngs[seed])
            shown = (TrueReward(returns[seed, rows, side]) for side in range(2))
            states[seed, place] = clips.observations[seed, rows]
            actions[seed, place] = clips.actions[seed, rows]
            label[seed, place] = teacher.answer(*shown, rngs[seed])
        known = answered + BATCH
        answers = LabelledClips(*map(jnp.asarray, (states, actions, np.ones(shape, bool), label)))
        state = _learn(worlds, state, answers, jnp.int32(known), fold(keys, 10**6 + answered))
        if known in ANSWERS:
            accuracy, worth = _judge(worlds, state.x, fold(keys, 2 * 10**6))
            accuracies.append(np.asarray(accuracy))
    return np.stack(accuracies, axis=1), np.asarray(worth)


# ---- the page -----------------------------------------------------------------------------------


def interval(values: np.ndarray) -> str:
    """Mean ± half its 95 % bootstrap interval."""
    mean, low, high = (np.asarray(part)[0] for part in mean_interval(values[:, None]))
    return f"{mean:.3f} ± {(high - low) / 2:.3f}"


def against(values: np.ndarray, uniform: np.ndarray) -> str:
    """Mean difference over the same seeds and its 95 % interval; bold where that leaves 0 out."""
    mean, low, high = (np.asarray(part)[0] for part in mean_interval((values - uniform)[:, None]))
    told = f"{mean:+.3f} ({low:+.3f} … {high:+.3f})"
    return f"**{told}**" if low > 0 or high < 0 else told


def render(found: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]], seeds: int) -> str:
    lines = []
    for teacher in TEACHERS:
        base = found[teacher, "uniform"]
        heads = [f"{answers} answers" for answers in ANSWERS]
        heads += [f"{answers}: less uniform" for answers in (ANSWERS[0], ANSWERS[-1])] + ["worth of π*"]
        lines += [f"`{teacher}`:", "", "| rule | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
        for row in ROWS:
            accuracy, worth = found[teacher, row.label]
            cells = [interval(accuracy[:, column]) for column in range(len(ANSWERS))]
            if row.label == "uniform":
                cells += ["–", "–"]
            else:
                cells += [against(accuracy[:, column], base[0][:, column]) for column in (0, -1)]
            lines.append(f"| {row.label} | " + " | ".join([*cells, interval(worth)]) + " |")
        lines.append("")
    versions = ", ".join(f"{name} {version(name)}" for name in ("rewardsmith", "jax", "equinox", "numpy"))
    lines.append(
        f"{seeds} seeds (0 … {seeds - 1}), each a world of its own that all rules and teachers meet; "
        f"2-core CPU, one core used; Python {platform.python_version()}, {versions}. Made by "
        "`python -m benchmarks.selection`."
    )
    return "\n".join(lines)


def written_into(page: str, table: str) -> str:
    """The page with what stands between the marks replaced."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="at least 3, for intervals")
    parser.add_argument("--out", type=Path, help="a file for the table alone, instead of docs/teachers.md")
    options = parser.parse_args()
    began, worlds, found = time.monotonic(), make_worlds(options.seeds), {}
    for teacher in TEACHERS:
        for row in ROWS:
            found[teacher, row.label] = measure(row, teacher, worlds, options.seeds)
            accuracy = found[teacher, row.label][0].mean(axis=0)
            print(
                f"[{time.monotonic() - began:4.0f} s] {teacher}, {row.label}: {accuracy.round(3)}", flush=True
            )
    table = render(found, options.seeds)
    print(table)
    path = options.out or _PAGE
    text = written_into(path.read_text(), table) if options.out is None else table + "\n"
    with writing(path) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    main()
