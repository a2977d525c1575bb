"""The command line: settings in, commands out. No mathematics here."""

import contextlib
import functools
import importlib.metadata
import io
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from ._core import InputError, choose_device, keep_compiled, keep_freed_memory, memory_used
from .cli_exact import compare, solve
from .cli_judge import export, influence, report
from .cli_sweep import compare_runs, names_runs, sweep, tune
from .runs.check.config import CheckConfig
from .runs.choices import ESTIMATORS, METHODS, PREFERENCE_MODELS, SELECTIONS, TEACHERS
from .runs.config import TrainConfig
from .runs.presets import PRESETS, expanded

_BAD_INPUT, _INTERRUPTED = 2, 130
_WITH_PRESETS = ("train", "sweep", "tune")


def train(
    config: tyro.conf.OmitArgPrefixes[TrainConfig],
    out: Path | None = None,
    resume: Path | None = None,
    preset: str | None = None,
    seeds: int = 1,
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    device: str = "auto",
    threads: int | None = None,
) -> None:
    """Learn a reward from comparisons, and the policy that is best for it.

    The true reward reaches the synthetic teacher and the evaluation only (with --method sac, the learner:
    the ceiling). Writes settings, metrics, checkpoints, comparisons, a film and a report into a folder.

    Args:
        config: settings.
        out: folder of the run; must not hold anything. Default: runs/ENV-METHOD-SEED.
        resume: go on with the run in this folder, with its own settings; no other option goes with it.
        preset: settings that belong together, for what is not given: atari. --preset atari --help shows them.
        seeds: train so many seeds side by side in one program, from --seed on; each has a folder in --out.
        vary: NAME=V1,V2 of learning-rate, reward-learning-rate or temperature: those side by side too.
        device: cpu, gpu (refused where JAX sees none), or auto: a GPU if there is one. Goes with --resume.
        threads: of JAX on a CPU; default: one for each processor. Goes with --resume.
    """
    # Imported here so that --help and mistakes answer at once: JAX takes seconds to load.
    from .runs.finish import finish

    if told := choose_device(device, threads):
        print(told)
    from .runs.sweep.values import read_vary
    from .runs.train import resume_all, start_all

    if resume is not None:
        if out is not None or preset is not None or seeds != 1 or vary or config != TrainConfig():
            raise InputError("--resume takes the run's own settings: give no other option with it")
        folders = resume_all(resume)
    else:
        name = f"{config.env.replace('/', '-')}-{config.method}"
        name = f"{name}-{config.seed}" if seeds == 1 and not vary else f"{name}-{seeds}-seeds"
        folders = start_all(config, out or Path("runs") / name, seeds, read_vary(vary))
    for folder in folders:
        finish(folder)
    print(f"memory  {memory_used()} at most")


def evaluate(
    run: tyro.conf.Positional[Path],
    episodes: int = 20,
    seed: int = 0,
    film: bool = False,
    sampled: bool | None = None,
) -> None:
    """Measure a run's policy under the true reward; writes eval.json into its folder.

    Args:
        run: folder of the run.
        episodes: number of episodes, each played to its end.
        seed: of the episodes' starts.
        film: also film one episode, to film.mp4.
        sampled: True: act by samples of the policy; False: by its mode. Default: as the run was evaluated.
    """
    from .runs.finish import evaluate_run, film_run

    result = evaluate_run(run, episodes, seed, sampled)
    print(
        f"true return {result['mean']:.1f} ± {result['std']:.1f} (mean ± deviation of {episodes} episodes, "
        f"seed {seed}), at step {result['step']:,} of {run}"
    )
    if film:
        print(f"film: {film_run(run, seed)}")


def clips(run: tyro.conf.Positional[Path], count: int = 4, out: Path | None = None) -> None:
    """Film the clips of a run's newest comparisons, in colour, with what was answered in comparisons.json.

    Args:
        run: folder of a run that was trained with --film-clips.
        count: comparisons; each has two films.
        out: folder for them. Default: clips in the run's folder.
    """
    from .runs.clips import film_comparisons

    print(film_comparisons(run, count, out))


