"""Where a command computes, and where its compiled programs are kept."""

import os
import stat
import subprocess
import sys

import pytest

from rewardsmith._core import InputError, choose_device, keep_compiled, memory_used
from rewardsmith.cli import main


def test_a_gpu_that_is_not_there_is_refused_in_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--device", "gpu", "--out", str(tmp_path / "run")])
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.count("\n") == 1
    assert "JAX sees no GPU here, only cpu" in told and not (tmp_path / "run").exists()


def test_what_is_no_device_is_refused():
    with pytest.raises(InputError, match="unknown --device 'tpu'"):
        choose_device("tpu")
    with pytest.raises(InputError, match="--threads is 0"):
        choose_device("cpu", 0)


def test_memory_is_told_in_words():
    assert memory_used().endswith(" GiB") and 0.01 < float(memory_used().split()[0]) < 1000


def run(code, tmp_path, **environment):
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")} | environment
    env |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


SLOW_TO_COMPILE = """
import jax, jax.numpy as jnp
from rewardsmith._core import keep_compiled
print(keep_compiled())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
heard = []
jax.monitoring.register_event_listener(lambda event, **_: heard.append(event))
jax.jit(lambda x: jnp.linalg.solve(x @ x.T + jnp.eye(8), x))(jnp.ones((8, 8)))
print(heard.count("/jax/compilation_cache/cache_hits"))
"""


def test_a_second_process_compiles_nothing_again(tmp_path):
    folder, hits = run(SLOW_TO_COMPILE, tmp_path).splitlines()
    assert hits == "0" and folder.startswith(str(tmp_path / "cache" / "rewardsmith"))
    # What lies there is run.
    mode = (tmp_path / "cache" / "rewardsmith").joinpath(folder).stat().st_mode
    assert stat.S_IMODE(mode) == 0o700
    again, hits = run(SLOW_TO_COMPILE, tmp_path).splitlines()
    assert again == folder and int(hits) > 0


def test_a_cache_that_is_there_already_is_left_alone(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    assert keep_compiled() is None


def test_threads_are_those_asked_for(tmp_path):
    count = """
import os
from rewardsmith._core import choose_device
choose_device("cpu", {threads})
import jax.numpy as jnp
(jnp.ones((64, 64)) @ jnp.ones((64, 64))).block_until_ready()
print(len(os.listdir("/proc/self/task")))
"""
    few, many = (int(run(count.format(threads=threads), tmp_path)) for threads in (1, 5))
    assert many - few >= 4
