"""Balance a pole by hints of which nobody says whether they help: how far to trust them is learned.

Idea. CartPole-v1's own word is sparse here: −1 when the pole falls, nothing else. Somebody adds a hint that
pays 0.2 for a push to one side, −0.2 for the other: the right side ("helpful"), the wrong one ("misleading"),
or right on one half of the states only ("mixed"). An agent that simply adds it up believes what it is told. A
leader weighs the hint instead, by one number for each side to which the pole leans, so that the agent does
well at the task.

Equation. x ∈ R² are the weights, F the hint, π*(x) the soft-optimal policy at temperature τ:

    r_x(s,a) = −1{the pole falls} + x_side(s) F(s,a)
    min over x   φ(x) = E_π*(x) Σ_t γᵗ 1{the pole falls at t}
    ∂φ/∂x_i = −(1/τ) E Σ_t γᵗ A_task(s_t,a_t) A_i(s_t,a_t)      A_i: advantage of F on side i

A hint is worth its weight where what it calls good is good for the task. The follower is soft actor-critic in
training, and the clips on which the leader takes its step are the walks the follower learns from: the leader
costs no step of the simulator. Where the pole falls it is set up again, so that no clip crosses an end.

Two leaders: HPGD, which fits A_task by regression, and the implicit gradient through the policy's parameters
that BARFI follows and PARL too (`SampledPARL`), with a curvature in θ to be solved for.

Sources: HPGD, Thoma et al., NeurIPS 2024 (arXiv 2406.01575); BARFI, Gupta et al., NeurIPS 2023 (arXiv
2310.19007), whose own φ₁ + φ₂ r + φ₃ F and learned discount are φ₃ alone here; PARL, Chakraborty et al., ICLR
2024 (arXiv 2308.02585); weights by state, Hu et al., NeurIPS 2020 (arXiv 2011.02669).

    python -m examples.hints --out hints.png
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, Int, PRNGKeyArray
from matplotlib.figure import Figure

import rewardsmith as rs
from examples.followers import World, begin, stored, walk
from rewardsmith.agents import SAC, Policy, act_greedily, empty_replay
from rewardsmith.bilevel import (
    Evidence,
    Follower,
    LabelledClips,
    Leader,
    LinearBaseline,
    SampledHPGD,
    SampledPARL,
)
from rewardsmith.bilevel.sampled.features import ActionInteractions
from rewardsmith.envs import make
from rewardsmith.runs.evaluate import evaluate
from rewardsmith.upper_losses import ReturnLoss

DISCOUNT = 0.99
# Of the hint at weight 1; to fall every ten steps then costs less than it brings.
HINT = 0.2
COPIES, CLIP, UPDATES = 16, 100, 200
STEPS_A_ROUND = COPIES * CLIP
HINTS = {"helpful": (1.0, 1.0), "misleading": (-1.0, -1.0), "mixed": (1.0, -1.0)}
LEARNING_RATE = 0.2
EPISODES, EPISODE = 8, 500


class Curves(NamedTuple):
    """By round: steps upright of at most 500, falls for each step of training, and x."""

    upright: Float[Array, "rounds"]
    falls: Float[Array, "rounds"]
    weights: Float[Array, "rounds 2"]


@dataclass(frozen=True)
class Agent:
    """What became of one way to use one hint, a row for each seed.

    Attributes:
        upright: (seeds, rounds), steps upright of at most 500, mean of 8 episodes.
        falls: (seeds, rounds), falls for each step of training.
        weights: (seeds, rounds, 2), x where the pole leans left and right, times the sign of a helpful hint.
        final: (seeds,), return in Gymnasium's CartPole-v1 at the end, mean of 20 episodes.
    """

    upright: np.ndarray
    falls: np.ndarray
    weights: np.ndarray
    final: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """Agents by (way, hint): ways "ignored", "added", "HPGD" and "BARFI"; "ignored" has the hint "none"."""

    agents: Mapping[tuple[str, str], Agent]
    claim: bool


def main(
    seed: int = 0,
    steps: int = 32_000,
    out: Path | None = None,
    seeds: int = 3,
    trust: float = 0.5,
    temperature: float = 0.02,
) -> Outcome:
    """Learn to balance a pole by hints that help, mislead, or both.

    Args:
        seed: the first of the seeds.
        steps: of the simulator for each agent, in rounds of 1,600.
        out: picture of the learning curves and of the weights, such as hints.png.
        seeds: how many agents of each kind.
        trust: the leaders' first weight of the hint.
        temperature: τ of every agent.
    """
    rounds = max(1, steps // STEPS_A_ROUND)
    baseline = LinearBaseline(_squares, shared=True, discount=DISCOUNT)
    rate = optax.adam(LEARNING_RATE)
    hpgd = SampledHPGD(rate, baseline, further=0, features=ActionInteractions(2), shared=True)
    barfi = SampledPARL(rate, baseline, further=0, curvature_batch=64)
    plans = [
        ({("ignored", "none"): 0.0} | {("added", hint): 1.0 for hint in HINTS}, None),
        ({("HPGD", hint): trust for hint in HINTS}, hpgd),
        ({("BARFI", hint): trust for hint in HINTS}, barfi),
    ]
    agents: dict[tuple[str, str], Agent] = {}
    for plan, leader in plans:
        agents |= _learn(plan, leader, rounds, range(seed, seed + seeds), temperature)
    outcome = Outcome(agents, _holds(agents))
    _print(outcome)
    if out is not None:
        _draw(outcome, out)
    return outcome


# ---- the world ----------------------------------------------------------------------------------


def moved(state: Float[Array, "4"], action: Int[Array, ""]) -> Float[Array, "4"]:
    """One step of CartPole-v1: position, velocity, angle and its rate (m, m/s, rad, rad/s), each 0.02 s on.

    Source: Barto, Sutton and Anderson, IEEE SMC 13, 1983; constants of Gymnasium.
    """
    _, velocity, angle, rate = state
    push = jnp.where(action == 1, 10.0, -10.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    thrust = (push + 0.05 * rate**2 * sin) / 1.1
    turning = (9.8 * sin - cos * thrust) / (0.5 * (4.0 / 3.0 - 0.1 * cos**2 / 1.1))
    speeding = thrust - 0.05 * turning * cos / 1.1
    return state + 0.02 * jnp.stack([velocity, speeding, rate, turning])


def fallen(state: Float[Array, "4"]) -> Array:
    """Whether the pole leans by more than 12° or the cart has left the track."""
    return (jnp.abs(state[0]) > 2.4) | (jnp.abs(state[2]) > jnp.deg2rad(12.0))


def _set_up(key: PRNGKeyArray) -> Float[Array, "4"]:
    return jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)


def _step(state: Float[Array, "4"], action: Int[Array, ""], key: PRNGKeyArray) -> Float[Array, "4"]:
    following = moved(state, action)
    return jnp.where(fallen(following), _set_up(key), following)


WORLD = World(_set_up, lambda state: state, _step)


# ---- the problem --------------------------------------------------------------------------------


def task_reward(observation: Float[Array, "4"], action: Int[Array, ""]) -> Float[Array, ""]:
    """−1 where the pole falls."""
    return -fallen(moved(observation, action)).astype(jnp.float32)


def reward(x: Mapping[str, Array], observation: Float[Array, "4"], action: Int[Array, ""]) -> Array:
    """r_x; `x["says"]`, the hint's word on either side, is held still."""
    side = (observation[2] > 0).astype(jnp.int32)
    right = jnp.sign(observation[2] + observation[3] / 4)
    says = jax.lax.stop_gradient(x["says"])[side] * (2 * action - 1) * right
    return task_reward(observation, action) + x["weights"][side] * HINT * says


