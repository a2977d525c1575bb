"""What the store holds, as plain records: clips, questions, answers, labellers. No database here."""

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


class Answer(enum.StrEnum):
    """What a labeller said of a pair of clips; the first stands on the left."""

    LEFT = "left"
    RIGHT = "right"
    EQUAL = "equal"
    CANNOT_TELL = "cannot tell"

    @property
    def label(self) -> float:
        """Probability that the first clip is preferred: 1, 0, ½; NaN for "cannot tell"."""
        return {"left": 1.0, "right": 0.0, "equal": 0.5}.get(self.value, math.nan)


class Role(enum.StrEnum):
    """A labeller answers; an owner also sees the dashboard and sets the instruction."""

    LABELLER = "labeller"
    OWNER = "owner"


@dataclass(frozen=True)
class Clip:
    """A clip by reference.

    Attributes:
        id: SHA-256 (hex) of its arrays, environment and length: the same clip is stored once.
        env: registered name of the environment.
        length: H, steps compared.
        film: what people see, an MP4 in the store's folder of clips; None: not filmed.
        arrays: what nets see, a safetensors file in the same folder.
    """

    id: str
    env: str
    length: int
    film: Path | None
    arrays: Path


@dataclass(frozen=True)
class Question:
    """A pair of clips that people are asked about.

    Attributes:
        id: number in the store, from 1, in the order of asking.
        first, second: ids of the clips; the first stands on the left.
        asked_at: UTC.
        asked_by: version of the model that asked, such as "cheetah@12000"; "" where none did.
        step: environment steps of that model; 0 where none asked.
        overlap: how many different labellers should answer.
        held_out: set aside for judging: never trained on.
        withdrawn: no longer asked.
    """

    id: int
    first: str
    second: str
    asked_at: datetime
    asked_by: str
    step: int
    overlap: int
    held_out: bool
    withdrawn: bool


@dataclass(frozen=True)
class Taken:
    """A question lent to a labeller.

    Attributes:
        question: which.
        expires: UTC; after that it may be lent to another.
    """

    question: Question
    expires: datetime


@dataclass(frozen=True)
class Record:
    """One line of the append-only log of answers.

    Attributes:
        sequence: 1, 2, 3 … in the order in which the lines were committed, without gaps: who has read up to
            n misses nothing by reading on behind n.
        question: id.
        labeller: id.
        answer: None for an undo.
        undoes: sequence of the line that is taken back; None for an answer.
        at: UTC.
        response_seconds: from the films' start to the answer; None where not measured.
        asked_by: as the question has it.
        step: as the question has it.
        held_out: as the question has it.
    """

    sequence: int
    question: int
    labeller: int
    answer: Answer | None
    undoes: int | None
    at: datetime
    response_seconds: float | None
    asked_by: str
    step: int
    held_out: bool


def standing(records: Iterable[Record]) -> list[Record]:
    """The answers that were not taken back, in the order of the log.

    Args:
        records: of the log, with those that take others back.
    """
    records = list(records)
    undone = {record.undoes for record in records if record.undoes is not None}
    return [record for record in records if record.answer is not None and record.sequence not in undone]


@dataclass(frozen=True)
class Labeller:
    """Who answers. The token is known to no one but its bearer: the store has its hash.

    Attributes:
        id: number in the store.
        name: shown on the dashboard.
        role: what the bearer of the token may do.
        active: False once revoked.
    """

    id: int
    name: str
    role: Role
    active: bool


@dataclass(frozen=True)
class Counts:
    """How things stand.

    Attributes:
        open: questions that want an answer, taken or not.
        taken: of these, lent to someone now.
        answered: questions with all the answers they want.
        withdrawn: questions no longer asked.
        answers: answers that stand (not taken back).
    """

    open: int
    taken: int
    answered: int
    withdrawn: int
    answers: int


@dataclass(frozen=True)
class AuditRecord:
    """One line of the append-only log of what was done besides answering: sign-ins, refusals, settings.

    Attributes:
        sequence: 1, 2, 3 … in the order of writing.
        at: UTC.
        event: one or two words, such as "sign in".
        labeller: id of who did it; None where not known.
        detail: at most 500 characters, on one line.
    """

    sequence: int
    at: datetime
    event: str
    labeller: int | None
    detail: str
