"""Followers of tabular worlds: the soft-optimal answer to a reward, and how it moves with the reward."""

from .tabular import FollowerSolution as FollowerSolution
from .tabular import solve_follower as solve_follower
