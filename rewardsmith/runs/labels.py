"""What ``rewardsmith label`` opens: the store of a run, or one by itself."""

import contextlib
from pathlib import Path

from .._core import InputError
from ..envs import film_excerpt
from ..preferences.store import (
    Excerpt,
    Role,
    Store,
    export_parquet,
    import_parquet,
    load_minari,
    pairs_from_minari,
)
from .choices import HUMAN
from .clips import ask_people
from .config import TrainConfig
from .folder import RunFolder
from .people import open_store, store_of

_DATABASE = "answers.sqlite"


def open_for_labels(place: str, count: int, clips: Path | None = None) -> tuple[Store, Path | None]:
    """The store that `place` names, and the folder of the run it belongs to, if it is a run's.

    Args:
        place: folder of a run, folder of a store, or a postgresql:// URL. A run that a synthetic teacher
            taught gets a store of its own, with its newest comparisons as questions.
        count: how many of these.
        clips: folder of the clips, for a URL.

    Raises:
        InputError: none of these, a count below 1, or the run did not keep what films take.
    """
    if count < 1:
        raise InputError(f"--count is {count}: give a whole number of at least 1")
    if "://" in place:
        if clips is None:
            raise InputError("a database needs --clips, the folder of its films")
        return Store.open(place, clips=clips), None
    path = Path(place)
    if (path / _DATABASE).is_file():
        return Store.open(path, create=False), None
    folder = RunFolder.open(path)
    config = TrainConfig.from_json(folder.config)
    if config.teacher == HUMAN:
        return open_store(config, folder.path), folder.path
    if not config.films and not (store_of(config, folder.path)[1].parent / _DATABASE).is_file():
        raise InputError(f"{path} did not keep what its films take: train with --film-clips")
    store = open_store(config, folder.path)
    counts = store.counts()
    if counts.open + counts.answered + counts.withdrawn == 0:
        print(f"{ask_people(path, store, count)} questions from the newest comparisons of {path}")
    return store, folder.path


def ask_minari(place: str, dataset_id: str, count: int, length: int, clips: Path | None = None) -> Store:
    """A store with `count` questions about clips of a Minari dataset of this machine, filmed.

    Args:
        place: folder of the store, or a postgresql:// URL; made where there is none.
        dataset_id: such as "mujoco/hopper/medium-v0".
        count: pairs.
        length: H, steps of a clip.
        clips: folder of the clips, for a URL.

    Raises:
        InputError: as `pairs_from_minari`, or its episodes cannot be played again from their seeds.
    """
    dataset = load_minari(dataset_id)
    try:
        env = dataset.recover_environment(render_mode="rgb_array")
    except Exception as error:
        raise InputError(
            f"the environment of {dataset_id} cannot be made here ({error}): install it"
        ) from error

    def film(excerpt: Excerpt, path: Path) -> None:
        if excerpt.seed is None:
            raise InputError(f"{dataset_id} does not tell its episodes' seeds: its clips cannot be filmed")
        film_excerpt(env, excerpt.seed, excerpt.actions, excerpt.observations, excerpt.start, path)

    store = Store.open(place if "://" in place else Path(place), clips=clips)
    with contextlib.closing(env):
        numbers = pairs_from_minari(store, dataset_id, count=count, length=length, seed=0, film=film)
    print(f"{len(numbers)} questions about clips of {dataset_id}")
    return store


def manage(
    store: Store,
    instruction: str | None = None,
    add_labeller: str | None = None,
    role: str = Role.LABELLER,
    revoke: str | None = None,
    export: Path | None = None,
    import_from: Path | None = None,
) -> bool:
    """Do what the options ask of the store, and print what came of it; whether that was all to be done.

    Args:
        store: to be managed.
        instruction: the text above the clips; the page is served all the same.
        add_labeller: name of a new labeller.
        role: of that labeller.
        revoke: name of a labeller who may no longer answer.
        export, import_from: parquet files.

    Raises:
        InputError: a role there is not, or what the store says.
    """
    if instruction is not None:
        store.set_setting("instruction", instruction)
    if add_labeller is not None:
        if role not in tuple(Role):
            raise InputError(f"unknown --role {role!r}: choose one of {', '.join(Role)}")
        token = store.add_labeller(add_labeller, Role(role))
        print(f"token of {add_labeller}, shown this once: {token}")
    if revoke is not None:
        store.revoke(revoke)
        print(f"{revoke} may no longer answer")
    if import_from is not None:
        print(f"{import_parquet(store, import_from)} answers from {import_from}")
    if export is not None:
        print(f"{export_parquet(store, export)} answers to {export}")
    return any(option is not None for option in (add_labeller, revoke, export, import_from))
