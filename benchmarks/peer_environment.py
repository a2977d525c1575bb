"""The environment of the peers, made by the program itself so that no peer is a dependency of the project."""

import subprocess
import sys
from pathlib import Path

# torch first, alone: what the others would accept is not what was compared with.
_INSTALLS = (
    ("torch==2.13.0",),
    ("stable-baselines3", "sbx-rl", "gymnasium", "mujoco", "imageio", "packaging"),
)


class PeersAbsent(Exception):
    """The peers could not be installed; the text is of the installer and for the terminal only."""


def peers_python(folder: Path) -> Path:
    """The interpreter of the peers' environment in `folder`, made there if it is not complete yet."""
    python, done = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(" ".join(packages) for packages in _INSTALLS)
    if done.is_file() and done.read_text() == wanted:
        return python
    print(f"installing the peers into {folder} (several minutes, once)", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    for packages in _INSTALLS:
        _run([str(python), "-m", "pip", "install", "--quiet", *packages])
    done.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800)
    except (OSError, subprocess.SubprocessError) as error:
        told = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise PeersAbsent(told[-1] if told else "no reason given") from error