def label(
    place: tyro.conf.Positional[str],
    host: str = "127.0.0.1",
    port: int = 8765,
    count: int = 64,
    clips: Path | None = None,
    minari: str | None = None,
    clip_length: int = 25,
    instruction: str | None = None,
    add_labeller: str | None = None,
    role: str = "labeller",
    revoke: str | None = None,
    export: Path | None = None,
    import_: Annotated[Path | None, tyro.conf.arg(name="import")] = None,
    public_url: str | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
) -> None:
    """Serve the page where people compare clips, until Ctrl-C; or manage its store and end.

    A run that is trained with --teacher human asks through its store and learns from the answers as they
    come. Any other run that was trained with --film-clips gets a store with its newest comparisons.

    Args:
        place: folder of a run, folder of a store (a new one with --minari), or postgresql:// URL.
        host: address to listen at; one that others can reach needs labellers with tokens.
        port: 0: any that is free.
        count: of a run that a synthetic teacher taught, or of --minari: pairs to ask people about.
        clips: folder of the clips of a database.
        minari: id of a Minari dataset of this machine; asks about clips of it.
        clip_length: steps of a clip of --minari.
        instruction: text above the clips: what is better?
        add_labeller: make a labeller of this name, print the token, which is shown once, and end.
        role: of that labeller: labeller or owner.
        revoke: take this labeller's token away, and end.
        export: write all answers with their clips to this parquet file, and end.
        import_: read such a file into the store, and end.
        public_url: where people find the page if a proxy stands in front of it.
        tls_cert: PEM file.
        tls_key: PEM file.
    """
    from .label import serve
    from .runs.labels import ask_minari, manage, open_for_labels

    with contextlib.ExitStack() as held:
        if minari is not None:
            store, run = ask_minari(place, minari, count, clip_length, clips), None
        else:
            store, run = open_for_labels(place, count, clips)
        held.enter_context(contextlib.closing(store))
        if manage(store, instruction, add_labeller, role, revoke, export, import_):
            return
        serve(store, host, port, run=run, public_url=public_url, tls_cert=tls_cert, tls_key=tls_key)


def plot(runs: tyro.conf.Positional[tuple[Path, ...]], out: Path = Path("curves.png")) -> None:
    """Draw return against steps and against comparisons, runs overlaid, a 95 % interval over seeds.

    Args:
        runs: folders of runs; those that differ in the seed alone make one curve.
        out: picture to write (.png, .svg or .pdf).
    """
    from .runs.plot import plot_runs

    if not runs:
        raise InputError("no runs to plot: name one or more run folders")
    print(plot_runs(runs, out))


def check(config: tyro.conf.OmitArgPrefixes[CheckConfig], out: Path | None = None) -> None:
    """Hold sampled hyper-gradients against the exact one on tables, or a run's against long branches.

    On a table the follower is solved exactly and clips are drawn afresh for each estimate: bias, deviation,
    cosine and cost of each estimator at each number of clips, with a plot of error against that number; in
    float64. Of a run the last checkpoint's reward and policy are taken: how much signal each estimator has
    and how well it agrees with the mean of long roll-outs from saved states.

    Args:
        config: settings.
        out: folder of the check; must not hold anything. Default: runs/check-NAME.
    """
    from .runs.check.run import start

    names = (config.run.resolve().name,) if config.run is not None else config.problems or ("tables",)
    start(config, out if out is not None else Path("runs") / "-".join(("check", *names)))


def list_choices() -> None:
    """List methods, estimators, teachers, environments with a fast path, and problems on tables."""
    from .envs.mujoco_tasks import TASKS
    from .runs.exact.build import problem_names
    from .runs.exact.config import EXACT_METHODS

    _print_table("methods of train", METHODS)
    _print_table("estimators", ESTIMATORS)
    _print_table("teachers", TEACHERS)
    _print_table("selections of questions", SELECTIONS)
    _print_table("preference models", PREFERENCE_MODELS)
    _print_table("presets of train", PRESETS)
    print("environments with batched simulation (any other Gymnasium id works too)")
    print("  " + " ".join(sorted(TASKS)))
    _print_table("problems of solve and compare", problem_names())
    _print_table("methods of solve and compare", EXACT_METHODS)


