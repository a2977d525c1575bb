"""Films of clips, in whole or by one range of bytes, to those who are asked about them."""

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from rewardsmith.preferences.store import Role

from .security import Refusal
from .sessions import Reading

router = APIRouter()
_CLIP = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
_REMEMBERED = 256
# Clips last seconds, so most films are read at once; longer ones are sent piece by piece.
_WHOLE = 2**20
_KEPT = {"cache-control": "private, max-age=31536000, immutable"}


class Lent:
    """Which clips each labeller was shown lately: those of the questions lent to them, and just before.

    Kept in memory: after a restart the page takes its questions again before it asks for films.
    """

    def __init__(self) -> None:
        self._clips: dict[int, OrderedDict[str, None]] = {}
        self._lock = threading.Lock()

    def add(self, labeller: int, clips: Iterable[str]) -> None:
        """Let `labeller` see these."""
        with self._lock:
            seen = self._clips.setdefault(labeller, OrderedDict())
            for clip in clips:
                seen[clip] = None
                seen.move_to_end(clip)
            while len(seen) > _REMEMBERED:
                seen.popitem(last=False)

    def has(self, labeller: int, clip: str) -> bool:
        """Whether `labeller` may see this one."""
        with self._lock:
            return clip in self._clips.get(labeller, ())


@router.get("/api/films/{clip}")
def film(clip: str, request: Request, session: Reading) -> Response:
    """The MP4 of a clip.

    Refused: 404 for what is no id of a clip, is not filmed, or was never lent to this labeller, all alike;
    416 for more than one range, or one outside the film.
    """
    site = request.app.state.site
    may_see = session.labeller.role == Role.OWNER or site.lent.has(session.labeller.id, clip)
    # The id is checked before it goes anywhere: nothing a request says becomes a path.
    if not _CLIP.fullmatch(clip) or not may_see:
        raise Refusal(404, "There is no such film.")
    path = site.clip(clip).film
    if path is None or not path.is_file():
        raise Refusal(404, "There is no such film.")
    stat = path.stat()
    wanted = _range(request.headers.get("range"), stat.st_size)
    if stat.st_size > _WHOLE:
        return FileResponse(path, media_type="video/mp4", headers=_KEPT, stat_result=stat)
    content = path.read_bytes()
    if wanted is None:
        return Response(content, 200, _KEPT | {"accept-ranges": "bytes"}, "video/mp4")
    first, last = wanted
    place = {"content-range": f"bytes {first}-{last}/{stat.st_size}", "accept-ranges": "bytes"}
    return Response(content[first : last + 1], 206, _KEPT | place, "video/mp4")


def _range(wanted: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte of the range that a header asks for; None: the whole."""
    if wanted is None:
        return None
    match = _RANGE.fullmatch(wanted)
    if match is not None:
        first, last = match.groups()
        if first and int(first) < size and (not last or int(last) >= int(first)):
            return int(first), min(int(last) if last else size, size - 1)
        if not first and last and int(last) > 0:
            return max(0, size - int(last)), size - 1
    raise Refusal(416, "That range is not in the film.", Content_Range=f"bytes */{size}")
