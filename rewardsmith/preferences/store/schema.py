"""Tables of the store, what guards the logs, and how an older store becomes one of this version.

Moments are microseconds since 1970 (UTC): whole numbers are the same in every database.
"""

import uuid
from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    insert,
    inspect,
    literal_column,
    select,
    text,
    update,
)

from ..._core.errors import InputError
from .records import Answer, Role

# SQLite counts rows by INTEGER alone.
_NUMBER = BigInteger().with_variant(Integer, "sqlite")

TABLES = MetaData()


def _key(name: str) -> Column[int]:
    # Numbers are given out by us, one after another, under the lock of the writers.
    return Column(name, _NUMBER, primary_key=True, autoincrement=False)


def _column(name: str, kind: object, *rest: object, **options: object) -> Column[object]:
    return Column(name, kind, *rest, **{"nullable": False, **options})  # pyright: ignore[reportArgumentType]


def _one_of(name: str, values: type[Answer] | type[Role]) -> CheckConstraint:
    return CheckConstraint(f"{name} IN ({', '.join(repr(str(value)) for value in values)})")


# Its one row is what writers lock on PostgreSQL.
STORE = Table(
    "rewardsmith_store",
    TABLES,
    _key("id"),
    _column("uuid", String(36)),
    _column("version", Integer),
    CheckConstraint("id = 1"),
)
CLIPS = Table(
    "clips",
    TABLES,
    Column("id", String(64), primary_key=True),
    _column("env", Text),
    _column("length", Integer),
    _column("filmed", Boolean),
)
QUESTIONS = Table(
    "questions",
    TABLES,
    _key("id"),
    _column("first", String(64), ForeignKey("clips.id")),
    _column("second", String(64), ForeignKey("clips.id")),
    _column("asked_at", BigInteger),
    _column("asked_by", Text),
    _column("step", BigInteger),
    _column("overlap", Integer),
    _column("held_out", Boolean),
    _column("withdrawn", Boolean),
    # overlap less the answers that stand; below zero where an import brought more.
    _column("wanted", Integer),
    # The store that asked, and its number there.
    _column("origin", String(36)),
    _column("origin_id", BigInteger),
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
    _column("name", Text, unique=True),
    _column("role", Text),
    _column("active", Boolean),
    Column("token", String(64), unique=True),
    _one_of("role", Role),
)
SESSIONS = Table(
    "sessions",
    TABLES,
    Column("id", String(64), primary_key=True),
    _column("labeller", _NUMBER, ForeignKey("labellers.id"), index=True),
    _column("expires", BigInteger),
)
# A row is a place taken: answers that stand and rows here are never more than the overlap, whatever the
# clock says. Time decides only which rows may make room for another labeller.
LEASES = Table(
    "leases",
    TABLES,
    Column("question", _NUMBER, ForeignKey("questions.id"), primary_key=True, autoincrement=False),
    Column(
        "labeller", _NUMBER, ForeignKey("labellers.id"), primary_key=True, autoincrement=False, index=True
    ),
    _column("taken_at", BigInteger),
    _column("expires", BigInteger),
)
ANSWERS = Table(
    "answers",
    TABLES,
    _key("sequence"),
    _column("question", _NUMBER, ForeignKey("questions.id"), index=True),
    _column("labeller", _NUMBER, ForeignKey("labellers.id")),
    Column("answer", Text),
    Column("undoes", _NUMBER, ForeignKey("answers.sequence"), unique=True),
    _column("at", BigInteger),
    Column("response_seconds", Double),
    # None for lines that were imported.
    Column("request", String(64), unique=True),
    _column("origin", String(36)),
    _column("origin_sequence", BigInteger),
    UniqueConstraint("origin", "origin_sequence"),
    _one_of("answer", Answer),
    CheckConstraint("(answer IS NULL) <> (undoes IS NULL)"),
)
# The answers of the log that are not taken back.
STANDING = Table(
    "standing",
    TABLES,
    Column("question", _NUMBER, ForeignKey("questions.id"), primary_key=True, autoincrement=False),
    Column("labeller", _NUMBER, ForeignKey("labellers.id"), primary_key=True, autoincrement=False),
    _column("sequence", _NUMBER, ForeignKey("answers.sequence"), unique=True),
    Index("standing_of_labeller", "labeller", "sequence"),
)
# Requests to undo that found nothing: sent again later, they must not take back what came between.
EMPTY_UNDOS = Table(
    "empty_undos",
    TABLES,
    Column("request", String(64), primary_key=True),
    _column("labeller", _NUMBER, ForeignKey("labellers.id")),
)
PREDICTIONS = Table(
    "predictions",
    TABLES,
    Column("question", _NUMBER, ForeignKey("questions.id"), primary_key=True, autoincrement=False),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    _column("probability", Double),
)
SETTINGS = Table("settings", TABLES, Column("name", Text, primary_key=True), _column("value", Text))
AUDIT = Table(
    "audit",
    TABLES,
    _key("sequence"),
    _column("at", BigInteger),
    _column("event", Text),
    Column("labeller", _NUMBER, ForeignKey("labellers.id")),
    _column("detail", Text),
)

APPEND_ONLY = (ANSWERS, PREDICTIONS, AUDIT)

# Each brings a store one version further: the first takes version 0 to 1, and so on. A new store is made
# from TABLES and has the newest version at once.
MIGRATIONS: tuple[Callable[[Connection], None], ...] = ()


def prepare(connection: Connection, name: str) -> None:
    """Make the tables where there are none, bring older ones up to date, refuse newer ones.

    Args:
        connection: in a transaction of its own, alone at this.
        name: of the store, for errors.
    """
    found = inspect(connection)
    if not found.has_table(STORE.name):
        if found.get_table_names():
            raise InputError(f"{name} holds tables that are not ours: give an empty database")
        TABLES.create_all(connection)
        for table in APPEND_ONLY:
            _guard(connection, table)
        connection.execute(insert(STORE).values(id=1, uuid=str(uuid.uuid4()), version=len(MIGRATIONS)))
        return
    version = connection.execute(select(STORE.c.version)).scalar_one()
    if version == len(MIGRATIONS):
        return
    check_version(version, name)
    for migrate in MIGRATIONS[version:]:
        migrate(connection)
    connection.execute(update(STORE).values(version=len(MIGRATIONS)))


def check_version(version: int, name: str) -> None:
    """Refuse a store that newer code has written."""
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