def problem(temperature: float) -> rs.BilevelProblem:
    """The leader's loss is the task's own return, with a minus."""
    loss = ReturnLoss(CLIP, lambda x, observation, action: task_reward(observation, action), DISCOUNT)
    return rs.BilevelProblem(rs.SimulatedWorld("CartPole-v1", DISCOUNT), reward, loss, temperature)


def _squares(observation: Float[Array, "4"]) -> Float[Array, "14"]:
    products = jnp.outer(observation, observation)[jnp.triu_indices(4)]
    return jnp.concatenate([observation, products])


# ---- learning -----------------------------------------------------------------------------------


def _learn(
    plan: Mapping[tuple[str, str], float],
    leader: Leader | None,
    rounds: int,
    seeds: range,
    temperature: float,
) -> dict[tuple[str, str], Agent]:
    """An agent for each way, hint and seed; they differ in numbers only, so one program is all of them."""
    says = jnp.array([HINTS.get(hint, (1.0, 1.0)) for _, hint in plan for _ in seeds])
    weights = jnp.array([weight for weight in plan.values() for _ in seeds])
    keys = jax.vmap(jax.random.key)(jnp.array([seed for _ in plan for seed in seeds]))

    @jax.jit
    def all_of_them(*inputs: Any) -> Any:
        return jax.lax.map(lambda own: _run(leader, rounds, temperature, *own), inputs)

    policies, curves = jax.block_until_ready(all_of_them(says, weights, keys))
    agents = {}
    for i, (way, hint) in enumerate(plan):
        rows = range(i * len(seeds), (i + 1) * len(seeds))
        upright, falls, x = (np.asarray(curve)[rows.start : rows.stop] for curve in curves)
        final = [_gymnasium_return(jax.tree.map(lambda leaf, row=row: leaf[row], policies)) for row in rows]
        agents[way, hint] = Agent(upright, falls, x * np.asarray(says[rows.start]), np.array(final))
        print(f"{way:8} {hint:10} {', '.join(f'{value:.0f}' for value in final)}", flush=True)
    return agents


