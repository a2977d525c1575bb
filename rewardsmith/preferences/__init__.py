"""Preferences: clips, comparisons, teachers and the loss that explains answers by rewards."""

from .clips import Clips as Clips
from .clips import Trajectories as Trajectories
from .clips import unstacked as unstacked
from .comparisons import ComparisonQueue as ComparisonQueue
from .loss import bradley_terry as bradley_terry
from .schedule import comparisons_due as comparisons_due
from .selection import SELECTIONS as SELECTIONS
from .selection import Candidates as Candidates
from .selection import make_selection as make_selection
from .selection import pair_features as pair_features
from .teachers import TEACHERS as TEACHERS
from .teachers import BradleyTerryTeacher as BradleyTerryTeacher
from .teachers import Oracle as Oracle
from .teachers import SyntheticTeacher as SyntheticTeacher
from .teachers import Teacher as Teacher
from .teachers import make_teacher as make_teacher
