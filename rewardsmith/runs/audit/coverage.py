"""Where a learned reward is held against the true one: state-actions of a simulator, branched many times."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray, Shaped

from ..._core import InputError, TrueReward, TrueRewardReader, stacked
from ...agents import Policy, act_greedily
from ...bilevel.sampled.table import steps_until
from ...envs import EnvSpec, VectorEnv, fork_pairs
from ...preferences import unstacked
from ...rewards import DistanceEstimate, LearnedReward, starc_estimate
from ..collect import ActInStreams
from ..config import TrainConfig
from ..experiment import Experiment
from ..parts import make_env

POLICY_SHARE = 0.5
# What the horizon cuts off of a discounted sum.
_CUT = 0.05
_COPIES, _COPIES_OF_PICTURES = 128, 16
_EPISODES = 64
_LONGEST_EPISODE = 1000
_MOST_BYTES = 2**30
_STEPS_AT_ONCE, _PICTURES_AT_ONCE = 2**15, 2**10
_PLAY, _FORK = range(2)
_act_greedily = jax.jit(act_greedily)


@dataclass(frozen=True, eq=False)
class Coverage:
    """N state-actions of a coverage distribution, and from each K pairs of roll-outs of T steps.

    The distribution: a share of the episodes (`policy_share`) is played by the policy, the others by
    uniformly random actions; a state is any of their first 1000 steps, each as likely; the action at it is a
    sample of the policy with the same probability, else uniformly random. Of each pair the first roll-out
    starts with that action, the second with one of π; then both follow π, with the same random numbers. So
    their returns differ by one sample of A^π(s, a), whatever the reward. π is the policy's mode or, if
    `sampled`, the policy; any fixed π will do for STARC, and the mode adds no noise.

    Attributes:
        observations: (N, K, 2, T, ...), or of pictures the frames (N, K, 2, stack − 1 + T, ...).
        actions: (N, K, 2, T, ...), in [−1, 1] or indices; [:, 0, 0, 0] are the state-actions' own.
        valid: (N, K, 2, T), false behind the end of the episode, where all rewards are 0.
        true_advantages: (N, K) samples of the true reward's A^π, discounted, sealed.
        groups: (N,) which episode each is of.
        on_policy: (N,) whether that episode was the policy's.
        discount: γ.
        policy_share, sampled: see above.
        horizon: T; what comes later is cut off, γ^T of the discounted sum.
        stack: frames of one observation.
        steps: simulated in all.
    """

    observations: Shaped[np.ndarray, "N K 2 L *o"]
    actions: Shaped[np.ndarray, "N K 2 T *a"]
    valid: Bool[np.ndarray, "N K 2 T"]
    true_advantages: TrueReward
    groups: Int[np.ndarray, " N"]
    on_policy: Bool[np.ndarray, " N"]
    discount: float
    policy_share: float
    sampled: bool
    horizon: int
    stack: int
    steps: int


def cover(
    config: TrainConfig,
    policy: Policy,
    *,
    states: int,
    repeats: int,
    seed: int,
    horizon: int | None = None,
    policy_share: float = POLICY_SHARE,
    sampled: bool | None = None,
    done: Callable[[int, int], None] | None = None,
) -> Coverage:
    """Draw state-actions of the coverage distribution, see `Coverage`, and play on from each.

    Under the true reward as evaluations have it: neither cut to its sign nor ended by a lost life.

    Args:
        config: of the run.
        policy: of the coverage and of what follows.
        states: N, at least 2.
        repeats: K pairs of roll-outs from each, at least 2: one could not tell noise from size. Where neither
            π nor the world leaves anything to chance, 2 are enough.
        seed: of everything drawn.
        horizon: T steps of each roll-out; None: until γ^T is 0.05, or an episode's length if that is less.
        policy_share: share of the policy, in [0, 1].
        sampled: whether π is the policy's samples or its mode; None: as the run is evaluated.
        done: told how many pairs of roll-outs are done, and of how many.

    Raises:
        InputError: the environment cannot be restored to a state, numbers out of range, or more roll-outs
            than fit in 1 GiB.
    """
    _check(states, repeats, horizon, policy_share, seed)
    with contextlib.closing(make_env(config, 1, judged=True)) as one:
        restorable, spec = one.restorable, one.spec
    if not restorable:
        raise InputError(
            f"{config.env} cannot be restored to a state: compare returns of episodes, by return_distance"
        )
    if horizon is None:
        wanted = steps_until(_CUT, config.discount)
        horizon = min(wanted, spec.max_episode_steps or wanted)
    shape = (states, repeats, 2, horizon)
    _check_size(spec, shape)
    experiment, rng = Experiment(config, spec), np.random.default_rng((seed, _PLAY))
    play = experiment.acting(policy, jax.random.key(int(rng.integers(2**31))))
    copies = _COPIES if spec.image is None else _COPIES_OF_PICTURES
    with contextlib.closing(make_env(config, min(_EPISODES, copies, states), judged=True)) as env:
        start = _visit(experiment, env, play, states, policy_share, rng)
    with contextlib.closing(make_env(config, min(copies, 2 * states * repeats), judged=True)) as env:
        sampled = config.eval_sampled if sampled is None else sampled
        rng = np.random.default_rng((seed, _FORK))
        follow = _following(experiment, policy, jax.random.key(int(rng.integers(2**31))), sampled)
        played = _branch(env, start, follow, experiment.seen, shape, config.discount, rng, done)
    observations, actions, valid, difference, steps = played
    return Coverage(
        observations,
        actions,
        valid,
        TrueReward(difference),
        np.unique(start.groups, return_inverse=True)[1],
        start.on_policy,
        config.discount,
        policy_share,
        sampled,
        horizon,
        1 if spec.image is None else spec.image.stack,
        start.steps + steps,
    )


def advantages(coverage: Coverage, reward: LearnedReward) -> Float[np.ndarray, "N K"]:
    """K samples of the reward's A^π at each state-action of the coverage: what `starc_estimate` takes."""
    many = coverage.valid.shape[:3]
    rows = int(np.prod(many))
    seen, taken, valid = (
        array.reshape(rows, *array.shape[3:])
        for array in (coverage.observations, coverage.actions, coverage.valid)
    )
    at_once = _STEPS_AT_ONCE if seen.dtype != np.uint8 else _PICTURES_AT_ONCE
    together = min(rows, max(1, at_once // coverage.horizon))
    powers = coverage.discount ** np.arange(coverage.horizon)
    returns = np.empty(rows)
    for begin in range(0, rows, together):
        # The last block is filled up, so that one size alone is ever compiled.
        block = np.minimum(np.arange(begin, begin + together), rows - 1)
        paid = np.asarray(_rewards(reward, seen[block], taken[block], coverage.stack), np.float64)
        end = min(begin + together, rows)
        returns[begin:end] = np.sum(powers * np.where(valid[block], paid, 0.0), axis=1)[: end - begin]
    of_q, of_v = np.moveaxis(returns.reshape(many), 2, 0)
    return of_q - of_v


def distance_to_true(coverage: Coverage, reward: LearnedReward, *, seed: int = 0) -> DistanceEstimate:
    """STARC distance of a learned reward to the true one, value-adjusted by π, under the coverage.

    Args:
        coverage: by `cover`; the same one for all rewards that are to be compared with each other.
        reward: the learned reward.
        seed: of the interval's resampling; the same one keeps intervals comparable.
    """
    true = coverage.true_advantages.reveal(TrueRewardReader.EVALUATOR)
    return starc_estimate(true, advantages(coverage, reward), groups=coverage.groups, seed=seed)


@eqx.filter_jit
def _rewards(reward: LearnedReward, observations: Any, actions: Any, stack: int) -> jax.Array:
    return jax.vmap(jax.vmap(reward))(stacked(observations, stack), actions)


@dataclass(frozen=True)
class _Start:
    """State-actions to branch from, as `Coverage` describes them."""

    states: dict[str, np.ndarray]
    observations: np.ndarray
    actions: np.ndarray
    groups: np.ndarray
    on_policy: np.ndarray
    steps: int


def _visit(
    experiment: Experiment,
    env: VectorEnv,
    act: ActInStreams,
    count: int,
    policy_share: float,
    rng: np.random.Generator,
) -> _Start:
    """Episodes of both kinds, one at a time in each copy of `env`, and state-actions from them."""
    copies, length = env.num_envs, min(env.spec.max_episode_steps or _LONGEST_EPISODE, _LONGEST_EPISODE)
    # Spread, so that whatever copies are taken, the share is right.
    copy = np.arange(copies)
    by_policy = np.floor((copy + 1) * policy_share) > np.floor(copy * policy_share)
    which = rng.permutation(copies)[np.arange(count) % copies]
    when = rng.integers(length, size=count)
    observation = env.reset(int(rng.integers(2**31)))
    begun, streams = np.arange(copies), np.arange(copies)
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for step in range(int(when.max()) + 1):
        action = experiment.explore(rng, copies)[0]
        if by_policy.any():
            action[by_policy] = act(observation[by_policy], streams[by_policy], step)
        due = np.flatnonzero(when == step)
        state = env.get_state() if len(due) else {}
        for i in due:
            own = which[i]
            rows[i] = {name: array[own].copy() for name, array in state.items()}
            rows[i] |= {"observation of": observation[own], "group of": begun[own]}
        result = env.step(env.spec.from_policy(action))
        ended = result.terminated | result.truncated
        begun = begun + copies * ended
        observation = result.observation
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    observations, groups = arrays.pop("observation of"), arrays.pop("group of")
    # Behind all steps that were played, so that its noise is fresh.
    actions, own = act(observations, np.arange(count), length), rng.random(count) < policy_share
    actions = np.array(actions)
    actions[~own] = experiment.explore(rng, count)[0][~own]
    steps = (int(when.max()) + 1) * copies
    return _Start(arrays, observations, actions, groups, by_policy[which], steps)


def _following(experiment: Experiment, policy: Policy, key: PRNGKeyArray, sampled: bool) -> ActInStreams:
    if sampled:
        return experiment.acting(policy, key)

    def act(observation: np.ndarray, streams: np.ndarray, step: int) -> np.ndarray:
        del streams, step
        return np.asarray(_act_greedily(policy, experiment.seen(observation)))

    return act


def _branch(
    env: VectorEnv,
    start: _Start,
    follow: ActInStreams,
    stored: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, int, int, int],
    discount: float,
    rng: np.random.Generator,
    done: Callable[[int, int], None] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Observations, actions and valid steps of `Coverage`, true samples of A, and steps simulated."""
    states, repeats, _, horizon = shape
    pairs, together, image = states * repeats, max(1, env.num_envs // 2), env.spec.image
    powers, seed, steps = discount ** np.arange(horizon), int(rng.integers(2**31)), 0
    seen, taken = np.zeros(0), np.zeros(0)
    valid, difference = np.zeros((pairs, 2, horizon), bool), np.zeros(pairs)
    for begin in range(0, pairs, together):
        rows = np.arange(begin, min(begin + together, pairs))
        of = rows // repeats
        played = fork_pairs(
            env,
            {name: array[of] for name, array in start.states.items()},
            start.observations[of],
            start.actions[of],
            follow,
            horizon,
            seed,
            streams=rows,
        )
        steps += played.steps
        paid = played.true_reward.reveal(TrueRewardReader.EVALUATOR)
        returns = np.sum(powers * np.where(played.valid, paid, 0.0), axis=1)
        difference[rows] = returns[0::2] - returns[1::2]
        observations = stored(played.observations)
        if image is not None:
            observations = unstacked(observations, image)
        if begin == 0:
            seen = np.zeros((pairs, 2, *observations.shape[1:]), observations.dtype)
            taken = np.zeros((pairs, 2, *played.actions.shape[1:]), played.actions.dtype)
        seen[rows] = observations.reshape(len(rows), 2, *observations.shape[1:])
        taken[rows] = played.actions.reshape(len(rows), 2, *played.actions.shape[1:])
        valid[rows] = played.valid.reshape(len(rows), 2, horizon)
        if done is not None:
            done(int(rows[-1]) + 1, pairs)
    each = (states, repeats)
    return (
        seen.reshape(*each, *seen.shape[1:]),
        taken.reshape(*each, *taken.shape[1:]),
        valid.reshape(shape),
        difference.reshape(each),
        steps,
    )


def _check(states: int, repeats: int, horizon: int | None, policy_share: float, seed: int) -> None:
    for name, value, least in (("states", states, 2), ("repeats", repeats, 2), ("horizon", horizon, 1)):
        if value is not None and value < least:
            raise InputError(f"{name} is {value}: give a whole number of at least {least}")
    if not 0.0 <= policy_share <= 1.0:
        raise InputError(f"policy_share is {policy_share}: give a number from 0 to 1")
    if seed < 0:
        raise InputError(f"seed is {seed}: give 0 or a positive whole number")


def _check_size(spec: EnvSpec, shape: tuple[int, int, int, int]) -> None:
    states, *each = shape
    size = 4 * int(np.prod(spec.observation_shape))
    if spec.image is not None:
        size = int(np.prod(spec.image.frame_shape))
    size += 4 * int(np.prod(spec.action_shape)) + 1
    most = _MOST_BYTES // (size * int(np.prod(each)))
    if states > most:
        raise InputError(
            f"{states} states of {spec.env_id} take over 1 GiB: give at most {most}, or a shorter horizon"
        )
