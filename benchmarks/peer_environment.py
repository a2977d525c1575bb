"""The environments of the peers, made by the program itself: no peer is a dependency of the project."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .subject import IMITATION, PEERS

# torch first, alone: what the others would accept is not what was compared with.
_TORCH = "torch==2.13.0"
# What each environment holds, and the folder that it lies in. imitation wants older neighbours than the rest.
_INSTALLS = {
    PEERS: ("venv", ("stable-baselines3", "sbx-rl", "gymnasium", "mujoco", "imageio", "packaging")),
    IMITATION: ("imitation", ("imitation==1.0.1",)),
}


class PeersAbsent(Exception):
    """The peers could not be installed; the text is of the installer and for the terminal only."""


def peer_pythons(homes: set[str], folder: Path) -> dict[str, Path | PeersAbsent]:
    """The interpreters of the environments of those names, made below `folder` side by side.

    Returns:
        by name the interpreter, or why there is none.
    """

    def one(home: str) -> Path | PeersAbsent:
        name, packages = _INSTALLS[home]
        try:
            return _python(folder / name, packages)
        except PeersAbsent as error:
            return error

    wanted = sorted(homes & _INSTALLS.keys())
    with ThreadPoolExecutor(max(1, len(wanted))) as pool:
        return dict(zip(wanted, pool.map(one, wanted), strict=True))


def _python(folder: Path, packages: tuple[str, ...]) -> Path:
    """The interpreter of the environment in `folder`, made there if it is not complete yet."""
    python, done = folder / "bin" / "python", folder / "installed.txt"
    wanted = f"{_TORCH}\n{' '.join(packages)}"
    if done.is_file() and done.read_text() == wanted:
        return python
    print(f"installing {', '.join(packages)} into {folder} (some minutes, once)", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    _run([*pip, _TORCH])
    # Named again, so that nothing replaces it.
    _run([*pip, _TORCH, *packages])
    done.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800)
    except (OSError, subprocess.SubprocessError) as error:
        told = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise PeersAbsent(told[-1] if told else "no reason given") from error
