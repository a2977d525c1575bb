"""``python -m benchmarks.exported_reward``: a reward learned here, handed to Stable-Baselines3's SAC.

Prints a row of the table in docs/export.md for each seed: some minutes a seed on one core.
"""

import argparse
import site
import sys
import tempfile
from pathlib import Path

from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.export import export_run
from rewardsmith.runs.finish import evaluate_run
from rewardsmith.runs.train import train

from .peer_environment import PeersAbsent, peer_pythons
from .subject import PEERS
from .worker import Worker, run_program

_ROOT = Path(__file__).resolve().parents[1]
_OURS = {"env": "Pendulum-v1", "method": "sobirl", "steps": 10_000, "comparisons": 500}
_EPISODES = 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exported_reward")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=10_000, help="of Stable-Baselines3's SAC")
    parser.add_argument("--core", type=int, default=None, help="that its process may use; default: any")
    options = parser.parse_args()
    python = peer_pythons({PEERS}, _ROOT / ".bench")[PEERS]
    if isinstance(python, PeersAbsent):
        sys.exit(f"benchmarks.exported_reward: cannot install Stable-Baselines3: {python}")
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as place:
            run = train(TrainConfig(seed=seed, **_OURS), Path(place) / "run")
            own = evaluate_run(run.path, _EPISODES, seed=10_000 + seed)
            folder = export_run(run.path)
            returns = [(own["mean"], own["std"])]
            program = ("benchmarks.peer_exported", str(folder), site.getsitepackages()[0])
            with Worker(python, options.core, program) as worker:
                for paid in ("learned", "true", "nothing"):
                    print(f"seed {seed}: SAC, paid {paid}, {options.steps:,} steps", file=sys.stderr)
                    asked = {"steps": options.steps, "seed": seed, "episodes": _EPISODES}
                    returns.append(worker.measure(paid=paid, **asked))
                versions = worker.versions
        cells = (f"{mean:.0f} ± {std:.0f}" for mean, std in returns)
        print(f"| {seed} | {' | '.join(cells)} |", flush=True)
    print(", ".join(f"{name} {version}" for name, version in versions.items()))


if __name__ == "__main__":
    run_program(main, "exported_reward")
