"""Labellers, their tokens and the sessions of the page. Every function takes a connection."""

import hashlib
import secrets
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from ..._core.errors import InputError
from . import clock
from .asking import next_key
from .checks import check_choice, check_name, check_number, check_seconds, shown
from .records import Labeller, Role
from .schema import LABELLERS, LEASES, SESSIONS

_LONGEST_SECRET = 100
_A_YEAR = 366 * 86400.0


def add_labeller(connection: Connection, name: str, role: Role) -> str:
    """Let a new labeller in, or one that was revoked or imported; returns the token, which is not kept."""
    kept, role, token = check_name(name), check_choice("role", role, Role), _new_secret()
    row = {"role": str(role), "active": True, "token": _hash(token)}
    known = connection.execute(select(LABELLERS).where(LABELLERS.c.name == kept)).one_or_none()
    if known is None:
        number = next_key(connection, LABELLERS)
        connection.execute(insert(LABELLERS).values(id=number, name=kept, **row))
    elif known.active:
        raise InputError(
            f"there is a labeller {shown(kept)} already: give another name, or revoke that one first"
        )
    else:
        connection.execute(update(LABELLERS).where(LABELLERS.c.id == known.id).values(row))
    return token


def labeller_called(connection: Connection, name: str) -> int:
    """The number of a labeller whose answers are imported; a new one cannot sign in yet."""
    known = connection.execute(select(LABELLERS.c.id).where(LABELLERS.c.name == name)).scalar()
    if known is not None:
        return known
    number = next_key(connection, LABELLERS)
    row = {"id": number, "name": name, "role": str(Role.LABELLER), "active": False, "token": None}
    connection.execute(insert(LABELLERS).values(row))
    return number


def authenticate(connection: Connection, token: str) -> Labeller | None:
    """Whose token it is; None where it is nobody's or its bearer was revoked."""
    found = select(LABELLERS).where(LABELLERS.c.token == _hash(token), LABELLERS.c.active)
    return _as_labeller(connection.execute(found).one_or_none())


def labellers(connection: Connection) -> list[Labeller]:
    """All that were ever let in, in that order."""
    rows = connection.execute(select(LABELLERS).order_by(LABELLERS.c.id))
    return [one for row in rows if (one := _as_labeller(row))]


def revoke(connection: Connection, name: str) -> None:
    """Let a labeller in no more: token, sessions and leases are gone, the answers stay."""
    kept = check_name(name)
    number = connection.execute(select(LABELLERS.c.id).where(LABELLERS.c.name == kept)).scalar()
    if number is None:
        raise InputError(f"no labeller {shown(kept)}: give a name that labellers() lists")
    connection.execute(update(LABELLERS).where(LABELLERS.c.id == number).values(active=False, token=None))
    connection.execute(delete(SESSIONS).where(SESSIONS.c.labeller == number))
    connection.execute(delete(LEASES).where(LEASES.c.labeller == number))


def check_known(connection: Connection, labeller: int) -> int:
    """The id of a labeller; refuse one that was never let in."""
    labeller = check_number("labeller", labeller)
    if connection.execute(select(LABELLERS.c.id).where(LABELLERS.c.id == labeller)).scalar() is None:
        raise InputError(f"no labeller {labeller} in this store: give the id of one that labellers() lists")
    return labeller


def check_active(connection: Connection, labeller: int) -> int:
    """The id of a labeller; refuse whoever is unknown or revoked."""
    labeller = check_number("labeller", labeller)
    if not connection.execute(select(LABELLERS.c.active).where(LABELLERS.c.id == labeller)).scalar():
        raise InputError(f"no labeller {labeller} may answer: give the id of one that is active")
    return labeller


def begin_session(connection: Connection, labeller: int, seconds: float) -> str:
    """A new session that lasts `seconds`; returns its secret, which is not kept."""
    labeller = check_active(connection, labeller)
    lasts, now = check_seconds("the length of a session", seconds, _A_YEAR), clock.now()
    connection.execute(delete(SESSIONS).where(SESSIONS.c.expires <= now))
    secret = _new_secret()
    row = {"id": _hash(secret), "labeller": labeller, "expires": now + round(lasts * 1e6)}
    connection.execute(insert(SESSIONS).values(row))
    return secret


def session(connection: Connection, secret: str) -> Labeller | None:
    """Whose session it is; None where it is unknown, over or its labeller revoked."""
    found = select(LABELLERS).join(SESSIONS).where(SESSIONS.c.id == _hash(secret), LABELLERS.c.active)
    return _as_labeller(connection.execute(found.where(SESSIONS.c.expires > clock.now())).one_or_none())


def end_session(connection: Connection, secret: str) -> None:
    """Sign out; an unknown session is no error."""
    connection.execute(delete(SESSIONS).where(SESSIONS.c.id == _hash(secret)))


def _new_secret() -> str:
    return secrets.token_urlsafe(32)


def _hash(secret: str) -> str:
    # 256 random bits cannot be guessed from their hash, so it needs neither salt nor a slow function, as
    # passwords would; and looking a hash up tells nothing of the token by the time it takes.
    if not isinstance(secret, str):
        raise InputError("a token or session that is no text: give what the store returned")
    return hashlib.sha256(secret[: _LONGEST_SECRET + 1].encode("utf-8", "replace")).hexdigest()


def _as_labeller(row: Any) -> Labeller | None:
    return None if row is None else Labeller(row.id, row.name, Role(row.role), row.active)
