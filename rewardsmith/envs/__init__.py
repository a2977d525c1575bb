"""Vectorised worlds behind one thin interface, with states that can be saved and restored."""

from .._core import ImageSpec as ImageSpec
from .atari import AtariBatchEnv as AtariBatchEnv
from .base import EnvSpec as EnvSpec
from .base import StepResult as StepResult
from .base import VectorEnv as VectorEnv
from .clip_film import ClipFilmer as ClipFilmer
from .clip_film import clip_frames as clip_frames
from .clip_film import film_clip as film_clip
from .episode_film import film_excerpt as film_excerpt
from .film import film as film
from .fork import Forked as Forked
from .fork import fork as fork
from .fork import fork_pairs as fork_pairs
from .gymnasium_env import GymnasiumEnv as GymnasiumEnv
from .hide import hidden_boxes as hidden_boxes
from .hide import hide as hide
from .hide import parse_boxes as parse_boxes
from .hide import visible_mask as visible_mask
from .learned import LearnedRewardVectorWrapper as LearnedRewardVectorWrapper
from .learned import LearnedRewardWrapper as LearnedRewardWrapper
from .make import make as make
from .mujoco_batch import MujocoBatchEnv as MujocoBatchEnv
from .options import EnvOptions as EnvOptions
from .single import make_single as make_single
from .tabular import TabularEnv as TabularEnv
