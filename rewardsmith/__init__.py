"""Rewardsmith: learn the reward whose optimal policy does what you want.

The face: everything public is here. See `docs/` for what to choose.
"""

from ._core import InputError as InputError
from .bilevel import DRLHF as DRLHF
from .bilevel import SoBiRL as SoBiRL
from .bilevel import hypergradient as hypergradient
from .follower import FollowerSolution as FollowerSolution
from .follower import solve_follower as solve_follower
from .mdp import MDP as MDP
from .problem import BilevelProblem as BilevelProblem
from .problem import ClipLoss as ClipLoss
from .problem import PreferenceLoss as PreferenceLoss
from .problem import SimulatedWorld as SimulatedWorld

__version__ = "0.1.0"
