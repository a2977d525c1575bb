"""Learn a reward from demonstrations: a reward network under which the expert's swings were likely.

Idea. An expert swings up the pendulum of Pendulum-v1; a few of its episodes are recorded, what it was paid is
not. A leader looks for the reward under which a soft-optimal follower would have done the same; the
follower is soft actor-critic in training. A reward says more than a record of actions: a fresh agent, which
has seen no demonstration, learns the task from it.

Equation. The upper loss is the likelihood of the demonstrated actions, x the weights of a network:

    min over x   φ(x) = −E_demo Σ_t γᵗ log π*(x)(a_t|s_t),      τ log π*(x)(a|s) = Q(s,a) − V(s)

Along any trajectory ∇Q(s_t,a_t) = ∇r(s_t,a_t) + γ E ∇V(s_{t+1}), so that Σ_t γᵗ (∇Q − ∇V) telescopes to
Σ_t γᵗ ∇r − ∇V(s_0), and ∇V(s_0) is what the follower itself would gather from there:

    ∇φ = (1/τ) (E_π*(x) Σ_t γᵗ ∇r_x(s_t,a_t) − E_demo Σ_t γᵗ ∇r_x(s_t,a_t))

The hyper-gradient of the likelihood needs no ∇π: raise r where the expert goes, lower it where the follower
does, until both go to the same places. Added is ½ λ times the mean square of r, which keeps it finite.

Sources: Ziebart, Bagnell and Dey, ICML 2010; Ho and Ermon, NeurIPS 2016 (arXiv 1606.03476), whose
discriminator plays the part of r; one loop for both levels, Zeng et al., NeurIPS 2022 (arXiv 2210.01808);
the square, Garg et al., NeurIPS 2021 (arXiv 2106.12142). Departures: means over whole episodes, so γᵗ is left
out; the follower is in training, not solved; its walks are those of the last rounds.

    python -m examples.deep_apprenticeship --out deep_apprenticeship.png
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure

from examples.followers import Walks, World, begin, stored, walk
from rewardsmith.agents import SAC, Policy, Replay, RewardFn, TanhGaussianPolicy, Transition, empty_replay
from rewardsmith.envs import make
from rewardsmith.rewards import RewardEnsemble
from rewardsmith.runs.evaluate import evaluate

EPISODE, COPIES, UPDATES = 200, 8, 800
STEPS_A_ROUND = COPIES * EPISODE
SHARE = 0.8
LEADER_STEPS, LEADER_RATE, BATCH, DECAY = 50, 1e-3, 256, 0.1
RECENT, CLONE_STEPS = 3, 5000
FOLLOWER = SAC((64, 64), 0.98, learning_rate=1e-3, batch_size=128, polyak=0.01)
WHO = ("random", "expert", "apprentice", "fresh agent", "cloning")


@dataclass(frozen=True)
class Outcome:
    """True returns in Gymnasium's Pendulum-v1, 20 episodes each.

    Attributes:
        returns: of each of `WHO` at the end, (seeds,).
        curves: of expert, apprentice and fresh agent as they learned, (seeds, rounds).
        demonstrated: (seeds,), mean of the recorded episodes.
        landscape: (61, 61), learned reward over rate and angle without torque, first seed.
        claim: whether it holds.
    """

    returns: dict[str, np.ndarray]
    curves: dict[str, np.ndarray]
    demonstrated: np.ndarray
    landscape: np.ndarray
    claim: bool


def main(
    seed: int = 0,
    steps: int = 32_000,
    out: Path | None = None,
    seeds: int = 6,
    demonstrations: int = 4,
) -> Outcome:
    """Learn a reward from a few recorded episodes of an expert.

    Args:
        seed: the first of the seeds; each has an expert of its own.
        steps: of the simulator for the expert, the apprentice and the fresh agent each, in rounds of 1,600.
        out: picture of the learning curves and of the learned reward, such as deep_apprenticeship.png.
        seeds: how many.
        demonstrations: episodes of the expert that are recorded.
    """
    rounds = max(1, steps // STEPS_A_ROUND)
    keys = jax.vmap(jax.random.key)(jnp.arange(seed, seed + seeds))
    learned = jax.jit(lambda keys: jax.lax.map(partial(_all_of_it, rounds, demonstrations), keys))(keys)
    rows: list[_Learned] = [jax.tree.map(lambda leaf, i=i: leaf[i], learned) for i in range(seeds)]
    returns = {who: np.array([_gymnasium_return(row.policies[who]) for row in rows]) for who in WHO}
    curves = {who: np.asarray(curve) for who, curve in learned.curves.items()}
    landscape = _landscape(rows[0].reward)
    outcome = Outcome(returns, curves, np.asarray(learned.demonstrated), landscape, _holds(returns))
    _print(outcome)
    if out is not None:
        _draw(outcome, out)
    return outcome


# ---- the world ----------------------------------------------------------------------------------


def _hang(key: PRNGKeyArray) -> Float[Array, "2"]:
    return jax.random.uniform(key, (2,), minval=-1.0) * jnp.array([jnp.pi, 1.0])


def _see(state: Float[Array, "2"]) -> Float[Array, "3"]:
    return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])


def _swing(state: Float[Array, "2"], action: Float[Array, "1"], key: PRNGKeyArray) -> Float[Array, "2"]:
    del key
    rate = jnp.clip(state[1] + 0.05 * (15.0 * jnp.sin(state[0]) + 6.0 * action[0]), -8.0, 8.0)
    return jnp.stack([state[0] + 0.05 * rate, rate])


WORLD = World(_hang, _see, _swing)


def true_reward(step: Transition) -> Float[Array, ""]:
    """−(angle² + 0.1 rate² + 0.001 torque²), angle 0 on top."""
    cos, sin, rate = step.observation
    return -(jnp.arctan2(sin, cos) ** 2 + 0.1 * rate**2 + 0.001 * (2.0 * step.action[0]) ** 2)


# ---- learning -----------------------------------------------------------------------------------


def follow(reward: RewardFn, rounds: int, key: PRNGKeyArray) -> tuple[Policy, Float[Array, " rounds"]]:
    """A fresh agent that learns for a reward which stays as it is; true returns by round."""
    init_key, key = jax.random.split(key)

    def one_round(carry: Any, key: PRNGKeyArray) -> tuple[Any, Float[Array, ""]]:
        follower, replay = carry
        walk_key, update_key = jax.random.split(key)
        walks = episodes(follower.policy, COPIES, walk_key)
        replay = stored(replay, walks)
        follower, _ = FOLLOWER.update(follower, replay, reward, UPDATES, update_key)
        return (follower, replay), true_return(walks)

    begun = (FOLLOWER.init(3, 1, key=init_key), empty_replay(rounds * STEPS_A_ROUND, 3, 1))
    carry, returns = jax.lax.scan(one_round, begun, jax.random.split(key, rounds))
    return carry[0].policy, returns


def learn_reward(
    demonstrations: Walks, rounds: int, key: PRNGKeyArray
) -> tuple[Policy, RewardEnsemble, Float[Array, " rounds"]]:
    """The follower's policy and the reward at the end; true returns by round, which nobody looks at."""
    init_key, reward_key, key = jax.random.split(key, 3)
    optimiser = optax.adam(LEADER_RATE)
    x = RewardEnsemble(3, 1, (64, 64), 1, output="raw", key=reward_key)
    moving, still = eqx.partition(x, eqx.is_inexact_array)

    def leader_step(
        replay: Replay, carry: tuple[Any, optax.OptState], key: PRNGKeyArray
    ) -> tuple[tuple[Any, optax.OptState], None]:
        moving, state = carry
        own_key, expert_key = jax.random.split(key)
        own, expert = _newest(replay, own_key), _drawn(demonstrations.transitions, expert_key)
        gradient = jax.grad(lambda moving: mismatch(eqx.combine(moving, still), own, expert))(moving)
        updates, state = optimiser.update(gradient, state)
        return (eqx.apply_updates(moving, updates), state), None

    def one_round(carry: Any, key: PRNGKeyArray) -> tuple[Any, Float[Array, ""]]:
        follower, replay, lead = carry
        walk_key, lead_key, update_key = jax.random.split(key, 3)
        walks = episodes(follower.policy, COPIES, walk_key)
        replay = stored(replay, walks)
        lead, _ = jax.lax.scan(partial(leader_step, replay), lead, jax.random.split(lead_key, LEADER_STEPS))
        x = eqx.combine(lead[0], still)
        follower, _ = FOLLOWER.update(follower, replay, paid_by(x), UPDATES, update_key)
        return (follower, replay, lead), true_return(walks)

    replay = empty_replay(rounds * STEPS_A_ROUND, 3, 1)
    begun = (FOLLOWER.init(3, 1, key=init_key), replay, (moving, optimiser.init(moving)))
    carry, returns = jax.lax.scan(one_round, begun, jax.random.split(key, rounds))
    return carry[0].policy, eqx.combine(carry[2][0], still), returns


