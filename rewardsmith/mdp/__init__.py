"""Tabular worlds: the Markov decision process, its soft Bellman kernels and its occupancies."""

from .bellman import policy_transition as policy_transition
from .bellman import q_values as q_values
from .bellman import soft_bellman as soft_bellman
from .bellman import soft_policy as soft_policy
from .bellman import soft_value as soft_value
from .model import MDP as MDP
from .occupancy import state_action_occupancy as state_action_occupancy
from .occupancy import state_occupancy as state_occupancy
from .policy_system import solve_policy as solve_policy
from .policy_system import solves_directly as solves_directly
from .regularisers import KullbackLeibler as KullbackLeibler
from .regularisers import Regulariser as Regulariser
from .regularisers import Shannon as Shannon
from .regularisers import Tsallis as Tsallis
from .rollouts import Trajectories as Trajectories
from .rollouts import roll_out as roll_out
from .rollouts import roll_out_from as roll_out_from
from .transition import SharedTransition as SharedTransition
from .transition import SparseTransition as SparseTransition
from .transition import Transition as Transition
from .transition import expect as expect
from .transition import probability as probability
