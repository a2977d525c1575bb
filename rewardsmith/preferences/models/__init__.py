"""Preference models: how likely an answer is, given what is predicted of the two clips."""

from .base import Judgement as Judgement
from .base import Prediction as Prediction
from .base import PreferenceModel as PreferenceModel
from .base import ScoreModel as ScoreModel
from .make import PREFERENCE_MODELS as PREFERENCE_MODELS
from .make import make_preference_model as make_preference_model
from .mixture import Mixture as Mixture
from .mixture import group_sizes as group_sizes
from .mixture import min_max_weights as min_max_weights
from .mixture import responsibilities as responsibilities
from .noise import Noise as Noise
from .scores import General as General
from .scores import PartialReturn as PartialReturn
from .scores import Regret as Regret
from .scores import Thurstone as Thurstone
from .scores import skew_product as skew_product