def mismatch(x: RewardEnsemble, own: Transition, expert: Transition) -> Float[Array, ""]:
    """E_π r − E_demo r + ½ λ (E_π r² + E_demo r²); the gradient of its first half is τ ∇φ."""
    paid, deserved = (jax.vmap(paid_by(x))(steps) for steps in (own, expert))
    return jnp.mean(paid) - jnp.mean(deserved) + 0.5 * DECAY * (jnp.mean(paid**2) + jnp.mean(deserved**2))


def clone(demonstrations: Walks, key: PRNGKeyArray) -> Policy:
    """Behavioural cloning: the policy under which the demonstrated actions are likeliest, no reward."""
    init_key, key = jax.random.split(key)
    optimiser = optax.adam(1e-3)
    policy = TanhGaussianPolicy(3, 1, FOLLOWER.hidden, key=init_key)

    def step(carry: tuple[Any, optax.OptState], key: PRNGKeyArray):
        policy, state = carry
        seen = _drawn(demonstrations.transitions, key)
        gradient = jax.grad(lambda p: -jnp.mean(jax.vmap(p.log_prob)(seen.observation, seen.action)))(policy)
        updates, state = optimiser.update(gradient, state)
        return (eqx.apply_updates(policy, updates), state), None

    begun = (policy, optimiser.init(eqx.filter(policy, eqx.is_inexact_array)))
    return jax.lax.scan(step, begun, jax.random.split(key, CLONE_STEPS))[0][0]


