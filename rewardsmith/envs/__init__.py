"""Vectorised worlds behind one thin interface, with states that can be saved and restored."""

from .base import EnvSpec as EnvSpec
from .base import StepResult as StepResult
from .base import VectorEnv as VectorEnv
from .film import film as film
from .fork import Forked as Forked
from .fork import fork as fork
from .gymnasium_env import GymnasiumEnv as GymnasiumEnv
from .make import make as make
from .mujoco_batch import MujocoBatchEnv as MujocoBatchEnv
from .tabular import TabularEnv as TabularEnv