def _run(
    leader: Leader | None,
    rounds: int,
    temperature: float,
    says: Float[Array, "2"],
    weight: Float[Array, ""],
    key: PRNGKeyArray,
) -> tuple[Policy, Curves]:
    sac = SAC((32, 32), DISCOUNT, learning_rate=1e-3, batch_size=64, polyak=0.01, temperature=temperature)
    bilevel = problem(temperature)
    leader_key, follower_key, start_key, key = jax.random.split(key, 4)
    x = {"says": says, "weights": jnp.full(2, weight)}
    lead = None if leader is None else leader.init(x, jnp.zeros(4), jnp.int32(0), leader_key)
    follower = sac.init(4, 2, discrete=True, key=follower_key)
    states = begin(WORLD, COPIES, start_key)
    replay = empty_replay(rounds * STEPS_A_ROUND, 4, 2, discrete=True)

    def one_round(carry: Any, key: PRNGKeyArray) -> tuple[Any, Curves]:
        lead, follower, states, replay = carry
        walk_key, lead_key, update_key, test_key = jax.random.split(key, 4)
        states, walks = walk(WORLD, follower.policy, states, CLIP, walk_key)
        replay = stored(replay, walks)
        falls = -jnp.mean(jax.vmap(jax.vmap(task_reward))(walks.observations, walks.actions))
        if leader is not None:
            everywhere = jnp.ones((COPIES, 1, CLIP), bool)
            clips = LabelledClips(walks.observations[:, None], walks.actions[:, None], everywhere, None)
            shown = Evidence(clips, clips, Follower(follower.policy, follower.temperature))
            lead, _ = leader.step(bilevel, lead, shown, lead_key)
        now = x if lead is None else lead.x
        follower, _ = sac.update(
            follower,
            replay,
            lambda step: bilevel.reward_at(now, step.observation, step.action),
            UPDATES,
            update_key,
        )
        curves = Curves(_upright(follower.policy, test_key), falls, now["weights"])
        return (lead, follower, states, replay), curves

    carry, curves = jax.lax.scan(one_round, (lead, follower, states, replay), jax.random.split(key, rounds))
    return carry[1].policy, curves