def episodes(policy: Policy, count: int, key: PRNGKeyArray) -> Walks:
    """Whole episodes from fresh starts."""
    start_key, walk_key = jax.random.split(key)
    return walk(WORLD, policy, begin(WORLD, count, start_key), EPISODE, walk_key)[1]


def paid_by(x: RewardEnsemble) -> RewardFn:
    """r_x of a transition."""
    return lambda step: x(step.observation, step.action)


def true_return(walks: Walks) -> Float[Array, ""]:
    """Mean over episodes."""
    return jnp.sum(jax.vmap(true_reward)(walks.transitions)) / len(walks.observations)


def _newest(replay: Replay, key: PRNGKeyArray) -> Transition:
    back = jax.random.randint(key, (BATCH,), 0, jnp.minimum(replay.size, RECENT * STEPS_A_ROUND))
    return jax.tree.map(lambda leaf: leaf[replay.size - 1 - back], replay.data)


def _drawn(steps: Transition, key: PRNGKeyArray) -> Transition:
    chosen = jax.random.randint(key, (BATCH,), 0, len(steps.terminated))
    return jax.tree.map(lambda leaf: leaf[chosen], steps)


class _Learned(NamedTuple):
    """All that one seed comes to."""

    policies: dict[str, Policy]
    curves: dict[str, Float[Array, " rounds"]]
    demonstrated: Float[Array, ""]
    reward: RewardEnsemble


