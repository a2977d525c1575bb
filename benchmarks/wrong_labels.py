"""How many of the wrong labels each score finds, where a tenth is wrong and a tenth is inspected.

    python -m benchmarks.wrong_labels [--policy RUN] [--quick]

prints the tables of docs/influence.md; everything follows from the seeds. A linear reward on made-up
features, and networks on real clips of HalfCheetah: half of them by random actions, half by a policy that is
half trained (by soft actor-critic under the true reward: the first minutes go into it; --policy takes a
folder that was written before, see `half_trained`). Labels are by true sums of rewards, through a teacher.
"""

import argparse
import contextlib
import tempfile
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from rewardsmith._core import MLP, TrueReward
from rewardsmith.bilevel import Follower, LabelledClips, LeaderState, lead
from rewardsmith.envs import VectorEnv
from rewardsmith.preferences import Trajectories
from rewardsmith.preferences.attribution import (
    ExactCurvature,
    Influence,
    KroneckerCurvature,
    ScoredNetwork,
    conjugate_gradients,
    exact_curvature,
    gauss_newton,
    hessian,
    influence,
    kronecker_curvature,
    leave_one_out_score,
    recall_at,
    self_influence,
)
from rewardsmith.preferences.loss import bradley_terry
from rewardsmith.preferences.teachers import make_teacher
from rewardsmith.runs.attribution.cross_fit import cross_fit
from rewardsmith.runs.attribution.heads import make_heads, seen_by
from rewardsmith.runs.attribution.measure import measure
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.experiment import Experiment
from rewardsmith.runs.loading import load_policy
from rewardsmith.runs.parts import make_env, make_reward
from rewardsmith.runs.train import train

SEEDS, COUNT, WRONG = 5, 500, 0.1
STEPS = (60, 400, 1600)
"""Gradient steps of the reward whose answers are judged: stopped early, about enough, too many."""
REWARD = {
    "env": "HalfCheetah-v5",
    "method": "drlhf",
    "reward_hidden": (64, 64),
    "ensemble": 2,
    "reward_learning_rate": 1e-3,
}
Found = dict[str, list[float]]


def half_trained(out: Path) -> Path:
    """A run of soft actor-critic that was stopped on its way."""
    config = TrainConfig(
        env="HalfCheetah-v5",
        method="sac",
        steps=16_000,
        learning_starts=2000,
        hidden=(128, 128),
        learning_rate=1e-3,
        eval_every=5000,
        eval_episodes=2,
        checkpoint_every=16_000,
        snapshot_every=None,
    )
    return train(config, out).path


