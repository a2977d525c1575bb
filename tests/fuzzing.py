"""What the fuzz tests share: how many inputs, how good ones are spoilt, and what a refusal looks like.

A few inputs in `make test`, the same at each run; with REWARDSMITH_FUZZ=1 thousands, others at each run;
with another number so many times as many.
"""

import contextlib
import copy
import faulthandler
import hashlib
import json
import math
import os
import resource
import signal
import time
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings

from rewardsmith._core import InputError
from tests.commands import command

LONG = float(os.environ.get("REWARDSMITH_FUZZ") or 0)
_MARK = "\ue000spoilt\ue000"

json_fragments = st.sampled_from(
    [
        *("null", "true", "false", "0", "-1", "1", "2", "0.5", "1e-320", "1e308", "1e999", "-0.0"),
        *("NaN", "Infinity", "-Infinity", str(2**31), str(2**63), str(-(2**63)), str(2**64), "1" * 400),
        *("1" * 5000, "[]", "{}", '""', '"text"', '"NaN"', '"1"', '"\\u0000"', '"\\ud800"', '"a\\nb"'),
        *('"../../x"', '"/dev/zero"', json.dumps("x" * 5000), "[1]", '["a"]', "[null]", "[[[]]]", '{"a": 1}'),
        *("[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000, "[1e9, 1e9]"),
    ]
)
"""Values that no setting expects, as JSON text: NaN, integers beyond any word, nests too deep to read."""


def examples(quick: int, long: int) -> settings:
    """How a fuzz test runs: so many inputs in `make test`, so many in `make fuzz`."""
    return settings(
        max_examples=max(quick, round(LONG * long)),
        derandomize=not LONG,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.filter_too_much,
            HealthCheck.large_base_example,
        ],
    )


@st.composite
def json_texts(draw, document) -> str:
    """The JSON text of a document with one to three values replaced, left out, renamed or doubled."""
    document = copy.deepcopy(document)
    fragments = []
    for _ in range(draw(st.integers(1, 3))):
        parents = [node for node in _nodes(document) if len(node)]
        if not parents:
            break
        parent = parents[draw(st.integers(0, len(parents) - 1))]
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        key = keys[draw(st.integers(0, len(keys) - 1))]
        match draw(st.sampled_from(["replace"] * 6 + ["leave out", "rename", "double"])):
            case "replace":
                parent[key] = f"{_MARK}{len(fragments)}."
                fragments.append(draw(json_fragments))
            case "leave out":
                del parent[key]
            case "rename" if isinstance(parent, dict):
                parent[draw(st.text(max_size=8))] = parent.pop(key)
            case _ if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[key]))
    text = json.dumps(document)
    for index, fragment in enumerate(fragments):
        text = text.replace(json.dumps(f"{_MARK}{index}."), fragment)
    return text


@st.composite
def spoilt_bytes(draw, content: bytes) -> bytes:
    """`content` with bits flipped, cut short, lengthened, or with a part overwritten, left out or doubled."""
    spoilt = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(spoilt) - 1)))
        end = at + draw(st.integers(0, 16))
        match draw(st.sampled_from(["flip", "cut", "insert", "overwrite", "leave out", "double", "zero"])):
            case "flip" if spoilt:
                spoilt[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del spoilt[at:]
            case "insert":
                spoilt[at:at] = draw(st.binary(min_size=1, max_size=16))
            case "overwrite":
                spoilt[at:end] = draw(st.binary(min_size=end - at, max_size=end - at))
            case "leave out":
                del spoilt[at:end]
            case "double":
                spoilt[at:at] = spoilt[at:end]
            case _:
                spoilt[at:end] = bytes(len(spoilt[at:end]))
    return bytes(spoilt)


class Hang(BaseException):
    """A call took too long, or too much memory.

    No `Exception`, so that no handler in the package takes it for a mistake.
    """


@contextlib.contextmanager
def bounded(seconds: float = 300.0, gigabytes: float | None = None):
    """What runs inside fails after so many seconds, or when it fills so much more memory.

    Looked at twice a second. Inside compiled code Python cannot interrupt: there the process ends, with all
    its traces, after three times as long. (A limit on the address space would be stricter, but the threads
    of Polars wait for ever under one.)
    """
    end, most = time.monotonic() + seconds, math.inf if gigabytes is None else gigabytes * 2**30 + _memory()

    def look(*_):
        if time.monotonic() > end:
            raise Hang(f"not done after {seconds} s")
        if _memory() > most:
            raise Hang(f"took more than {gigabytes} GB")

    before = signal.signal(signal.SIGALRM, look)
    faulthandler.dump_traceback_later(3 * seconds, exit=True, file=2)
    signal.setitimer(signal.ITIMER_REAL, min(seconds, 0.5), 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def _memory() -> int:
    """Bytes that this process has filled."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def refused(call, seconds: float = 300.0, gigabytes: float | None = None) -> str | None:
    """The one line with which a call is refused; None where it is not. Any other exception fails the test."""
    with bounded(seconds, gigabytes):
        try:
            call()
        except InputError as error:
            text = str(error)
            assert text and len(text.splitlines()) == 1, f"not one line: {text!r}"
            return text
    return None


def refused_command(capsys, *arguments, seconds: float = 300.0, gigabytes: float | None = None) -> str | None:
    """The same of a command: status 2 and one line on standard error, or status 0; None for 0."""
    capsys.readouterr()
    with bounded(seconds, gigabytes):
        status = command(*arguments)
    out, error = capsys.readouterr()
    assert status in (0, 2), f"status {status}: {error[-2000:]}"
    assert "Traceback" not in out + error
    if status == 0:
        return None
    assert error.startswith("rewardsmith: ") and error.endswith("\n") and error.count("\n") == 1, repr(error)
    return error.strip()


def digest(folder: Path) -> dict[str, str]:
    """What lies in a folder, by relative path: kind, mode and content. Equal where nothing was written."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        status = path.lstat()
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = f"{status.st_mode:o} {content}"
    return found


def _nodes(document):
    """Lists and dictionaries of a document, itself first."""
    if isinstance(document, dict | list):
        yield document
        for inner in document.values() if isinstance(document, dict) else document:
            yield from _nodes(inner)
