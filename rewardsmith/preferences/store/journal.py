"""What the store keeps beside answers: settings, predictions of the reward model, the audit log."""

from collections.abc import Mapping

from sqlalchemy import Connection, delete, insert, select

from ..._core.errors import InputError
from . import clock
from .asking import get_question, next_key
from .checks import check_number, check_probability, check_text, shown
from .people import check_known
from .records import AuditRecord
from .schema import AUDIT, PREDICTIONS, SETTINGS

_LONGEST_DETAIL = 500
_NAME = "the name of a setting"


def get_setting(connection: Connection, name: str, default: str) -> str:
    """The value of a setting, or `default`."""
    name = check_text(_NAME, name, 100)
    value = connection.execute(select(SETTINGS.c.value).where(SETTINGS.c.name == name)).scalar()
    return default if value is None else value


def set_setting(connection: Connection, name: str, value: str) -> None:
    """Set a setting: a name of at most 100 characters, a value of at most 10 000."""
    name = check_text(_NAME, name, 100)
    value = check_text(f"setting {name}", value, 10_000, lines=True)
    connection.execute(delete(SETTINGS).where(SETTINGS.c.name == name))
    connection.execute(insert(SETTINGS).values(name=name, value=value))


def predict(connection: Connection, predictions: Mapping[int, float], step: int) -> None:
    """Keep what a reward model expected; of the same question and step, the first one."""
    step = check_number("step", step, 0)
    if not isinstance(predictions, Mapping):
        raise InputError(f"predictions are {shown(predictions)}: give {{question: probability}}")
    for number, expected in predictions.items():
        question = get_question(connection, number).id
        probability = check_probability(f"the prediction for question {question}", expected)
        at = (PREDICTIONS.c.question == question, PREDICTIONS.c.step == step)
        if connection.execute(select(PREDICTIONS.c.step).where(*at)).scalar() is None:
            row = {"question": question, "step": step, "probability": probability}
            connection.execute(insert(PREDICTIONS).values(row))


def predictions(connection: Connection) -> list[tuple[int, int, float]]:
    """All of them: question, step and probability, by question and step."""
    wanted = select(PREDICTIONS).order_by(PREDICTIONS.c.question, PREDICTIONS.c.step)
    return [(row.question, row.step, row.probability) for row in connection.execute(wanted)]


def audit(connection: Connection, event: str, labeller: int | None, detail: str) -> None:
    """Add a line to the audit log; what cannot be printed in `detail` becomes a question mark."""
    event = check_text("the event", event, 100)
    if not isinstance(detail, str):
        raise InputError(f"the detail of {event} is {shown(detail)}: give text")
    if labeller is not None:
        labeller = check_known(connection, labeller)
    # It may quote what a stranger sent.
    line = "".join(mark if mark.isprintable() else "?" for mark in detail[:_LONGEST_DETAIL])
    row = {"sequence": next_key(connection, AUDIT), "at": clock.now(), "event": event, "detail": line}
    connection.execute(insert(AUDIT).values(row | {"labeller": labeller}))


def audit_log(connection: Connection, after: int, limit: int) -> list[AuditRecord]:
    """Lines of the audit log behind line `after`."""
    after, limit = check_number("after", after, 0), check_number("limit", limit, 0)
    wanted = select(AUDIT).where(AUDIT.c.sequence > after).order_by(AUDIT.c.sequence).limit(limit)
    return [
        AuditRecord(row.sequence, clock.as_datetime(row.at), row.event, row.labeller, row.detail)
        for row in connection.execute(wanted)
    ]
