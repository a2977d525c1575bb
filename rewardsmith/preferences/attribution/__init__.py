"""What each comparison did: influence functions, data Shapley, and scores by which wrong labels show."""

from .curvature import Product as Product
from .curvature import Solve as Solve
from .curvature import Solved as Solved
from .curvature import conjugate_gradients as conjugate_gradients
from .curvature import gauss_newton as gauss_newton
from .curvature import hessian as hessian
from .exact import ExactCurvature as ExactCurvature
from .exact import exact_curvature as exact_curvature
from .influence import Influence as Influence
from .influence import influence as influence
from .influence import self_influence as self_influence
from .kronecker import KroneckerCurvature as KroneckerCurvature
from .kronecker import ScoredNetwork as ScoredNetwork
from .kronecker import kronecker_curvature as kronecker_curvature
from .shapley import Shapley as Shapley
from .shapley import data_shapley as data_shapley
from .shapley import exact_shapley as exact_shapley
from .utilities import LogisticFit as LogisticFit
from .utilities import RidgeFit as RidgeFit
from .wrong_labels import leave_one_out_score as leave_one_out_score
from .wrong_labels import margin as margin
from .wrong_labels import recall_at as recall_at
