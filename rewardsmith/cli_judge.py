"""Commands that judge what a run learned, and hand it on: report, export, influence."""

from pathlib import Path

import tyro


def report(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    out: Path | None = None,
    quick: bool = False,
    again: bool = False,
    seed: int = 0,
) -> None:
    """Write one page about a run, or about several: settings, curves, film, and an audit of what was learned.

    The audit plays the run's policies again and holds the learned reward against the true one; of several
    runs there are curves by method and a ranking too. What was measured of the newest checkpoint is kept in
    audit.json and not measured again.

    Args:
        runs: folders of runs, or folders of those, such as that of a sweep.
        out: the page. Default: report.html in the folder of the run, or in that which holds all of them.
        quick: play nothing: without an audit, unless there is one already.
        again: audit even where there is an audit of the newest checkpoint.
        seed: of what the audit plays and draws.
    """
    from .runs.report_many import report as write

    print(write(runs, out, quick=quick, again=again, seed=seed))


def export(run: tyro.conf.Positional[Path], out: Path | None = None) -> None:
    """Write a run's reward and policy into a folder that stands by itself, with a model card.

    Other programs read it by rewardsmith.load_reward and load_policy, or by the NumPy file that lies in it.

    Args:
        run: folder of the run.
        out: folder to write; must not hold anything. Default: export in the run's folder.
    """
    from .runs.export import export_run

    folder = export_run(run, out)
    if not (folder / "reward.safetensors").exists():
        print("sac is given the true reward and learns none: the policy alone was exported")
    print(folder)


def influence(
    run: tyro.conf.Positional[Path],
    by: str | None = None,
    folds: int = 5,
    fit_steps: int = 400,
    damping: float = 0.1,
    polish: int = 0,
    newest: int | None = None,
    top: int = 10,
    seed: int = 0,
) -> None:
    """Tell which answers moved a run's reward most, and which look wrong; writes influence.parquet.

    Of the answers in the newest checkpoint, at the reward it holds. Where no answers of people are held out,
    influence is measured on answers left out, by rewards fitted anew without a part of them.

    Args:
        run: folder of the run.
        by: what makes an answer suspicious: cross-fit-loss, loss, self-influence or leave-one-out-loss.
            Default: the first, which finds most wrong labels; with --folds 0 self-influence.
        folds: parts, each of which is left out once; 0: nothing is fitted anew.
        fit_steps: gradient steps of a reward that is fitted anew, at most.
        damping: λ, as a share of the mean eigenvalue of the curvature.
        polish: gradient steps on all the answers first, for a reward that is not at rest.
        newest: look at so many of the newest answers; none: all that the run keeps.
        top: rows that are printed of each kind.
        seed: of parts, fits, and of the comparisons that stand for what the reward says.
    """
    from .runs.attribution.run import Options, influence_of_run

    influence_of_run(run, Options(by, damping, folds, fit_steps, polish, newest, top, seed))
