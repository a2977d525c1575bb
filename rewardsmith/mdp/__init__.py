"""Tabular worlds: the Markov decision process, its soft Bellman kernels and its occupancies."""

from .bellman import policy_transition as policy_transition
from .bellman import q_values as q_values
from .bellman import soft_bellman as soft_bellman
from .bellman import soft_policy as soft_policy
from .bellman import soft_value as soft_value
from .model import MDP as MDP
from .occupancy import state_action_occupancy as state_action_occupancy
from .occupancy import state_occupancy as state_occupancy
