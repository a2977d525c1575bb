"""Learned rewards and policies as folders that stand by themselves: written once, read anywhere."""

from .layout import Spaces as Spaces
from .layout import read_config as read_config
from .layout import write_config as write_config
from .modules import describe_policy as describe_policy
from .modules import describe_reward as describe_reward
from .modules import save_module as save_module
from .policy import ExportedPolicy as ExportedPolicy
from .policy import load_policy as load_policy
from .reward import ExportedReward as ExportedReward
from .reward import load_reward as load_reward
