"""Experience of images fits into the memory it is meant to take, and nothing else is kept alive."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import memory
from rewardsmith.preferences import Trajectories

ROOT = Path(__file__).resolve().parents[1]


def test_a_million_transitions_and_3000_comparisons_fit_into_10_gib():
    try:
        replay, _, queue = memory.parts(1_000_000, 3000)
        # The longest record a run may have: a whole episode of Atari's time limit in each environment.
        image = memory.IMAGE
        record = Trajectories(memory.NUM_ENVS, 27_000, image.shape, (), action_dtype=np.int32, image=image)
    except MemoryError:
        pytest.skip("this machine does not promise so much memory")
    assert replay.capacity >= 1_000_000
    assert queue.arrays()["observations"].shape == (3000, 2, 3 + 25, 84, 84, 1)
    assert memory.nbytes(replay, record, queue) <= 10 * 2**30
    # Frames are what takes it: less than 1 % is anything else.
    frames = [replay.get_state()["frames"], record.get_state()["observations"]]
    frames.append(queue.arrays()["observations"])
    assert memory.nbytes(replay, record, queue) < 1.01 * sum(array.nbytes for array in frames)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="read from Linux's /proc")
def test_a_process_grows_by_its_arrays_and_no_more():
    program = "import json; from benchmarks.memory import measure; print(json.dumps(measure(40_000, 400)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # 40 000 and 400 · 2 · 28 frames, and the record's.
    assert found["arrays"] > (40_000 + 400 * 2 * 28) * 84 * 84
    assert 0.9 * found["arrays"] < found["grown"] < 1.1 * found["arrays"]
