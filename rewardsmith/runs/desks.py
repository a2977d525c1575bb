"""From settings to who is asked: a synthetic teacher or people."""

from collections.abc import Callable
from pathlib import Path

from .asking import Desk, TeachersDesk
from .choices import HUMAN
from .experiment import Experiment
from .parts import make_teacher
from .people import PeoplesDesk


def make_desk(
    experiment: Experiment, folder: Path, tell: Callable[[str], None], stopping: Callable[[], bool]
) -> Desk:
    """Where the run in `folder` puts its questions.

    Args:
        experiment: settings, teacher and programs.
        folder: of the run.
        tell: prints a line.
        stopping: whether the run was asked to stop.
    """
    config = experiment.config
    if config.teacher != HUMAN:
        assert experiment.teacher is not None
        return TeachersDesk(experiment.teacher)
    fallback = None if config.fallback_teacher == "none" else make_teacher(config, config.fallback_teacher)
    return PeoplesDesk(config, folder, folder.resolve().name, fallback, tell, stopping)