def compared(run: Path, seed: int, count: int, horizon: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """`count` pairs of clips, "observations" and "actions", and labels without a fault."""
    _, config, policy, _ = load_policy(run)
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    sample: Any = jax.jit(lambda seen, key: jax.vmap(policy.sample)(seen, jax.random.split(key, len(seen))))

    def at_random(seen: np.ndarray, step: int) -> np.ndarray:
        del step
        return rng.uniform(-1.0, 1.0, (len(seen), *spec.action_shape)).astype(np.float32)

    def by_policy(seen: np.ndarray, step: int) -> np.ndarray:
        return np.asarray(sample(seen, jax.random.fold_in(key, step)))

    with contextlib.closing(make_env(config, 16)) as env:
        spec = env.spec
        parts = [_played(env, act, rng, 2 * count, horizon) for act in (at_random, by_policy)]
    clips = [getattr(part, name) for name in ("observations", "actions") for part in parts]
    seen, taken = np.concatenate(clips[:2]), np.concatenate(clips[2:])
    rewards = TrueReward.stack([part.true_reward[row] for part in parts for row in range(2 * count)])
    first, second = rng.permutation(len(seen))[: 2 * count].reshape(2, count)
    label = make_teacher("oracle").answer(rewards[first], rewards[second], rng)
    pairs = {"observations": (first, second, seen), "actions": (first, second, taken)}
    return {name: np.stack([of[a], of[b]], axis=1) for name, (a, b, of) in pairs.items()}, label


def _played(env: VectorEnv, act: Any, rng: np.random.Generator, count: int, horizon: int) -> Any:
    record = Trajectories(16, 150, env.spec.observation_shape, env.spec.action_shape)
    seen = env.reset(int(rng.integers(2**31))).astype(np.float32)
    for step in range(150):
        action = act(seen, step)
        result = env.step(env.spec.from_policy(action))
        record.append(seen, action, result.terminated | result.truncated, result.reward)
        seen = result.observation.astype(np.float32)
    return record.sample(count, horizon, 0, rng)


def flipped(label: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`label` with a tenth of them wrong, and which."""
    wrong = np.zeros(len(label), bool)
    wrong[np.random.default_rng((seed, 1)).choice(len(label), round(WRONG * len(label)), replace=False)] = (
        True
    )
    return np.where(wrong, 1.0 - label, label).astype(np.float32), wrong


class _Nobody(eqx.Module):
    """For a leader that looks at no policy."""

    def sample(self, observation: Any, key: Any, /) -> Any:
        return observation

    def log_prob(self, observation: Any, action: Any, /) -> Any:
        return jnp.zeros(())


def on_clips(
    experiment: Experiment, seen: ScoredNetwork, run: Path, seed: int, count: int, steps: tuple[int, ...]
) -> dict[str, dict[str, float]]:
    """Recall of every score, by how long the reward was fitted; and how many held-out answers it foresees."""
    config = experiment.config
    pairs, truth = compared(run, seed, count + 300, config.clip_length)
    own = {name: array[:count] for name, array in pairs.items()}
    label, wrong = flipped(truth[:count], seed)
    leader = experiment.leader
    assert leader is not None
    key = jax.random.key(seed)
    state = leader.init(make_reward(config, experiment.spec, key), jnp.zeros(17), jnp.zeros(6), key)
    observations, actions = (jnp.asarray(own[name]) for name in ("observations", "actions"))
    clips = LabelledClips(observations, actions, jnp.ones(actions.shape[:3], bool), jnp.asarray(label))
    rest = {name: array[count:] for name, array in pairs.items()}
    found, done, crossed = {}, 0, None
    for until in steps:
        state = led(experiment, state, clips, jax.random.fold_in(key, until), until - done)
        done = until
        heads = make_heads(experiment, state.x, own, {"label": label})
        measured, _ = measure(seen, heads, None, "exact", 0.1, seed)
        cheap, _ = measure(seen, heads, None, "ek-fac", 0.1, seed)
        if crossed is None:
            crossed = cross_fit(experiment, seen, heads, 5, 400, 0.1, seed)
        scores = {
            "loss": measured.loss,
            "margin": -measured.margin,
            "self-influence": measured.self_influence,
            "self-influence, EK-FAC": cheap.self_influence,
            "leave-one-out loss": measured.leave_one_out_loss,
            "cross-fit loss": crossed[0],
            "influence on answers left out": crossed[1],
            "moved": measured.moved,
        }
        found[f"{until} steps"] = {name: recall_at(score, wrong) for name, score in scores.items()}
        foreseen = experiment.in_blocks(partial(experiment.foresee, state.x), rest, 300).mean(axis=1)
        found[f"{until} steps"]["(right on 300 others)"] = float(
            np.mean((foreseen > 0.5) == (truth[count:] > 0.5))
        )
        found[f"{until} steps"]["(EK-FAC against exact, correlation)"] = float(
            np.corrcoef(measured.self_influence, cheap.self_influence)[0, 1]
        )
    return found


def led(
    experiment: Experiment, state: LeaderState, clips: LabelledClips, key: Any, steps: int
) -> LeaderState:
    """So many more steps by the run's leader, which follows the first term alone."""
    follower = Follower(_Nobody(), jnp.ones(()))
    return _led(experiment, steps)(state, clips, jnp.asarray(clips.count), follower, key)[0]


@cache
def _led(experiment: Experiment, steps: int) -> Any:
    assert experiment.leader is not None
    batch = experiment.config.leader_batch_size
    sizes = {"num_steps": steps, "batch_size": batch, "recent_batch_size": 1, "recent": 1}
    return jax.jit(partial(lead, experiment.leader, experiment.problem, **sizes))


def on_features(seed: int, count: int = COUNT, size: int = 20) -> dict[str, float]:
    """The same of a linear reward at its minimum, float32."""
    rng = np.random.default_rng(seed)
    features, truth = rng.normal(size=(count, size)), rng.normal(size=size)
    label, wrong = flipped((features @ truth > 0).astype(float), seed)
    examples = {"f": jnp.asarray(features, jnp.float32), "y": jnp.asarray(label)}
    own, leverage, loss, apart = _linear(examples)
    scores = {"loss": loss, "self-influence": own, "leave-one-out loss": apart, "leverage": leverage}
    return {name: recall_at(np.asarray(score), wrong) for name, score in scores.items()}


@jax.jit
def _linear(examples: dict[str, Any]) -> Any:
    count, ridge = len(examples["y"]), 1e-2

    def loss(theta: Any, example: Any) -> Any:
        return bradley_terry(example["f"] @ theta, jnp.zeros(()), example["y"])

    def regulariser(theta: Any) -> Any:
        return 0.5 * ridge * theta @ theta

    def objective(theta: Any) -> Any:
        return jnp.mean(jax.vmap(partial(loss, theta))(examples)) + regulariser(theta)

    def newton(theta: Any, _: None) -> Any:
        return theta - jnp.linalg.solve(jax.hessian(objective)(theta), jax.grad(objective)(theta)), None

    theta = jax.lax.scan(newton, jnp.zeros(examples["f"].shape[1]), None, length=20)[0]
    solve = conjugate_gradients(hessian(loss, theta, examples, regulariser=regulariser), tolerance=1e-4)
    own = self_influence(loss, theta, examples, solve).values
    leverage = self_influence(lambda at, example: example["f"] @ at, theta, examples, solve).values / count
    scores = examples["f"] @ theta
    chance = jax.nn.sigmoid(scores)
    apart = leave_one_out_score(scores, chance - examples["y"], chance * (1 - chance), leverage)
    judged = jax.vmap(lambda score, label: bradley_terry(score, jnp.zeros(()), label))
    return own, leverage, judged(scores, examples["y"]), judged(apart, examples["y"])


def costs(count: int) -> list[str]:
    """Seconds, once compiled, of each way to (G + λI)⁻¹, and of what it is used for; made-up clips."""
    rows, sign = [], jnp.repeat(jnp.array([1.0, -1.0]), 25)
    seen = ScoredNetwork(
        lambda example: example["x"],
        lambda outputs, _: (sign @ outputs[:, 0])[None],
        lambda score, example: bradley_terry(score[0], jnp.zeros(()), example["y"]),
        lambda score, _: jax.nn.sigmoid(score) * jax.nn.sigmoid(-score),
    )
    label = (jnp.arange(count) % 2).astype(jnp.float32)
    examples = {"x": jax.random.normal(jax.random.key(1), (count, 50, 23)), "y": label}

    def exact(network: MLP, examples: Any) -> ExactCurvature:
        return exact_curvature(seen.scores_of, seen.weights, network, examples)

    def cheap(network: MLP, examples: Any) -> KroneckerCurvature:
        return kronecker_curvature(network, examples, seen)

    def own(network: MLP, examples: Any, made: Any) -> Any:
        return self_influence(seen.loss_of, network, examples, made).values

    def once(network: MLP, examples: Any, damping: Any) -> Influence:
        product = gauss_newton(seen.scores_of, seen.weights, network, examples)
        solve = conjugate_gradients(product, damping=damping, tolerance=1e-2, throw=False)
        first = jax.tree.map(lambda leaf: leaf[0], examples)
        return influence(seen.loss_of, network, examples, lambda at: seen.loss_of(at, first), solve)

    for width in (64, 256):
        network = MLP([23, width, width, 1], key=jax.random.key(0))
        damping: Any = None
        for name, make in (("exact", exact), ("EK-FAC", cheap)):
            made, built = _timed(jax.jit(make), network, examples)
            damping = made.damping if damping is None else damping
            _, used = _timed(jax.jit(own), network, examples, made)
            rows.append(f"| {name}, {width} × {width} | {built:.2f} | {used:.2f} |")
        found, used = _timed(jax.jit(partial(once, damping=float(damping))), network, examples)
        told = f"{int(found.steps)} products, residual {float(found.residual):.0e}, {bool(found.converged)}"
        rows.append(f"| conjugate gradients, one influence, {width} × {width} | {used:.2f} | {told} |")
    return rows


def _timed(program: Any, *arguments: Any) -> tuple[Any, float]:
    """What it gives, and the shorter of two times of it."""
    found = jax.block_until_ready(program(*arguments))
    seconds = []
    for _ in range(2):
        began = time.monotonic()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.monotonic() - began)
    return found, min(seconds)


def told(found: Found) -> list[str]:
    """Rows of a table: mean and its 95 % interval over seeds, by Student's t."""
    rows = []
    for name, values in found.items():
        half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
        rows.append(f"| {name} | {np.mean(values):.2f} ± {half:.2f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wrong_labels", description=__doc__)
    parser.add_argument("--policy", type=Path, help="a run that half_trained wrote")
    parser.add_argument("--costs", action="store_true", help="only how long influence takes")
    parser.add_argument("--quick", action="store_true", help="does it run, not how well")
    options = parser.parse_args()
    began = time.monotonic()
    seeds, count, steps = (2, 60, (20,)) if options.quick else (SEEDS, COUNT, STEPS)
    if options.costs:
        print(*costs(count), sep="\n")
        return
    linear: Found = {}
    for seed in range(4 * seeds):
        for name, value in on_features(seed, count).items():
            linear.setdefault(name, []).append(value)
    print(
        f"linear reward, {count} answers, 20 features, {4 * seeds} seeds", *told(linear), sep="\n", flush=True
    )
    with tempfile.TemporaryDirectory() as folder:
        run = options.policy or half_trained(Path(folder) / "half-trained")
        config = TrainConfig(**REWARD)
        with contextlib.closing(make_env(config, 1)) as env:
            experiment = Experiment(config, env.spec)
        seen = seen_by(experiment, make_reward(config, experiment.spec, jax.random.key(0)))
        found: dict[str, Found] = {}
        for seed in range(seeds):
            of_seed = on_clips(experiment, seen, run, seed, count, steps)
            for fitted, values in of_seed.items():
                for name, value in values.items():
                    found.setdefault(fitted, {}).setdefault(name, []).append(value)
            print(f"[{time.monotonic() - began:4.0f} s] seed {seed}", flush=True)
    for fitted, table in found.items():
        print(
            f"HalfCheetah-v5, {count} answers, {seeds} seeds, reward fitted for {fitted}",
            *told(table),
            sep="\n",
        )


if __name__ == "__main__":
    main()
