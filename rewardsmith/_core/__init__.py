"""The ground: words and tools that every room shares and that know nothing of any method."""

from .atomic import write_atomically as write_atomically
from .errors import InputError as InputError
from .mlp import MLP as MLP
from .solution import RESULTS as RESULTS
from .true_reward import TrueReward as TrueReward
from .true_reward import TrueRewardReader as TrueRewardReader
