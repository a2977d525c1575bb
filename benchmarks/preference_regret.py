"""Rewards learned from people who judge by regret or by return, under either model, in a table."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from rewardsmith.bilevel.regret import table_advantage
from rewardsmith.follower import solve_follower
from rewardsmith.mdp import MDP
from rewardsmith.preferences.models import Judgement, PartialReturn, Regret
from rewardsmith.problem import PreferenceLoss

STATES, ACTIONS, HORIZON, PAIRS, DISCOUNT, TEMPERATURE = 6, 3, 3, 600, 0.9, 0.2
SESSIONS, STEPS = 20, 20


def world_of(seed: int) -> tuple[MDP, np.ndarray]:
    """A deterministic world, and where each state and action leads, (S, A)."""
    rng = np.random.default_rng(seed)
    leads = np.stack([rng.permutation(STATES) for _ in range(ACTIONS)], axis=1)
    return MDP(np.eye(STATES)[leads], np.full(STATES, 1 / STATES), DISCOUNT), leads


def clips(leads: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """States and actions (pairs, 2, H) of a policy that does anything from anywhere."""
    actions = rng.integers(ACTIONS, size=(PAIRS, 2, HORIZON))
    states = np.empty_like(actions)
    states[..., 0] = rng.integers(STATES, size=(PAIRS, 2))
    for step in range(1, HORIZON):
        states[..., step] = leads[states[..., step - 1], actions[..., step - 1]]
    return states, actions


def learned(seed: int, by_regret: bool) -> dict[str, float]:
    """Value of the policy for a reward that each model learned: 1 of the best, 0 of doing anything.

    Args:
        seed: of world, true reward, clips and answers.
        by_regret: whether answers follow sums of the true advantage, or of the true reward.
    """
    rng = np.random.default_rng(seed)
    world, leads = world_of(seed)
    truth = jnp.asarray(rng.normal(size=(STATES, ACTIONS)), jnp.float32)
    answer = solve_follower(world, truth, TEMPERATURE, tolerance=1e-5, throw=False)
    judged = answer.q_values - answer.values[:, None] if by_regret else truth
    states, actions = clips(leads, rng)
    sums = 3.0 * np.asarray(judged)[states, actions].sum(axis=2)
    chance = 1 / (1 + np.exp(sums[:, 1] - sums[:, 0]))
    label = jnp.asarray(rng.random(PAIRS) < chance, jnp.float32)
    arguments = world, jnp.asarray(states), jnp.asarray(actions), label
    found = {
        "partial-return": _descend(*arguments, exact=False, offsets=False),
        "regret, exact gradient": _descend(*arguments, exact=True, offsets=False),
        "regret, values held still": _descend(*arguments, exact=False, offsets=True),
    }
    anything = jnp.full((STATES, ACTIONS), 1 / ACTIONS)
    worst, best = _value(world, truth, anything), _value(world, truth, answer.policy)
    return {
        name: float((_value(world, truth, _answer(world, x).policy) - worst) / (best - worst))
        for name, x in found.items()
    }


def _answer(world: MDP, x: Array):
    return solve_follower(world, x, TEMPERATURE, tolerance=1e-5, throw=False)


def _value(world: MDP, reward: Array, policy: Array) -> Array:
    """Mean over starts of the return, entropy counted."""
    moves = jnp.einsum("sa,sat->st", policy, jnp.asarray(world.transition))
    paid = jnp.sum(policy * reward + TEMPERATURE * jax.scipy.special.entr(policy), axis=1)
    return world.initial @ jnp.linalg.solve(jnp.eye(STATES) - DISCOUNT * moves, paid)


@partial(jax.jit, static_argnames=("exact", "offsets"))
def _descend(
    world: MDP, states: Array, actions: Array, label: Array, *, exact: bool, offsets: bool
) -> Float[Array, "S A"]:
    """x after sessions of Adam; with `offsets`, V̂ is the soft value of x at the start of each."""
    members = table_advantage(world, lambda x: x, TEMPERATURE, tolerance=1e-5) if exact else None
    loss = PreferenceLoss(HORIZON, members=members, model=Regret() if exact or offsets else PartialReturn())
    adam = optax.adam(0.05)

    def mean(x: Array, offset: Array | None) -> Array:
        told = Judgement(label, offset)
        losses = jax.vmap(lambda s, a, t: loss(x, lambda s, a: x[s, a], s, a, t))(states, actions, told)
        return jnp.mean(losses) + 1e-3 * jnp.mean(x**2)

    def session(carry, _):
        x, state = carry
        offset = None
        if offsets:
            held = _answer(world, x)
            ahead = held.q_values - x
            offset = jnp.sum(ahead[states, actions] - held.values[states], axis=2)

        def step(carry, _):
            x, state = carry
            updates, state = adam.update(jax.grad(mean)(x, offset), state)
            return (x + updates, state), None

        return jax.lax.scan(step, (x, state), None, length=STEPS)[0], None

    start = jnp.zeros((STATES, ACTIONS))
    return jax.lax.scan(session, (start, adam.init(start)), None, length=SESSIONS)[0][0]


def value_of_learned(seeds: int) -> dict[tuple[str, bool], np.ndarray]:
    """(model, whether answers follow regret) -> `learned` of each seed."""
    found = {}
    for by_regret in (True, False):
        rows = [learned(seed, by_regret) for seed in range(seeds)]
        for name in rows[0]:
            found[name, by_regret] = np.array([row[name] for row in rows])
    return found


def gradient_without_values(seed: int, key: PRNGKeyArray) -> float:
    """Cosine between the gradient with values held still and the exact one, at a random x."""
    world, leads = world_of(seed)
    rng = np.random.default_rng(seed)
    states, actions = (jnp.asarray(part) for part in clips(leads, rng))
    x = jax.random.normal(key, (STATES, ACTIONS))
    label = jnp.asarray(rng.integers(2, size=PAIRS), jnp.float32)
    members = table_advantage(world, lambda x: x, TEMPERATURE, tolerance=1e-5)
    full = PreferenceLoss(HORIZON, members=members, model=Regret())
    held = _answer(world, x)
    offset = jnp.sum((held.q_values - x)[states, actions] - held.values[states], axis=2)
    half = PreferenceLoss(HORIZON, model=Regret())

    def mean(loss, told, x):
        return jnp.mean(
            jax.vmap(lambda s, a, t: loss(x, lambda s, a: x[s, a], s, a, t))(states, actions, told)
        )

    with_values = jax.grad(partial(mean, full, Judgement(label)))(x)
    without = jax.grad(partial(mean, half, Judgement(label, offset)))(x)
    return float(jnp.vdot(with_values, without) / jnp.linalg.norm(with_values) / jnp.linalg.norm(without))
