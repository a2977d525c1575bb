"""The site: every public name is in the reference, says what its arguments are, and its examples run."""

import doctest
import importlib
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from tests.api import NAMES, PACKAGE, ROOT, definition, load, rooms

DOCS = ROOT / "docs"
# What an annotation says of an argument that has a shape.
ARRAY = re.compile(r"\b(Array|ArrayLike|ndarray|NDArray|PyTree)\b")


@pytest.fixture(scope="module")
def package():
    """The package as the site reads it: from its source."""
    return load()


def referenced():
    pages = sorted((DOCS / "api").glob("*.md"))
    return [path for page in pages for path in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]


def test_every_public_name_is_in_the_reference_once(package):
    modules = [path for path in referenced() if package[path.removeprefix("rewardsmith.")].is_module]
    assert not modules, "these show a file: write FILE.NAME"
    listed = Counter(definition(package, path).path for path in referenced())
    public = {definition(package, path).path: path for path in NAMES}
    assert not [path for target, path in public.items() if target not in listed]
    assert not [target for target, times in listed.items() if times > 1]
    assert listed.keys() <= public.keys()


def test_the_face_is_listed(package):
    page = (DOCS / "api" / "index.md").read_text()
    linked = {definition(package, path).path for path in re.findall(r"\]\[(rewardsmith\.[\w.]+)\]", page)}
    face = [path for path in NAMES if path.count(".") == 1]
    assert not [path for path in face if definition(package, path).path not in linked]


@pytest.mark.parametrize("room", sorted(dict(rooms())))
def test_public_names_say_what_they_take(package, room):
    for path in [f"{room}.{name}" for name in dict(rooms())[room]]:
        found = definition(package, path)
        assert found.docstring is not None, f"{found.path} has no docstring"
        missing = {argument.name for argument in arrays(found)} - described(package, found)
        assert not missing, f"the docstring of {found.path} leaves out {missing}"


def arrays(found):
    """Arguments that have a shape: of a function, or of what makes a class."""
    signature = found if found.is_function else found.members.get("__init__")
    arguments = () if signature is None or not hasattr(signature, "parameters") else signature.parameters
    return [argument for argument in arguments if ARRAY.search(str(argument.annotation))]


def described(package, found):
    """Names told of under Args or Attributes, by their own docstring, or where the docstring sends to."""
    told = re.findall(r"^    (\w+):", found.docstring.value, re.MULTILINE)
    members = found.members.items() if found.is_class else ()
    names = {*told, *(name for name, member in members if member.docstring is not None)}
    for other in re.findall(r"rguments[^.]* those of\s+`(\w+)`", found.docstring.value):
        path = next(path for path in NAMES if path.endswith(f".{other}"))
        names |= described(package, definition(package, path))
    return names


# ---- examples in docstrings ---------------------------------------------------------------------

WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_doctests(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted and not result.failed


# ---- the site -----------------------------------------------------------------------------------


def test_site_builds_without_warnings_and_needs_nothing_from_elsewhere(tmp_path):
    # Without --quiet, which would keep warnings from being counted.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    page = re.compile(
        r"<(?:script|img|iframe|source)[^>]* src=\"?(?:https?:)?//|<link[^>]* href=\"?https?://"
    )
    assert not [path.name for path in tmp_path.rglob("*.html") if page.search(path.read_text())]
    # Links out of docs/ lead to pages of the source.
    method = (tmp_path / "methods" / "sobirl.html").read_text()
    assert 'href="../source/rewardsmith/bilevel/sampled/sobirl.py.html"' in method
    assert "class" in (tmp_path / "source/rewardsmith/bilevel/sampled/sobirl.py.html").read_text()
    # Arguments of Equinox modules, which have no __init__, are read all the same.
    reference = re.sub(r"<[^>]+>", "", (tmp_path / "api" / "sampled.html").read_text())
    assert re.search(r"SoBiRL\(\s*optimiser: GradientTransformation,\s*estimator: Estimator = S", reference)
