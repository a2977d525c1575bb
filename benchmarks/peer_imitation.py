"""imitation's preference-comparison reward trainer, run by the interpreter of an environment of its own."""

import os
import time

# Its progress bars and its log are nobody's.
os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import torch
from gymnasium.spaces import Box
from imitation.algorithms.preference_comparisons import (
    CrossEntropyRewardLoss,
    EnsembleTrainer,
    PreferenceDataset,
    PreferenceModel,
)
from imitation.data.types import TrajectoryWithRew
from imitation.rewards.reward_nets import BasicRewardNet, RewardEnsemble
from imitation.util import logger
from torch.utils.data import Subset

PACKAGES = ("imitation", "torch", "stable-baselines3", "gymnasium", "numpy")
_OBSERVATION, _ACTION, _STEPS, _MEMBERS, _QUEUE, _BATCH = 17, 6, 25, 3, 3000, 64


def build():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    observations, actions = (Box(-1.0, 1.0, (size,)) for size in (_OBSERVATION, _ACTION))
    nets = [BasicRewardNet(observations, actions, hid_sizes=(128, 128)) for _ in range(_MEMBERS)]
    trainer = EnsembleTrainer(
        PreferenceModel(RewardEnsemble(observations, actions, nets)),
        CrossEntropyRewardLoss(),
        rng=rng,
        batch_size=_BATCH,
        lr=3e-4,
        custom_logger=logger.configure(".", []),
    )

    def clip() -> TrajectoryWithRew:
        return TrajectoryWithRew(
            obs=rng.standard_normal((_STEPS + 1, _OBSERVATION), np.float32),
            acts=rng.uniform(-1.0, 1.0, (_STEPS, _ACTION)).astype(np.float32),
            infos=None,
            terminal=False,
            rews=rng.standard_normal(_STEPS, np.float32),
        )

    queue = PreferenceDataset()
    labels = rng.integers(0, 2, _QUEUE).astype(np.float32)
    queue.push([(clip(), clip()) for _ in range(_QUEUE)], labels)

    def measure(count: int) -> float:
        # One epoch of so many batches.
        pairs = Subset(queue, list(np.arange(count * _BATCH) % _QUEUE))
        started = time.perf_counter()
        trainer.train(pairs)  # pyright: ignore[reportArgumentType]
        return time.perf_counter() - started

    return measure
