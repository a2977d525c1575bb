"""Preference models by name."""

from ..._core import InputError
from .base import PreferenceModel
from .mixture import Mixture
from .noise import Noise
from .scores import General, PartialReturn, Regret, Thurstone

PREFERENCE_MODELS = {
    "partial-return": "logistic in the difference of summed rewards (Bradley and Terry)",
    "thurstone": "normal in the difference of summed rewards",
    "regret": "logistic in the difference of summed advantages (Knox et al., TMLR 2024)",
    "general": "a skew-symmetric form of two embeddings, which may be cyclic (Zhang et al., 2024)",
    "mixture": "groups of labellers with rewards of their own (Chakraborty et al., ICML 2024)",
}
"""The models by name, each with the law it takes answers to follow."""


def make_preference_model(
    name: str, *, smoothing: float = 0.0, error: float = 0.0, margin: float = 0.0, groups: int = 2
) -> PreferenceModel:
    """The model of that name.

    Args:
        name: one of `PREFERENCE_MODELS`.
        smoothing, error, margin: see `Noise`.
        groups: of a mixture.

    Raises:
        InputError: no such model, or a number out of range.
    """
    noise = Noise(smoothing, error, margin)
    match name:
        case "partial-return":
            return PartialReturn(noise)
        case "thurstone":
            return Thurstone(noise=noise)
        case "regret":
            return Regret(noise)
        case "general":
            return General(noise)
        case "mixture":
            return Mixture(groups, PartialReturn(noise))
        case _:
            choices = ", ".join(PREFERENCE_MODELS)
            raise InputError(f'no preference model is called "{name}"; choose one of {choices}')
