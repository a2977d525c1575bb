"""Gymnasium's MuJoCo tasks (version 5) as rows of numbers, with their rules as functions of whole batches.

Source: the classes of the same names in ``gymnasium/envs/mujoco``. Every rounding follows them, so that
observations, rewards and ends agree bit for bit. Ant and Humanoid are left out: their observations hold
contact forces, which a batch does not compute.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MujocoTask:
    """One task. N environments; nq positions, nv velocities, nu actuators.

    Attributes:
        model_file: file among Gymnasium's MuJoCo assets.
        frame_skip: physics steps for one environment step.
        hidden_positions: leading entries of qpos that are not observed.
        velocity_limit: observed velocities are cut off at ± this; None: they are not.
        forward_weight: reward for one unit of speed along x.
        control_cost: cost of one unit of Σ action².
        healthy_reward: reward for a step that ends healthy.
        healthy: qpos (N, nq), qvel (N, nv) -> (N,) bool; an unhealthy state terminates. None: never.
        reset_noise: scale of the noise added to the model's own start.
        normal_velocity_noise: start velocities get normal noise; else uniform, as positions always do.
    """

    model_file: str
    frame_skip: int
    hidden_positions: int
    velocity_limit: float | None
    forward_weight: float
    control_cost: float
    healthy_reward: float
    healthy: Callable[[np.ndarray, np.ndarray], np.ndarray] | None
    reset_noise: float
    normal_velocity_noise: bool = False


def observation(task: MujocoTask, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    """Observed positions, then velocities: (N, nq - hidden + nv), float64."""
    if task.velocity_limit is not None:
        qvel = np.clip(qvel, -task.velocity_limit, task.velocity_limit)
    return np.concatenate([qpos[:, task.hidden_positions :], qvel], axis=1)


def reward(task: MujocoTask, x_velocity: np.ndarray, healthy: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Speed and health less effort, a step: w_x v_x + w_h [healthy] - c Σ a².

    Args:
        task: the row of numbers.
        x_velocity: (N,) mean speed along x during the step, in m/s.
        healthy: (N,) bool after the step.
        action: (N, nu) float32; the cost is rounded to float32, as Gymnasium rounds it.
    """
    cost = task.control_cost * np.sum(np.square(action), axis=1)
    return (task.forward_weight * x_velocity + healthy * task.healthy_reward) - cost


def start(
    task: MujocoTask, qpos: np.ndarray, qvel: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one start near the model's own (nq,), (nv,); positions are drawn before velocities."""
    scale = task.reset_noise
    qpos = qpos + rng.uniform(low=-scale, high=scale, size=qpos.shape)
    if task.normal_velocity_noise:
        return qpos, qvel + scale * rng.standard_normal(qvel.shape)
    return qpos, qvel + rng.uniform(low=-scale, high=scale, size=qvel.shape)


def _hopper_healthy(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    bounded = (np.abs(qpos[:, 2:]) < 100.0).all(axis=1) & (np.abs(qvel) < 100.0).all(axis=1)
    height, angle = qpos[:, 1], qpos[:, 2]
    return bounded & (height > 0.7) & (height < np.inf) & (np.abs(angle) < 0.2)


def _walker_healthy(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    del qvel
    height, angle = qpos[:, 1], qpos[:, 2]
    return (height > 0.8) & (height < 2.0) & (np.abs(angle) < 1.0)


def _pendulum_healthy(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    finite = np.isfinite(qpos).all(axis=1) & np.isfinite(qvel).all(axis=1)
    return finite & (np.abs(qpos[:, 1]) <= 0.2)


TASKS = {
    "HalfCheetah-v5": MujocoTask(
        "half_cheetah.xml", 5, 1, None, 1.0, 0.1, 0.0, None, 0.1, normal_velocity_noise=True
    ),
    "Hopper-v5": MujocoTask("hopper.xml", 4, 1, 10.0, 1.0, 1e-3, 1.0, _hopper_healthy, 5e-3),
    "Walker2d-v5": MujocoTask("walker2d_v5.xml", 4, 1, 10.0, 1.0, 1e-3, 1.0, _walker_healthy, 5e-3),
    "Swimmer-v5": MujocoTask("swimmer.xml", 4, 2, None, 1.0, 1e-4, 0.0, None, 0.1),
    "InvertedPendulum-v5": MujocoTask(
        "inverted_pendulum.xml", 2, 0, None, 0.0, 0.0, 1.0, _pendulum_healthy, 0.01
    ),
}
