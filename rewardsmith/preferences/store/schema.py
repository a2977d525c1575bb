"""Tables of the store, what guards the logs, and how an older store becomes one of this version.

Moments are microseconds since 1970 (UTC): whole numbers are the same in every database.
"""

import uuid
from collections.abc import Callable

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    UniqueConstraint,
    insert,
    inspect,
    literal_column,
    select,
    text,
    update,
)

from ..._core.errors import InputError
from .column_types import flag, key, moment, number, one_of, real, words
from .records import Answer, Role

TABLES = MetaData()


def _key(name: str) -> Column[int]:
    # Numbers are given out by us, one after another, under the lock of the writers.
    return Column(name, key(), primary_key=True, autoincrement=False)


def _column(name: str, kind: object, *rest: object, **options: object) -> Column[object]:
    return Column(name, kind, *rest, **{"nullable": False, **options})  # pyright: ignore[reportArgumentType]


def _one_of(name: str, values: type[Answer] | type[Role]) -> CheckConstraint:
    return CheckConstraint(f"{name} IN ({', '.join(repr(str(value)) for value in values)})")


# Its one row is what writers lock on PostgreSQL.
STORE = Table(
    "rewardsmith_store",
    TABLES,
    _key("id"),
    _column("uuid", words(36)),
    _column("version", number(Integer())),
    CheckConstraint("id = 1"),
)
CLIPS = Table(
    "clips",
    TABLES,
    Column("id", words(64), primary_key=True),
    _column("env", words()),
    _column("length", number(Integer())),
    _column("filmed", flag()),
)
QUESTIONS = Table(
    "questions",
    TABLES,
    _key("id"),
    _column("first", words(64), ForeignKey("clips.id")),
    _column("second", words(64), ForeignKey("clips.id")),
    _column("asked_at", moment()),
    _column("asked_by", words()),
    _column("step", number()),
    _column("overlap", number(Integer())),
    _column("held_out", flag()),
    _column("withdrawn", flag()),
    # overlap less the answers that stand; below zero where an import brought more.
    _column("wanted", number(Integer())),
    # The store that asked, and its number there.
    _column("origin", words(36)),
    _column("origin_id", number()),
    UniqueConstraint("origin", "origin_id"),
)
# Literals: with a parameter for zero, no database sees that its index is meant.
ANSWERED = QUESTIONS.c.wanted <= literal_column("0")
_UNANSWERED = QUESTIONS.c.wanted > literal_column("0")
OPEN = ~QUESTIONS.c.withdrawn & _UNANSWERED
# The newest open question, and how many there are, without a look at those that are answered.
_STATE = (QUESTIONS.c.withdrawn, QUESTIONS.c.id, QUESTIONS.c.wanted)
Index("questions_open", *_STATE, sqlite_where=_UNANSWERED, postgresql_where=_UNANSWERED)
Index("questions_answered", *_STATE, sqlite_where=ANSWERED, postgresql_where=ANSWERED)
LABELLERS = Table(
    "labellers",
    TABLES,
    _key("id"),
    _column("name", words(), unique=True),
    _column("role", one_of(Role)),
    _column("active", flag()),
    Column("token", words(64, null=True), unique=True),
    _one_of("role", Role),
)
SESSIONS = Table(
    "sessions",
    TABLES,
    Column("id", words(64), primary_key=True),
    _column("labeller", key(), ForeignKey("labellers.id"), index=True),
    _column("expires", moment()),
)
# A row is a place taken: answers that stand and rows here are never more than the overlap, whatever the
# clock says. Time decides only which rows may make room for another labeller.
LEASES = Table(
    "leases",
    TABLES,
    Column("question", key(), ForeignKey("questions.id"), primary_key=True, autoincrement=False),
    Column("labeller", key(), ForeignKey("labellers.id"), primary_key=True, autoincrement=False, index=True),
    _column("taken_at", moment()),
    _column("expires", moment()),
)
ANSWERS = Table(
    "answers",
    TABLES,
    _key("sequence"),
    _column("question", key(), ForeignKey("questions.id"), index=True),
    _column("labeller", key(), ForeignKey("labellers.id")),
    Column("answer", one_of(Answer, null=True)),
    Column("undoes", key(null=True), ForeignKey("answers.sequence"), unique=True),
    _column("at", moment()),
    Column("response_seconds", real(null=True)),
    # None for lines that were imported.
    Column("request", words(64, null=True), unique=True),
    _column("origin", words(36)),
    _column("origin_sequence", number()),
    UniqueConstraint("origin", "origin_sequence"),
    _one_of("answer", Answer),
    CheckConstraint("(answer IS NULL) <> (undoes IS NULL)"),
)
# The answers of the log that are not taken back.
STANDING = Table(
    "standing",
    TABLES,
    Column("question", key(), ForeignKey("questions.id"), primary_key=True, autoincrement=False),
    Column("labeller", key(), ForeignKey("labellers.id"), primary_key=True, autoincrement=False),
    _column("sequence", key(), ForeignKey("answers.sequence"), unique=True),
    Index("standing_of_labeller", "labeller", "sequence"),
)
# Requests to undo that found nothing: sent again later, they must not take back what came between.
EMPTY_UNDOS = Table(
    "empty_undos",
    TABLES,
    Column("request", words(64), primary_key=True),
    _column("labeller", key(), ForeignKey("labellers.id")),
)
PREDICTIONS = Table(
    "predictions",
    TABLES,
    Column("question", key(), ForeignKey("questions.id"), primary_key=True, autoincrement=False),
    Column("step", number(), primary_key=True, autoincrement=False),
    _column("probability", real()),
)
SETTINGS = Table("settings", TABLES, Column("name", words(), primary_key=True), _column("value", words()))
AUDIT = Table(
    "audit",
    TABLES,
    _key("sequence"),
    _column("at", moment()),
    _column("event", words()),
    Column("labeller", key(null=True), ForeignKey("labellers.id")),
    _column("detail", words()),
)

