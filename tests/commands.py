"""The command line, called in this process."""

from rewardsmith.cli import main


def command(*arguments):
    """The exit status."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code or 0
    return 0
