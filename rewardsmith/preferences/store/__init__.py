"""The store of people's answers: clips by reference, questions, an append-only log, labellers."""

from .answering import NotYours as NotYours
from .exchange import export_parquet as export_parquet
from .exchange import import_parquet as import_parquet
from .minari_pairs import Excerpt as Excerpt
from .minari_pairs import load_minari as load_minari
from .minari_pairs import pairs_from_minari as pairs_from_minari
from .records import Answer as Answer
from .records import AuditRecord as AuditRecord
from .records import Clip as Clip
from .records import Counts as Counts
from .records import Labeller as Labeller
from .records import Question as Question
from .records import Record as Record
from .records import Role as Role
from .records import Taken as Taken
from .records import standing as standing
from .store import Store as Store
