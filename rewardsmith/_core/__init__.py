"""The ground: words and tools that every room shares and that know nothing of any method."""

from .allocator import keep_freed_memory as keep_freed_memory
from .atomic import write_atomically as write_atomically
from .compiled import keep_compiled as keep_compiled
from .conv import NATURE as NATURE
from .conv import REWARD as REWARD
from .conv import ConvEncoder as ConvEncoder
from .conv import Encoder as Encoder
from .conv import Layer as Layer
from .conv import Norm as Norm
from .conv import make_encoder as make_encoder
from .device import choose_device as choose_device
from .device import memory_used as memory_used
from .errors import InputError as InputError
from .image import ImageSpec as ImageSpec
from .image import stacked as stacked
from .mlp import MLP as MLP
from .optimiser import adam as adam
from .optimiser import skipped as skipped
from .solution import RESULTS as RESULTS
from .traced_reward import TracedTrueReward as TracedTrueReward
from .true_reward import TrueReward as TrueReward
from .true_reward import TrueRewardReader as TrueRewardReader
