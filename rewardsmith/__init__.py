"""Rewardsmith: learn the reward whose optimal policy does what you want."""

__version__ = "0.1.0"
