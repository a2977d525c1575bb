"""Rewardsmith: learn the reward whose optimal policy does what you want.

The face: everything public is here. See `docs/` for what to choose.
"""

from ._core import RESULTS as RESULTS
from ._core import InputError as InputError
from ._core import keep_freed_memory as keep_freed_memory
from .bilevel import AMD as AMD
from .bilevel import BCHG as BCHG
from .bilevel import DRLHF as DRLHF
from .bilevel import HPGD as HPGD
from .bilevel import PARL as PARL
from .bilevel import PBRL as PBRL
from .bilevel import Branch as Branch
from .bilevel import ConjugateGradient as ConjugateGradient
from .bilevel import Exact as Exact
from .bilevel import FittedAdjoint as FittedAdjoint
from .bilevel import FixedPointProblem as FixedPointProblem
from .bilevel import ImplicitGradient as ImplicitGradient
from .bilevel import Method as Method
from .bilevel import MSoBiRL as MSoBiRL
from .bilevel import Neumann as Neumann
from .bilevel import OneStep as OneStep
from .bilevel import SoBiRL as SoBiRL
from .bilevel import Solution as Solution
from .bilevel import StocSoBiRL as StocSoBiRL
from .bilevel import Suffix as Suffix
from .bilevel import UnrolledGradient as UnrolledGradient
from .bilevel import ZerothOrder as ZerothOrder
from .bilevel import hypergradient as hypergradient
from .bilevel import limit_hypergradient as limit_hypergradient
from .bilevel import search as search
from .bilevel import solve as solve
from .exported import load_policy as load_policy
from .exported import load_reward as load_reward
from .follower import FollowerSolution as FollowerSolution
from .follower import solve_follower as solve_follower
from .mdp import MDP as MDP
from .mdp import KullbackLeibler as KullbackLeibler
from .mdp import Shannon as Shannon
from .mdp import SharedTransition as SharedTransition
from .mdp import SparseTransition as SparseTransition
from .mdp import Tsallis as Tsallis
from .problem import BilevelProblem as BilevelProblem
from .problem import ClipLoss as ClipLoss
from .problem import PreferenceLoss as PreferenceLoss
from .problem import SimulatedWorld as SimulatedWorld
from .upper_losses import DemonstrationLoss as DemonstrationLoss
from .upper_losses import LeaderReturn as LeaderReturn
from .upper_losses import PolicyDivergence as PolicyDivergence
from .upper_losses import SampledClipLoss as SampledClipLoss

__version__ = "0.1.0"
