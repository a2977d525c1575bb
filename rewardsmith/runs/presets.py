"""Settings that belong together, as options of the command line."""

from collections.abc import Sequence

from .._core import InputError

PRESETS = {"atari": "the settings of published runs on Atari, the schedule scaled to --steps"}

_FLAG = "--preset"
_STEPS = "--steps"
_FULL_LENGTH = 4_300_000


def atari(steps: int) -> dict[str, str]:
    """The settings published for BeamRider, option by option (docs/atari.md has them with their source).

    Those of the networks, of soft actor-critic and of the reward are as published at any length. Those of the
    schedule are as published for runs of 4.3 million steps, and shrink with shorter ones, down to what such a
    run can afford.

    Args:
        steps: environment steps of the run.
    """
    part = min(1.0, steps / _FULL_LENGTH)
    return {
        "--discount": "0.99",
        "--hidden": "512",
        "--learning-rate": "1e-4",
        "--decay-steps": "8000000",
        "--adam-epsilon": "1e-4",
        "--batch-size": "64",
        "--updates-per-step": "0.25",
        "--target-every": "2000",
        "--replay": "1000000",
        "--learning-starts": str(max(200, min(20_000, steps // 10))),
        "--clip-rewards": "True",
        "--reward-hidden": "64",
        "--reward-norm": "batch",
        "--reward-dropout": "True",
        "--reward-output": "clamp",
        "--reward-weight-decay": "0.01",
        "--ensemble": "1",
        "--clip-length": "25",
        "--queue": "3000",
        "--comparisons": str(max(40, min(9000, steps // 50))),
        "--leader-every": str(max(200, min(10_000, steps // 10))),
        "--leader-warmup-steps": str(max(20, round(4800 * part), min(500, steps // 100))),
        "--leader-steps": str(max(5, min(50, steps // 1000))),
        "--eval-every": str(max(1000, steps // 20)),
        "--eval-sampled": "True",
        "--checkpoint-every": str(max(1000, steps // 10)),
        "--snapshot-every": "None",
    }


def expanded(arguments: Sequence[str], default_steps: int) -> list[str]:
    """The arguments of ``rewardsmith train`` with the options of a preset in front of those that were given.

    What is given stands: an option that is given is not taken from the preset. With --help the preset's are
    printed.

    Raises:
        InputError: there is no such preset.
    """
    given = list(arguments)
    name = _value_of(_FLAG, given)
    if name is None:
        return given
    if name not in PRESETS:
        raise InputError(f"unknown {_FLAG} {name!r}: choose one of {', '.join(PRESETS)}")
    steps = _value_of(_STEPS, given)
    if steps is not None and not steps.isdecimal():
        # The parser will say what is wrong with it.
        return given
    chosen = {name.split("=")[0].replace("_", "-") for name in given if name.startswith("--")}
    options = {
        flag: value
        for flag, value in atari(default_steps if steps is None else int(steps)).items()
        if flag not in chosen and f"--no-{flag[2:]}" not in chosen
    }
    own = [part for flag, value in options.items() for part in _words(flag, value)]
    if {"--help", "-h"} & set(given):
        # The parser's help knows the defaults alone.
        print(f"{_FLAG} {name} stands for\n  " + " ".join(own).replace(" --", "\n  --") + "\n")
    return own + given


def _words(flag: str, value: str) -> tuple[str, ...]:
    return (flag,) if value == "True" else (flag, value)


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """What follows the last `flag`, behind a space or an equals sign."""
    found = None
    for index, word in enumerate(arguments):
        if word == flag and index + 1 < len(arguments):
            found = arguments[index + 1]
        elif word.startswith(flag + "="):
            found = word.removeprefix(flag + "=")
    return found
