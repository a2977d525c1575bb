"""The store: what people are asked and what they said, on disk, for the trainer and the page at once."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from ..._core.errors import InputError
from . import answering, asking, clip_files, journal, people
from .checks import check_seconds
from .database import Database, open_database
from .records import Answer, AuditRecord, Clip, Counts, Labeller, Question, Record, Role, Taken


class Store:
    """Clips, questions, an append-only log of answers, and the people who give them.

    Any number of threads and processes may use one store at once. Each call is one transaction; once it has
    returned, what it wrote outlives the process and, but for leases, a power cut. A context manager: `close`
    at the end. Every method raises `InputError` with one line for bad arguments and a database that fails.

    Args:
        database: for `export_parquet` and its kin.
        clips_folder: where the files of clips lie.
        lease_seconds: a question taken is lent for so long.

    Attributes:
        clips_folder: where the files of clips lie.
        database: for `export_parquet` and its kin.
    """

    def __init__(self, database: Database, clips_folder: Path, lease_seconds: float):
        self.database, self.clips_folder = database, clips_folder
        self._lease = round(lease_seconds * 1e6)

    @staticmethod
    def open(
        where: Path | str, *, clips: Path | None = None, create: bool = True, lease_seconds: float = 300.0
    ) -> "Store":
        """Open a store, and make it where there is none.

        Args:
            where: a folder, which holds ``answers.sqlite`` and ``clips/``; or ``postgresql://…``.
            clips: folder of the clips' files; needed with PostgreSQL.
            create: make a store where there is none.
            lease_seconds: a question taken is lent for so long.

        Raises:
            InputError: no store there, no rights, no database of ours, or one of a newer version.
        """
        lease = check_seconds("lease_seconds", lease_seconds, 1e7)
        if not isinstance(where, str | Path) or not (clips is None or isinstance(clips, str | Path)):
            raise InputError("a store is opened by paths: give where, and clips if at all, as Path or str")
        is_url = isinstance(where, str) and "://" in where
        if is_url and clips is None:
            raise InputError("a store in PostgreSQL keeps its films in a folder: give clips=")
        database = open_database(where, create=create)
        folder = Path(where) / "clips" if clips is None else Path(clips)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            clip_files.sweep(folder)
        except OSError as error:
            database.engine.dispose()
            raise InputError(
                f"cannot use the folder {folder} ({error.strerror}): give another one"
            ) from error
        return Store(database, folder, lease)

    def add_clip(
        self,
        arrays: Mapping[str, np.ndarray],
        *,
        env: str,
        length: int,
        film: Callable[[Path], None] | None,
    ) -> str:
        """Store a clip; the same clip again is no error, and gets its film if it had none.

        Args:
            arrays: what nets see, by name: numbers of any shape; no true rewards.
            env: registered name of the environment.
            length: H, steps compared.
            film: writes what people see, an MP4, to the path it is called with; None: not filmed.

        Returns:
            The clip's id.

        Raises:
            InputError: arrays of another kind, a `film` that cannot be called, or a full disk.
        """
        checked, env, length = clip_files.check_clip(arrays, env, length)
        if film is not None and not callable(film):
            raise InputError(f"film is a {type(film).__name__}: give a function that writes it to a path")
        clip = clip_files.clip_id(checked, env, length)
        clip_files.write_clip(self.clips_folder, clip, clip_files.as_bytes(checked), film)
        with self.database.writing() as connection:
            asking.put_clip(connection, clip, env, length, film is not None)
        return clip

    def clip(self, clip_id: str) -> Clip:
        """A clip by its id.

        Args:
            clip_id: as `add_clip` gave it.
        """
        with self.database.reading() as connection:
            return asking.get_clip(connection, clip_id, self.clips_folder)

    def load_clip(self, clip_id: str) -> dict[str, np.ndarray]:
        """The arrays of a clip, by name; `InputError` where its file is gone or damaged.

        Args:
            clip_id: as `add_clip` gave it.
        """
        clip = self.clip(clip_id)
        data = clip_files.read_clip(clip.arrays)
        return clip_files.from_bytes(data, clip.id, clip.env, clip.length, str(clip.arrays))

    def ask(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        asked_by: str = "",
        step: int = 0,
        overlap: int = 1,
        held_out: Sequence[bool] | None = None,
    ) -> list[int]:
        """Put pairs of clips as questions.

        Args:
            pairs: ids of two clips of the same environment and length; the first stands on the left.
            asked_by: version of the model that asks.
            step: its environment steps.
            overlap: how many different labellers should answer each.
            held_out: for each pair, whether it is set aside for judging; None: none is.

        Returns:
            The questions' numbers, in the order of `pairs`.
        """
        with self.database.writing() as connection:
            return asking.ask(connection, pairs, asked_by, step, overlap, held_out)

    def withdraw(self, questions: Sequence[int]) -> list[int]:
        """Ask no more; returns those that were still open. Answers given to them stay.

        Args:
            questions: their numbers.
        """
        with self.database.writing() as connection:
            return asking.withdraw(connection, questions)

    def question(self, question_id: int) -> Question:
        """A question by its number.

        Args:
            question_id: as `ask` gave it.
        """
        with self.database.reading() as connection:
            return asking.get_question(connection, question_id)

    def open_questions(self) -> list[Question]:
        """All that want an answer, lent or not, in the order of asking."""
        with self.database.reading() as connection:
            return asking.open_questions(connection)

    def take(self, labeller: int, *, count: int = 1) -> list[Taken]:
        """Lend up to `count` open questions to a labeller.

        Those it holds come first, their lease renewed; then the newest. Never one that it has answered
        (unless taken back), and never to more labellers than the overlap, counting answers and leases. A
        question whose lease ran out may go to another.
        """
        # What a power cut undoes is lent once more.
        with self.database.writing(lasting=False) as connection:
            return answering.take(connection, labeller, count, self._lease)

    def release(self, labeller: int) -> None:
        """Give back what a labeller holds: it closed the page or signed out."""
        with self.database.writing(lasting=False) as connection:
            answering.release(connection, labeller)

    def answer(
        self,
        question: int,
        labeller: int,
        answer: Answer,
        *,
        response_seconds: float | None = None,
        request: str,
    ) -> Record:
        """Add an answer to the log.

        Args:
            question: one that the labeller took. A lease that ran out counts until it is lent to another.
            labeller: id.
            answer: what it says.
            response_seconds: from the films' start to the answer.
            request: a UUID that the client made. The same again returns the same line, and adds none.

        Raises:
            NotYours: the labeller does not hold the question.
            InputError: the request was made before with other contents.
        """
        with self.database.writing() as connection:
            return answering.answer(connection, question, labeller, answer, response_seconds, request)

    def undo(self, labeller: int, *, request: str) -> Record | None:
        """Take back the labeller's last answer that stands: a new line, and the question is lent again.

        Args:
            labeller: id.
            request: as in `answer`.

        Returns:
            The new line; None where no answer stands.
        """
        with self.database.writing() as connection:
            return answering.undo(connection, labeller, request, self._lease)

    def records(self, after: int = 0, limit: int | None = None) -> list[Record]:
        """The log behind line `after`, at most `limit` lines, by sequence and without gaps."""
        with self.database.reading() as connection:
            return answering.records(connection, after, limit)

    def counts(self) -> Counts:
        """How things stand."""
        with self.database.reading() as connection:
            return answering.counts(connection)

    def add_labeller(self, name: str, role: Role = Role.LABELLER) -> str:
        """Let someone in; returns the token, shown this once: the store keeps its hash.

        A name that was revoked is let in again, with a new token.

        Args:
            name: shown to owners.
            role: what they may do.
        """
        with self.database.writing() as connection:
            return people.add_labeller(connection, name, role)

    def authenticate(self, token: str) -> Labeller | None:
        """Whose token it is; None where it is nobody's or was revoked."""
        with self.database.reading() as connection:
            return people.authenticate(connection, token)

    def labellers(self) -> list[Labeller]:
        """All that were ever let in."""
        with self.database.reading() as connection:
            return people.labellers(connection)

    def revoke(self, name: str) -> None:
        """Let someone in no more; the answers stay.

        Args:
            name: of the labeller.
        """
        with self.database.writing() as connection:
            people.revoke(connection, name)

    def begin_session(self, labeller: int, seconds: float) -> str:
        """Sign a labeller in; returns the session's secret for the cookie, kept as a hash.

        Args:
            labeller: their number.
            seconds: until it is over.
        """
        with self.database.writing() as connection:
            return people.begin_session(connection, labeller, seconds)

    def session(self, session_id: str) -> Labeller | None:
        """Whose session it is; None where it is unknown, over, or its labeller revoked.

        Args:
            session_id: as `begin_session` gave it.
        """
        with self.database.reading() as connection:
            return people.session(connection, session_id)

    def end_session(self, session_id: str) -> None:
        """Sign out.

        Args:
            session_id: as `begin_session` gave it.
        """
        with self.database.writing() as connection:
            people.end_session(connection, session_id)

    def get_setting(self, name: str, default: str = "") -> str:
        """The value of a setting, such as "instruction".

        Args:
            name: of the setting.
            default: where it was never set.
        """
        with self.database.reading() as connection:
            return journal.get_setting(connection, name, default)

    def set_setting(self, name: str, value: str) -> None:
        """Set a setting: at most 10 000 characters.

        Args:
            name: of the setting.
            value: its text.
        """
        with self.database.writing() as connection:
            journal.set_setting(connection, name, value)

    def predict(self, predictions: Mapping[int, float], *, step: int) -> None:
        """Keep the P(first preferred) that a reward model gave questions before it was trained on them.

        Append-only: of the same question and step, the first prediction stays.

        Args:
            predictions: P(first preferred), 0 to 1, by number of the question.
            step: of the run, environment steps.
        """
        with self.database.writing() as connection:
            journal.predict(connection, predictions, step)

    def predictions(self) -> list[tuple[int, int, float]]:
        """All predictions: question, step and P(first preferred)."""
        with self.database.reading() as connection:
            return journal.predictions(connection)

    def audit(self, event: str, *, labeller: int | None = None, detail: str = "") -> None:
        """Add a line to the append-only audit log; `detail` is cut at 500 characters.

        Args:
            event: one word for what happened.
            labeller: whose doing it was; None: nobody known.
            detail: what else there is to say.
        """
        with self.database.writing() as connection:
            journal.audit(connection, event, labeller, detail)

    def audit_log(self, after: int = 0, limit: int = 1000) -> list[AuditRecord]:
        """The audit log behind line `after`, at most `limit` lines."""
        with self.database.reading() as connection:
            return journal.audit_log(connection, after, limit)

    def close(self) -> None:
        """Close the connections; what was returned is safe in any case."""
        self.database.engine.dispose()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
