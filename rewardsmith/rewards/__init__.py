"""Reward models."""

from .embedding import EmbeddingEnsemble as EmbeddingEnsemble
from .ensemble import RewardEnsemble as RewardEnsemble
from .groups import GroupEnsemble as GroupEnsemble
from .networks import LearnedReward as LearnedReward
from .networks import make_networks as make_networks
from .networks import visible_pixels as visible_pixels