def _print_table(title: str, table: Mapping[str, str]) -> None:
    print(title)
    width = max(14, *map(len, table))
    for name, text in table.items():
        print(f"  {name:{width}} {text}")


_COMMANDS = {
    "train": train,
    "sweep": sweep,
    "tune": tune,
    "eval": evaluate,
    "clips": clips,
    "label": label,
    "plot": plot,
    "report": report,
    "influence": influence,
    "export": export,
    "solve": solve,
    "compare": compare,
    "compare-runs": compare_runs,
    "check": check,
    "list": list_choices,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0, or 2 for bad input (one line on standard error), 130 if interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    for stream in (sys.stdout, sys.stderr):
        # A terminal without × or τ shows a question mark, not a UnicodeEncodeError.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    given = [argument for argument in given if argument != "--debug"]
    if any("\0" in argument for argument in given):
        print("rewardsmith: an argument holds a null byte: leave it out", file=sys.stderr)
        sys.exit(_BAD_INPUT)
    if given == ["--version"]:
        print(f"rewardsmith {importlib.metadata.version('rewardsmith')}")
        sys.exit(0)
    keep_freed_memory()
    keep_compiled()
    try:
        if given and given[0] in _WITH_PRESETS:
            given = [given[0], *expanded(given[1:], TrainConfig().steps)]
        if given[:1] == ["compare"] and names_runs(given[1:]):
            given[0] = "compare-runs"
        _dispatch(given)
    except Exception as error:
        if debug:
            traceback.print_exc()
        sys.exit(_told(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)


def _dispatch(given: Sequence[str]) -> None:
    errors = io.StringIO()
    try:
        # Its frames are for help; a mistake is one line here.
        with contextlib.redirect_stderr(errors):
            call = tyro.extras.subcommand_cli_from_dict(
                {name: _deferred(command) for name, command in _COMMANDS.items()},
                prog="rewardsmith",
                description="Learn the reward whose optimal policy does what you want.",
                args=given,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(_one_line(errors.getvalue())) from stop
    call()


def _deferred(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """`command` with the same options, but called only after the parser is done."""

    @functools.wraps(command)
    def later(*values: Any, **options: Any) -> Callable[[], None]:
        return functools.partial(command, *values, **options)

    return later


def _one_line(box: str) -> str:
    """The words of the parser's framed message, without title, frame and its pointer to --help.

    Where the terminal's encoding has no frame characters the parser draws none, or dashes.
    """
    title_and_body = [line.strip(" │|") for line in box.splitlines()]
    words = [line for line in title_and_body[1:] if line.strip("─-+╭╮╰╯ ") and "full helptext" not in line]
    text = " ".join(words) or "the command was not understood"
    # A setting that its own check refused comes with the parser's name of the dataclass before it.
    text = re.sub(r"^Error parsing __tyro\S+: ", "", text).split(" Argument helptext:")[0]
    return f"{text} (see rewardsmith --help)"


def _told(error: Exception) -> int:
    """Print what happened in one line; the exit status for it."""
    from .runs.train import Stopped

    text = " ".join(str(error).split())
    if isinstance(error, Stopped):
        print(text, file=sys.stderr)
        return _INTERRUPTED
    if isinstance(error, InputError):
        print(f"rewardsmith: {text}", file=sys.stderr)
        return _BAD_INPUT
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        print(f"rewardsmith: {error.filename}: {error.strerror}: give another path", file=sys.stderr)
        return _BAD_INPUT
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        print("rewardsmith: not enough memory for these settings: give smaller ones", file=sys.stderr)
        return _BAD_INPUT
    kind = type(error).__name__
    print(f"rewardsmith: {kind}: {text} (run again with --debug to see where)", file=sys.stderr)
    return 1
