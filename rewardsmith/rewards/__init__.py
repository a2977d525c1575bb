"""Reward models."""

from .ensemble import RewardEnsemble as RewardEnsemble