def _all_of_it(rounds: int, count: int, key: PRNGKeyArray) -> _Learned:
    keys = jax.random.split(key, 6)
    random = TanhGaussianPolicy(3, 1, FOLLOWER.hidden, key=keys[0])
    expert, expert_curve = follow(true_reward, rounds, keys[1])
    demonstrations = episodes(expert, count, keys[2])
    learner, reward, learner_curve = learn_reward(demonstrations, rounds, keys[3])
    fresh, fresh_curve = follow(paid_by(reward), rounds, keys[4])
    cloned = clone(demonstrations, keys[5])
    policies: dict[str, Policy] = dict(zip(WHO, (random, expert, learner, fresh, cloned), strict=True))
    curves = {"expert": expert_curve, "apprentice": learner_curve, "fresh agent": fresh_curve}
    return _Learned(policies, curves, true_return(demonstrations), reward)


def _gymnasium_return(policy: Policy) -> float:
    env = make("Pendulum-v1", num_envs=20)
    returns = evaluate(policy, env, seed=1).returns
    env.close()
    return float(returns.mean())


# ---- the claim ----------------------------------------------------------------------------------


def _holds(outcome_returns: dict[str, np.ndarray]) -> bool:
    """The claim of the page, on means over seeds."""
    shares = _shares(outcome_returns)
    return bool(min(shares["apprentice"], shares["fresh agent"]) > SHARE)


def _shares(returns: dict[str, np.ndarray]) -> dict[str, float]:
    """Of the way from random to expert."""
    low, high = returns["random"].mean(), returns["expert"].mean()
    return {who: float((each.mean() - low) / (high - low)) for who, each in returns.items()}


def _print(outcome: Outcome) -> None:
    print(f"return of the demonstrated episodes: {', '.join(f'{d:.0f}' for d in outcome.demonstrated)}")
    print(f"{'Pendulum-v1':14} {'mean':>7} {'share':>6}   each seed")
    for who, share in _shares(outcome.returns).items():
        each = ", ".join(f"{value:.0f}" for value in outcome.returns[who])
        print(f"{who:14} {outcome.returns[who].mean():7.0f} {share:6.2f}   {each}")
    print(
        f"claim: from these episodes the apprentice comes more than {SHARE:.0%} of the way from "
        "random to expert,\nand so does a fresh agent that is given nothing but the learned reward: "
        + ("holds" if outcome.claim else "DOES NOT HOLD")
    )


def _draw(outcome: Outcome, out: Path) -> None:
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(3, 2.2, 2.2))
    for colour, who in (("0.4", "expert"), ("C0", "apprentice"), ("C2", "fresh agent")):
        rows = outcome.curves[who]
        steps = STEPS_A_ROUND * np.arange(rows.shape[1]) / 1000
        left.plot(steps, rows.mean(0), color=colour, label=who)
        left.fill_between(steps, rows.min(0), rows.max(0), color=colour, alpha=0.15, linewidth=0)
    left.axhline(outcome.returns["cloning"].mean(), color="C3", linestyle=":", label="cloning")
    left.set(xlabel="thousand steps", ylabel="true return", title="what is learned")
    left.legend(fontsize=8)
    angles, rates = np.meshgrid(np.linspace(-np.pi, np.pi, 61), np.linspace(-8, 8, 61))
    true = -(angles**2) - 0.1 * rates**2
    panels = ((middle, true, "true reward, no torque"), (right, outcome.landscape, "learned reward, seed 0"))
    for axes, values, title in panels:
        image = axes.pcolormesh(angles, rates, values, cmap="viridis", rasterized=True)
        figure.colorbar(image, ax=axes, orientation="horizontal")
        axes.set(title=title, xlabel="angle, 0 on top")
    middle.set_ylabel("rate, rad/s")
    figure.savefig(out, dpi=130)


def _landscape(reward: RewardEnsemble) -> np.ndarray:
    angles, rates = jnp.meshgrid(jnp.linspace(-jnp.pi, jnp.pi, 61), jnp.linspace(-8, 8, 61))
    seen = jax.vmap(_see)(jnp.stack([angles.ravel(), rates.ravel()], axis=1))
    return np.asarray(jax.vmap(reward, (0, None))(seen, jnp.zeros(1))).reshape(61, 61)


if __name__ == "__main__":
    sys.exit(0 if tyro.cli(main).claim else 1)
