"""Questions from a Minari dataset, to be labelled without training."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..._core.errors import InputError
from .checks import check_number, shown
from .store import Store

_ID = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*-v\d+")


@dataclass(frozen=True)
class Excerpt:
    """Steps of an episode, with what it takes to play it again.

    Attributes:
        seed: the episode was reset with it; None: not recorded.
        actions: (T, ...), all from the episode's first to the excerpt's last.
        observations: what each of them led to.
        start: steps before the excerpt.
    """

    seed: int | None
    actions: np.ndarray
    observations: np.ndarray
    start: int


Film = Callable[[Excerpt, Path], None]


def pairs_from_minari(
    store: Store, dataset_id: str, *, count: int, length: int, seed: int, film: Film | None = None
) -> list[int]:
    """Ask about `count` pairs of clips, cut uniformly from the episodes of a Minari dataset of this machine.

    No clip crosses the end of an episode, and the two of a pair differ. Nothing is downloaded. The dataset's
    rewards are not looked at.

    Args:
        store: where to put the questions. Their clips have arrays "observations" (H, *obs) and "actions"
            (H, *act) of the dataset's dtypes.
        dataset_id: such as "mujoco/hopper/medium-v0".
        count: pairs.
        length: H, steps compared.
        seed: of the choice: the same again gives the same pairs.
        film: writes what people see of an `Excerpt` to a path, as MP4; None: nothing is filmed.

    Returns:
        The questions' numbers.

    Raises:
        InputError: Minari is missing, no such dataset here, spaces other than arrays, or no place for a clip.
    """
    check_number("count", count, most=10**6)
    check_number("length", length, most=10**6)
    dataset = load_minari(dataset_id)
    places = _places(dataset, length)
    if len(places) < 2:
        raise InputError(
            f"{dataset_id} has no two clips of {length} steps within an episode: give a shorter length"
        )
    rng = np.random.default_rng(check_number("seed", seed, 0))
    chosen = np.array([rng.choice(len(places), 2, replace=False) for _ in range(count)])
    env = dataset.env_spec.id if dataset.env_spec is not None else dataset_id
    clips = {
        int(place): _add(store, dataset, int(places[place, 0]), int(places[place, 1]), length, env, film)
        for place in np.unique(chosen)
    }
    pairs = [(clips[int(first)], clips[int(second)]) for first, second in chosen]
    if same := sum(first == second for first, second in pairs):
        raise InputError(f"{same} pairs of {dataset_id} are of equal clips: give another seed or length")
    return store.ask(pairs)


def load_minari(dataset_id: str) -> Any:
    """The dataset of that id on this machine; errors as of `pairs_from_minari`.

    Args:
        dataset_id: such as mujoco/hopper/medium-v0.

    Raises:
        InputError: no such dataset here, a damaged one, or no Minari.
    """
    # The id becomes a path.
    if not _ID.fullmatch(dataset_id):
        raise InputError(f"dataset {shown(dataset_id)}: give an id such as mujoco/hopper/medium-v0")
    try:
        import minari
    except ImportError as error:
        raise InputError('Minari needs an extra: pip install "rewardsmith[minari]"') from error
    try:
        return minari.load_dataset(dataset_id, download=False)
    except FileNotFoundError as error:
        raise InputError(
            f"no dataset {dataset_id} on this machine: fetch it with `minari download {dataset_id}`"
        ) from error
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise InputError(
            f"dataset {dataset_id} cannot be read ({shown(str(error))}): fetch it anew"
        ) from error


def _places(dataset: Any, length: int) -> np.ndarray:
    """(n, 2) episode and first step of every clip that fits."""
    episodes = [int(one) for one in dataset.episode_indices]
    steps = [int(one["total_steps"]) for one in dataset.storage.get_episode_metadata(episodes)]
    found = [
        (episode, start)
        for episode, total in zip(episodes, steps, strict=True)
        for start in range(total - length + 1)
    ]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _add(
    store: Store, dataset: Any, episode: int, start: int, length: int, env: str, film: Film | None
) -> str:
    (data,) = dataset.iterate_episodes([episode])
    # One observation more than actions: the last one is what the episode ended with.
    kept = slice(start, start + length)
    if not isinstance(data.observations, np.ndarray) or not isinstance(data.actions, np.ndarray):
        raise InputError(
            "its observations or actions are no arrays: give a dataset of Box or Discrete spaces"
        )
    (about,) = dataset.storage.get_episode_metadata([episode])
    seed, end = about.get("seed"), start + length
    excerpt = Excerpt(
        None if seed is None else int(seed), data.actions[:end], data.observations[1 : end + 1], start
    )
    writer = None if film is None else lambda path: film(excerpt, path)
    observations, actions = data.observations[kept], data.actions[kept]
    arrays = {"observations": observations, "actions": actions}
    return store.add_clip(arrays, env=env, length=length, film=writer)
