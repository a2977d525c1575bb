"""What a run on images takes of memory: ``python -m benchmarks.memory`` fills replay, record and queue.

At full size, 10⁶ transitions and 3000 comparisons of 25 steps (84 × 84, grey, stacks of 4), it needs about
9 GiB of memory and some minutes; --transitions and --comparisons make it smaller.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from rewardsmith._core import ImageSpec, TrueReward
from rewardsmith.agents.frame_replay import FrameReplay
from rewardsmith.preferences import ComparisonQueue, Trajectories

IMAGE = ImageSpec(84, 84, 1, 4)
NUM_ENVS, HORIZON, EPISODE = 8, 25, 1000
# Steps of each environment on record: one session of the leader, every 2000 steps of all.
WINDOW = 250
_BATCH = 64
_AT_ONCE = 10
_SMALL = NUM_ENVS * WINDOW


def parts(transitions: int, comparisons: int) -> tuple[FrameReplay, Trajectories, ComparisonQueue]:
    """Replay, record and queue of a run, empty; NumPy takes memory when it is first written."""
    rows = transitions + transitions // EPISODE + NUM_ENVS * (IMAGE.stack + 2)
    return (
        FrameReplay(rows, NUM_ENVS, IMAGE, (), np.int32),
        Trajectories(NUM_ENVS, WINDOW, IMAGE.shape, (), np.uint8, np.int32, image=IMAGE),
        ComparisonQueue(comparisons, HORIZON, 0, IMAGE.shape, (), np.uint8, np.int32, image=IMAGE),
    )


def nbytes(replay: FrameReplay, record: Trajectories, queue: ComparisonQueue) -> int:
    """Bytes of their arrays."""
    held = [*record.get_state().values(), *queue.get_state().values()]
    # True rewards are float64.
    return replay.nbytes + sum(array.nbytes for array in held) + 8 * int(np.prod(record.true_reward.shape))


def fill(replay: FrameReplay, record: Trajectories, queue: ComparisonQueue, transitions: int) -> None:
    """As a run does: steps, draws for the learner, sessions that ask for comparisons."""
    rng = np.random.default_rng(0)
    total = -(-transitions * (EPISODE + 1) // EPISODE // NUM_ENVS) + IMAGE.stack + 2
    never = np.zeros(NUM_ENVS, bool)
    for step, (observation, following, ended) in enumerate(_frames(total)):
        action = rng.integers(9, size=NUM_ENVS)
        replay.add(observation, action, following, ended, never)
        record.append(observation, action, ended, TrueReward(np.zeros(NUM_ENVS)))
        if step % WINDOW == WINDOW - 1:
            jax.block_until_ready(replay.draw(_BATCH, rng))
        while step >= HORIZON and queue.total < queue.capacity * (step + 1) // total:
            first, second = (record.sample(_AT_ONCE, HORIZON, 0, rng) for _ in range(2))
            queue.append(first, second, np.ones(_AT_ONCE), step)


def _frames(steps: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Observations, what they lead to and whether the episode ends: no two frames alike, and cheap."""
    pattern = np.random.default_rng(1).integers(0, 256, (NUM_ENVS, *IMAGE.frame_shape), np.uint8)
    observation = np.tile(pattern, IMAGE.stack)
    for step in range(steps):
        frame = pattern + np.uint8(step % 256)
        following = np.concatenate([observation[..., IMAGE.channels :], frame], axis=-1)
        ends = step % EPISODE == EPISODE - 1
        yield observation, following, np.full(NUM_ENVS, ends)
        observation = np.tile(frame, IMAGE.stack) if ends else following


def measure(transitions: int, comparisons: int) -> dict[str, int]:
    """Fill them and tell bytes: of their arrays, by how much the peak of this process rose, and the peak.

    Linux only.
    """
    # A process has programs, threads and the buffers of one batch whatever it keeps: they count as there
    # before. The small parts live on, for what they gave back would be used again and not counted.
    small = parts(_SMALL, _AT_ONCE)
    fill(*small, _SMALL)
    before = peak_memory()
    replay, record, queue = parts(transitions, comparisons)
    fill(replay, record, queue, transitions)
    assert replay.size >= transitions and len(queue) == comparisons
    peak = peak_memory()
    return {"arrays": nbytes(replay, record, queue), "grown": peak - before, "peak": peak}


def peak_memory() -> int:
    """Bytes: the most this process has had resident so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--comparisons", type=int, default=3000)
    options = parser.parse_args()
    began = time.perf_counter()
    found = measure(options.transitions, options.comparisons)
    print(f"{options.transitions} transitions, {options.comparisons} comparisons of {HORIZON} steps")
    for name, of in (("arrays", "their arrays"), ("grown", "growth"), ("peak", "peak of the process")):
        print(f"{of}: {found[name] / 2**30:.2f} GiB")
    print(f"filled in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
