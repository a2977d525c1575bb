"""The public face does not change unseen: it is held against what is written down of it."""

import difflib
import textwrap
from pathlib import Path

import griffe

from tests.api import NAMES, lines, load, signature

SNAPSHOT = Path(__file__).parent / "reference" / "api.txt"


def test_the_public_face_is_the_one_written_down():
    written, now = SNAPSHOT.read_text().splitlines(), lines(load())
    changes = difflib.unified_diff(written, now, "written down", "now", lineterm="", n=0)
    changed = [line for line in changes if not line.startswith("@@")]
    assert not changed, (
        "the public face has changed:\n"
        + "\n".join(changed)
        + "\nIf that is meant: python -m tests.api > tests/reference/api.txt, and a line in CHANGELOG.md."
    )


def test_every_public_name_is_written_down():
    written = SNAPSHOT.read_text().splitlines()
    names = {line.removeprefix("class ").split("(")[0].split(" is ")[0] for line in written}
    assert not [name for name in NAMES if name not in names]
    assert len(written) == len(set(written))


def test_a_change_of_the_face_is_seen(tmp_path):
    """Of names, kinds and defaults, and of nothing else."""

    def told(source):
        (tmp_path / "made_up.py").write_text(textwrap.dedent(source))
        package = griffe.load("made_up", search_paths=[str(tmp_path)])
        return signature(package["f"])

    first = told("def f(a, /, b: int, *, c=1, **d): ...")
    assert first == "(a, /, b, *, c=1, **d)"
    assert told("def f(a, /, b: float, *, c: int = 1, **d): return a") == first
    assert told("def f(a, b, *rest, c): ...") == "(a, b, *rest, c)"
    assert told("def f(a, /): ...") == "(a, /)"
    others = [
        "def f(a, b, *, c=1, **d): ...",
        "def f(a, /, b, *, c=2, **d): ...",
        "def f(a, /, *, c=1, **d): ...",
    ]
    assert first not in map(told, others)
