"""Deep followers: soft actor-critic that asks for the reward anew at every update."""

from .frame_replay import FrameReplay as FrameReplay
from .networks import CategoricalPolicy as CategoricalPolicy
from .networks import Critic as Critic
from .networks import DiscreteTwinCritic as DiscreteTwinCritic
from .networks import Policy as Policy
from .networks import TanhGaussianPolicy as TanhGaussianPolicy
from .networks import TwinCritic as TwinCritic
from .replay import Replay as Replay
from .replay import Transition as Transition
from .replay import add as add
from .replay import empty_replay as empty_replay
from .replay import sample as sample
from .sac import SAC as SAC
from .sac import RewardFn as RewardFn
from .sac import SACState as SACState
from .sac import SACStats as SACStats
from .sac import act as act
from .sac import act_greedily as act_greedily
from .state_entropy import exploration_rewards as exploration_rewards
from .state_entropy import neighbour_distance as neighbour_distance
