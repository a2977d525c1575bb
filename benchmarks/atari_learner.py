"""Discrete soft actor-critic from pictures: gradient updates a second, against torch."""

import time
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from rewardsmith._core import ImageSpec, conv
from rewardsmith.agents import SAC, CategoricalPolicy, SACState, Transition

from . import atari_batch as work
from .subject import PEERS, Side, Subject

PACKAGES = ("rewardsmith", "jax", "equinox", "optax", "numpy")
_KEPT = "benchmarks.kept"
_IMAGE = ImageSpec(work.HEIGHT, work.WIDTH, 1, work.STACK)


def subject(quick: bool) -> Subject:
    patches, torch = (__name__, "patches"), "benchmarks.peer_atari"
    ours = [
        Side("rewardsmith, freed memory kept", (_KEPT, *patches), {"fused": work.FUSED}, work.FUSED),
        Side("rewardsmith", patches, {"fused": work.FUSED}, work.FUSED),
    ]
    if not quick:
        # Half a minute for a handful of updates.
        ours.append(Side("rewardsmith, XLA's convolutions", (__name__, "native"), {"fused": 1}))
    reference, *more = [
        Side("torch, reference layout", (torch, "reference"), home=PEERS),
        Side("torch, channels last", (torch, "channels-last"), home=PEERS),
        Side("torch, channels last, freed memory kept", (_KEPT, torch, "channels-last"), home=PEERS),
    ]
    return Subject(
        name="atari-learner",
        title="Atari discrete SAC",
        how=(
            f"Nature CNN on pictures of {work.HEIGHT} × {work.WIDTH} × {work.STACK}, {work.HIDDEN} hidden "
            f"units, {work.ACTIONS} actions, twin critics with targets, tuned temperature, batch "
            f"{work.BATCH}; batches are in memory as bytes, no environment and no learned reward. Ours: "
            f"`update_on_batches`, {work.FUSED} updates in one compiled call. Peer: the same update in torch "
            "(one thread), written from the mathematics; its pictures are channels × height × width, or laid "
            f"out channels last. Both are checked to give the same losses, temperature and policy over "
            f"{work.FUSED} updates before they are timed. Freed memory kept: the C library's allocator keeps "
            "large blocks (`keep_freed_memory`, called before anything else). XLA's convolutions, instead of "
            "patches and a matrix product, are what not to use on a processor; 1 update a call, unchecked."
        ),
        unit="updates/s",
        sides=(*ours, reference, *more),
        ratios=tuple((side.label, reference.label) for side in (*ours, *more)),
        rounds=5,
        seconds=0.5 if quick else 1.5,
    )


def make_learner() -> tuple[SAC, SACState]:
    """With the parameters that all sides start from."""
    sac = SAC(
        hidden=(work.HIDDEN,),
        discount=work.DISCOUNT,
        learning_rate=work.LEARNING_RATE,
        batch_size=work.BATCH,
        target_every=work.TARGET_EVERY,
        adam_epsilon=work.ADAM_EPSILON,
    )
    state = sac.init(_IMAGE, work.ACTIONS, discrete=True, key=jax.random.key(0))
    policy, first, second = work.networks()
    critic = eqx.tree_at(
        lambda twin: (twin.first, twin.second),
        state.critic,
        (_filled(state.critic.first, first), _filled(state.critic.second, second)),
    )
    return sac, eqx.tree_at(
        lambda state: (state.policy, state.critic, state.target_critic),
        state,
        (_filled(state.policy, policy), critic, jax.tree.map(jnp.copy, critic)),
    )


def make_batches() -> Transition:
    """(updates, batch) transitions."""
    arrays = {name: jnp.asarray(array) for name, array in work.batches()._asdict().items()}
    return Transition(true_reward=arrays.pop("reward"), **arrays)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def update(sac: SAC, state: SACState, batches: Transition):
    """One update on each of the batches."""
    return sac.update_on_batches(state, batches, lambda transition: transition.true_reward, jax.random.key(0))


def first_updates() -> dict[str, Any]:
    """What `atari_batch.CHECKED` wants to know."""
    sac, state = make_learner()
    batches = make_batches()
    state, stats = update(sac, state, batches)
    told = {name: float(getattr(stats, name)) for name in ("critic_loss", "actor_loss", "q_mean")}
    log_probs = eqx.filter_jit(state.policy.log_probs)(batches.observation[0, 0])
    return told | {"log_temperature": float(state.log_temperature), "log_probs": log_probs.tolist()}


def build(convolutions: str):
    """`convolutions`: "patches" or "native"."""
    if convolutions == "native":
        conv.convolve_by_patches = conv.convolve_natively
    elif jax.default_backend() == "cpu":
        work.check_same(first_updates())
    else:
        # A GPU rounds factors of products further, unless it is told not to.
        with jax.default_matmul_precision("highest"):
            work.check_same(first_updates())
    sac, state = make_learner()
    all_batches = make_batches()

    def measure(count: int, fused: int) -> float:
        nonlocal state
        batches = jax.block_until_ready(jax.tree.map(lambda leaf: leaf[:fused], all_batches))
        started = time.perf_counter()
        for _ in range(count // fused):
            state, _ = update(sac, state, batches)
        jax.block_until_ready(state)
        return time.perf_counter() - started

    return measure


def _filled(network: Any, values: work.Parameters) -> Any:
    def parts(network: Any) -> list[Any]:
        head = network.trunk if isinstance(network, CategoricalPolicy) else network.head
        layers = [(layer.weight, layer.bias) for layer in network.encoder.convolutions]
        return [part for layer in (*layers, *zip(head.weights, head.biases, strict=True)) for part in layer]

    return eqx.tree_at(parts, network, [jnp.asarray(part) for layer in values for part in layer])