def _upright(policy: Policy, key: PRNGKeyArray) -> Float[Array, ""]:
    def one(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        states, standing = carry
        states = jax.vmap(moved)(states, act_greedily(policy, states))
        # As CartPole-v1 counts: the step that ends it too.
        counted, standing = standing, standing & ~jax.vmap(fallen)(states)
        return (jnp.where(standing[:, None], states, 0.0), standing), counted

    begun = (begin(WORLD, EPISODES, key), jnp.ones(EPISODES, bool))
    _, counted = jax.lax.scan(one, begun, None, length=EPISODE)
    return jnp.sum(counted) / EPISODES


def _gymnasium_return(policy: Policy) -> float:
    env = make("CartPole-v1", num_envs=20)
    returns = evaluate(policy, env, seed=1).returns
    env.close()
    return float(returns.mean())


# ---- the claim ----------------------------------------------------------------------------------


def _holds(agents: Mapping[tuple[str, str], Agent]) -> bool:
    """The claim of the page, on means over seeds."""
    final = {each: agent.final.mean() for each, agent in agents.items()}
    alone = final["ignored", "none"]
    led = [final[way, hint] for way in ("HPGD", "BARFI") for hint in HINTS]
    early = [agents[each].upright.mean() for each in (("HPGD", "helpful"), ("ignored", "none"))]
    return bool(final["added", "misleading"] < alone / 4 and min(led) > alone and early[0] > early[1])


def _print(outcome: Outcome) -> None:
    print(f"\n{'way':8} {'hint':10} {'CartPole-v1':>12} {'spread over seeds':>20}   x, last")
    for (way, hint), agent in outcome.agents.items():
        spread = f"{agent.final.min():.0f} … {agent.final.max():.0f}"
        x = np.round(agent.weights[:, -1].mean(0), 2)
        print(f"{way:8} {hint:10} {agent.final.mean():12.0f} {spread:>20}   {x[0]:.2f}, {x[1]:.2f}")
    print(
        "claim: added up, a misleading hint ruins the agent; weighed by a leader every hint, misleading or\n"
        "not, leaves it better than none does, and with a helpful one it learns faster: "
        + ("holds" if outcome.claim else "DOES NOT HOLD")
    )


def _draw(outcome: Outcome, out: Path) -> None:
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey="row", height_ratios=(3, 2))
    alone = outcome.agents["ignored", "none"]
    steps = STEPS_A_ROUND * np.arange(1, alone.upright.shape[1] + 1) / 1000
    colours = {"added": "C3", "HPGD": "C0", "BARFI": "C2"}
    names = {"added": "hint added up", "HPGD": "weighed: HPGD", "BARFI": "weighed: BARFI's gradient"}
    for (above, below), hint in zip(panels.T, HINTS, strict=True):
        _band(above, steps, alone.upright, "0.4", "no hint")
        for way, colour in colours.items():
            agent = outcome.agents[way, hint]
            _band(above, steps, agent.upright, colour, names[way])
            if way != "added":
                for side, style in enumerate(("-", "--")):
                    below.plot(steps, agent.weights[:, :, side].mean(0), style, color=colour)
        above.set(title=f"{hint} hint", ylim=(0, 510))
        below.axhline(0, color="0.7", linewidth=0.8)
        below.set_xlabel("thousand steps")
    panels[0, 0].set_ylabel("steps upright, of 500")
    panels[1, 0].set_ylabel("weight of the right push\n(pole left —, right - -)")
    panels[0, 0].legend(loc="lower right", fontsize=8)
    figure.savefig(out, dpi=130)


def _band(axes: Any, steps: np.ndarray, rows: np.ndarray, colour: str, name: str) -> None:
    axes.plot(steps, rows.mean(0), color=colour, label=name)
    axes.fill_between(steps, rows.min(0), rows.max(0), color=colour, alpha=0.15, linewidth=0)


if __name__ == "__main__":
    sys.exit(0 if tyro.cli(main).claim else 1)
