"""Hyper-gradients and the methods that follow them."""

from .baselines import Baseline as Baseline
from .baselines import ConstantBaseline as ConstantBaseline
from .baselines import LinearBaseline as LinearBaseline
from .drlhf import DRLHF as DRLHF
from .estimators import Estimator as Estimator
from .estimators import OneStep as OneStep
from .estimators import Suffix as Suffix
from .hypergradient import hypergradient as hypergradient
from .leader import Leader as Leader
from .leader import LeaderState as LeaderState
from .leader import LeaderStats as LeaderStats
from .leader import lead as lead
from .sobirl import SoBiRL as SoBiRL
from .terms import Follower as Follower
from .terms import LabelledClips as LabelledClips
from .terms import first_term as first_term
from .terms import second_term as second_term
