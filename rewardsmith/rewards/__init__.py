"""Reward models."""

from .canonical import dard_canonical as dard_canonical
from .canonical import epic_canonical as epic_canonical
from .canonical import expected_reward as expected_reward
from .canonical import minimal as minimal
from .canonical import shaped as shaped
from .canonical import value_adjusted as value_adjusted
from .distances import dard_distance as dard_distance
from .distances import epic_distance as epic_distance
from .distances import pearson_distance as pearson_distance
from .distances import starc_distance as starc_distance
from .embedding import EmbeddingEnsemble as EmbeddingEnsemble
from .ensemble import RewardEnsemble as RewardEnsemble
from .estimated import DistanceEstimate as DistanceEstimate
from .estimated import Transitions as Transitions
from .estimated import dard_estimate as dard_estimate
from .estimated import epic_estimate as epic_estimate
from .estimated import return_distance as return_distance
from .estimated import starc_estimate as starc_estimate
from .groups import GroupEnsemble as GroupEnsemble
from .networks import LearnedReward as LearnedReward
from .networks import make_networks as make_networks
from .networks import visible_pixels as visible_pixels