APPEND_ONLY = (ANSWERS, PREDICTIONS, AUDIT)

# Each brings a store one version further: the first takes version 0 to 1, and so on. A new store is made
# from TABLES and has the newest version at once.
MIGRATIONS: tuple[Callable[[Connection], None], ...] = ()


def prepare(connection: Connection, name: str, *, create: bool) -> None:
    """Make the tables where there are none, bring older ones up to date, refuse newer ones.

    Args:
        connection: in a transaction of its own, alone at this.
        name: of the store, for errors.
        create: whether tables may be made.
    """
    found = inspect(connection)
    if not found.has_table(STORE.name):
        if found.get_table_names():
            raise InputError(f"{name} holds tables that are not ours: give an empty database")
        if not create:
            raise InputError(f"{name} is empty, no store was made in it: give another one, or a copy of it")
        TABLES.create_all(connection)
        for table in APPEND_ONLY:
            _guard(connection, table)
        connection.execute(insert(STORE).values(id=1, uuid=str(uuid.uuid4()), version=len(MIGRATIONS)))
        return
    version = connection.execute(select(STORE.c.version)).scalar_one()
    check_version(version, name)
    if version == len(MIGRATIONS):
        return
    for migrate in MIGRATIONS[version:]:
        migrate(connection)
    connection.execute(update(STORE).values(version=len(MIGRATIONS)))


def check_version(version: int, name: str) -> None:
    """Refuse a store that newer code has written, or no code."""
    if version < 0:
        raise InputError(f"{name} has the version {version}, which no Rewardsmith wrote: give another store")
    if version > len(MIGRATIONS):
        raise InputError(
            f"{name} was written by a newer Rewardsmith (its version is {version}, this one knows "
            f"{len(MIGRATIONS)}): upgrade Rewardsmith"
        )


def _guard(connection: Connection, table: Table) -> None:
    """Let the database itself refuse to change or remove a line of a log."""
    says = f"{table.name}: lines are added, never changed or removed"
    if connection.dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            connection.execute(
                text(
                    f"CREATE TRIGGER {table.name}_no_{verb.lower()} BEFORE {verb} ON {table.name} "
                    f"BEGIN SELECT RAISE(ABORT, '{says}'); END"
                )
            )
        # INSERT OR REPLACE removes rows without asking the trigger of DELETE.
        unique = " OR ".join(f"({_same(columns)})" for columns in _unique_columns(table))
        connection.execute(
            text(
                f"CREATE TRIGGER {table.name}_no_replace BEFORE INSERT ON {table.name} "
                f"WHEN EXISTS (SELECT 1 FROM {table.name} WHERE {unique}) "
                f"BEGIN SELECT RAISE(ABORT, '{says}'); END"
            )
        )
        return
    connection.execute(
        text(
            f"CREATE FUNCTION {table.name}_guard() RETURNS trigger LANGUAGE plpgsql "
            f"AS $$ BEGIN RAISE EXCEPTION '{says}'; END $$"
        )
    )
    for verbs, each in (("UPDATE OR DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
        connection.execute(
            text(
                f"CREATE TRIGGER {table.name}_no_{each.lower()} BEFORE {verbs} ON {table.name} "
                f"FOR EACH {each} EXECUTE FUNCTION {table.name}_guard()"
            )
        )


def _unique_columns(table: Table) -> list[list[str]]:
    together = [one for one in table.constraints if isinstance(one, UniqueConstraint)]
    return [[column.name for column in one.columns] for one in (table.primary_key, *together)]


def _same(columns: list[str]) -> str:
    return " AND ".join(f"{name} = NEW.{name}" for name in columns)
