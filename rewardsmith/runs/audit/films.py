"""Films of the clips that learned and true reward see most differently."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from ..._core import InputError
from ...envs import ClipFilmer
from ...envs.options import is_native
from ..config import TrainConfig
from .play import Played
from .record import Disagreement

_EACH = 3
_SIZE = (320, 240)
# What the learned reward sees better than the true one does, and worse.
OVER, UNDER = "over", "under"


def film_disagreements(
    config: TrainConfig,
    played: Played,
    which: Int[np.ndarray, "n 2"],
    learned: Float[np.ndarray, " n"],
    true: Float[np.ndarray, " n"],
    steps: list[int | None],
    folder: Path,
) -> tuple[tuple[Disagreement, ...], str]:
    """Film three clips that the learned reward overrates most, and three it underrates.

    Of each episode at most one. The clips are in order, the strongest first.

    Args:
        config: of the run.
        played: the episodes.
        which: (block, copy) of the clips.
        learned, true: their returns.
        steps: of each copy the policy's environment steps, None of random actions.
        folder: for the films; older ones there are deleted.

    Returns:
        The films, and a line that says why there are none, or "".
    """
    standard = [(values - values.mean()) / max(float(values.std()), 1e-12) for values in (learned, true)]
    gap = standard[0] - standard[1]
    if is_native(config.env):
        return (), f"{config.env} is written in JAX and draws no pictures: there are no films."
    if not played.blocks[0].states:
        return (), f"{config.env} cannot be restored to where a clip began: there are no films."
    found: list[Disagreement] = []
    try:
        with ClipFilmer(config.env, options=config.env_options(judged=True), size=_SIZE) as filmer:
            folder.mkdir(exist_ok=True)
            for old in folder.glob("*.mp4"):
                old.unlink()
            for word, order in ((OVER, np.argsort(-gap)), (UNDER, np.argsort(gap))):
                for rank, index in enumerate(_one_an_episode(order, which)):
                    number, copy = which[index]
                    block, name = played.blocks[number], f"{word}-{rank + 1}.mp4"
                    state = {key: array[copy] for key, array in block.states.items()}
                    filmer.film(state, block.actions[copy], folder / name)
                    found.append(
                        Disagreement(
                            name,
                            float(standard[0][index]),
                            float(standard[1][index]),
                            float(true[index]),
                            steps[copy],
                            int(number) * config.clip_length,
                        )
                    )
    except (InputError, OSError) as error:
        return (), f"There are no films: {error}."
    return tuple(found), ""


def _one_an_episode(order: Int[np.ndarray, " n"], which: Int[np.ndarray, "n 2"]) -> list[int]:
    """The first three of `order` that are of different episodes."""
    chosen: dict[int, int] = {}
    for index in order:
        chosen.setdefault(int(which[index, 1]), int(index))
        if len(chosen) == _EACH:
            break
    return list(chosen.values())
