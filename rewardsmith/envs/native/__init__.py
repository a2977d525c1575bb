"""Worlds that run inside compiled programs, and equally behind the interface of every other environment."""

from .base import NativeEnv as NativeEnv
from .base import NativeTransition as NativeTransition
from .make import make_native as make_native
from .vector import NativeVectorEnv as NativeVectorEnv
from .worlds import Worlds as Worlds
from .worlds import WorldsStep as WorldsStep
from .worlds import advance as advance
from .worlds import begin as begin
from .worlds import from_rows as from_rows
from .worlds import rows as rows
