"""Every public name tells what it is, what it takes, its shapes, units, errors and source."""

import ast
import re
import textwrap

import griffe
import pytest

from tests.api import ROOT, load, made_by, members, parameters, public

# Told once, in docs/api/index.md; for methods only.
EVERYWHERE = {"x", "problem", "state", "key", "rng", "observation", "observations", "action", "actions"}
# Of these every one stands in a paper, but for our own, which docs/estimators.md derives.
FROM_PAPERS = {"Method", "Leader", "Estimator", "Regulariser", "PreferenceModel"}
OURS = {"Suffix", "Branch"}
ABSTRACT = {"ScoreModel"}

SECTIONS = re.compile(r"^(?:Args|Attributes):\n((?: .*\n?|\n)+)", re.MULTILINE)
ENTRY = r"^    (?:\w+, )*\*{{0,2}}{name}(?:, \w+)*:(.*(?:\n {{5,}}.*)*)"
# Arguments that another class has told of.
OTHERS = re.compile(r"rguments[^.]* those of\s+`(\w+)`")
ARRAY = re.compile(r"\b(Array|ArrayLike|ndarray|NDArray)\b")
SHAPED = re.compile(r"\b(Float|Int|UInt8|Bool|Num|Shaped|Key|PRNGKeyArray)\b")
SHAPE = re.compile(r"\([^()]*\)|\bnumbers?\b|\bshapes?\b|\bone a \w+|\bany\b|\beach\b")
CITATION = re.compile(r"arXiv \d{4}\.\d{4,5}|\b(?:19|20)\d\d\b")
UNITS = {
    r"^temperature$": r"reward",
    r"discount": r"step|γ",
    r"horizon|length|further": r"step|action|window",
}


@pytest.fixture(scope="module")
def package():
    return load()


@pytest.fixture(scope="module")
def told(package):
    """(name, object, is it a method) of every public name and method that has a text of its own."""
    seen = {}
    for found, (name, *_) in public(package):
        if found.is_class or found.is_function:
            seen[found.path] = (name, found, False)
        for member, value in members(found) if found.is_class else ():
            if value.is_function:
                seen.setdefault(value.path, (f"{name}.{member}", value, True))
    return list(seen.values())


def text(found):
    """What it says itself; nothing where it only sends to what it fills in."""
    said = "" if found.docstring is None else found.docstring.value
    return "" if said.startswith("See `") else said


def entry(package, found, name):
    """What is said of one argument, by the object, its fields, its bases, or whom it names."""
    for section in SECTIONS.findall(text(found)):
        if match := re.search(ENTRY.format(name=re.escape(name)), section, re.MULTILINE):
            return match[1]
    if found.is_class:
        field = found.members.get(name)
        if field is not None and field.docstring is not None:
            return field.docstring.value
        for base in found.mro():
            if said := entry(package, base, name):
                return said
    for other in OTHERS.findall(text(found)):
        if said := entry(package, named(package, other), name):
            return said
    return None


def named(package, name):
    return next(found for found, names in public(package) if names[0].rpartition(".")[2] == name)


def arguments(told):
    """(object, argument, is it a method's) of all that a caller gives, but where another method tells it."""
    for _, found, method in told:
        made = made_by(found) if found.is_class else found
        if text(found) and made is not None:
            yield from ((found, one, method) for one in parameters(made) if not one.name.startswith("_"))


def test_every_name_and_method_has_a_docstring(package, told):
    assert not [name for name, found, _ in told if found.docstring is None]
    properties = {
        f"{name}.{member}": value
        for found, (name, *_) in public(package)
        if found.is_class
        for member, value in members(found)
        if "property" in value.labels
    }
    assert not [name for name, value in properties.items() if value.docstring is None]


def test_every_argument_is_told(package, told):
    silent = []
    for found, argument, method in arguments(told):
        said = entry(package, found, argument.name) is not None
        mentioned = argument.name in EVERYWHERE or re.search(rf"\b{argument.name}\b", text(found))
        if not said and not (method and mentioned):
            silent.append(f"{found.path}: {argument.name}")
    assert not silent


def test_what_is_the_same_everywhere_is_told_once():
    page = (ROOT / "docs" / "api" / "index.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \| (?!`)", page, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} >= EVERYWHERE


def test_arrays_tell_their_shapes(package, told):
    """In the annotation, or in words."""
    shapeless = []
    for found, argument, _ in arguments(told):
        annotation, said = str(argument.annotation), entry(package, found, argument.name)
        bare = ARRAY.search(annotation) and not SHAPED.search(annotation) and "Callable" not in annotation
        if bare and said is not None and not SHAPE.search(said):
            shapeless.append(f"{found.path}: {argument.name}")
    assert not shapeless


def test_arrays_that_come_back_tell_their_shapes(told):
    shapeless = []
    for _, found, _ in told:
        result = str(found.returns) if found.is_function else ""
        # What goes by name tells its shapes where it is read.
        result = "" if result.startswith("dict[") else result
        if (
            ARRAY.search(result)
            and not SHAPED.search(result)
            and text(found)
            and not SHAPE.search(text(found))
        ):
            shapeless.append(found.path)
    assert not shapeless


@pytest.mark.parametrize("name", UNITS)
def test_quantities_tell_their_units(package, told, name):
    unitless = []
    for found, argument, _ in arguments(told):
        said = entry(package, found, argument.name)
        if re.search(name, argument.name) and said is not None and not re.search(UNITS[name], said):
            unitless.append(f"{found.path}: {argument.name}")
    assert not unitless


def refuses(function):
    """Whether its own body raises InputError."""
    body = ast.walk(ast.parse(textwrap.dedent(function.source)))
    return any(isinstance(node, ast.Raise) and "InputError" in ast.unparse(node) for node in body)


def test_errors_are_told(told):
    silent = []
    for _, found, _ in told:
        births = [found.members.get(name) for name in ("__init__", "__post_init__", "__check_init__")]
        functions = (
            [found] if found.is_function else [one for one in births if one is not None and one.lineno]
        )
        if text(found) and any(map(refuses, functions)) and not re.search("InputError|errors", text(found)):
            silent.append(found.path)
    assert not silent


def test_methods_and_estimators_cite_their_source(package):
    page = (ROOT / "docs" / "estimators.md").read_text()
    unsourced = []
    for found, names in public(package):
        name = names[0].rpartition(".")[2]
        if found.is_class and FROM_PAPERS & {base.name for base in found.mro()} and name not in ABSTRACT:
            if not CITATION.search(text(found)) and name not in OURS:
                unsourced.append(found.path)
    assert not unsourced
    assert all(f"## `{name.lower()}`" in page for name in OURS)


def test_the_rules_can_fail(tmp_path):
    """On a class and a function that break each."""
    (tmp_path / "made_up.py").write_text(
        textwrap.dedent(
            '''
            class Bad:
                """Says nothing."""

                def __init__(self, table: ArrayLike, horizon: int):
                    if horizon < 1:
                        raise InputError("no")


            def good(table: ArrayLike) -> Array:
                """Twice.

                Args:
                    table: (S, A).

                Raises:
                    InputError: never.
                """
            '''
        )
    )
    made_up = griffe.load("made_up", search_paths=[str(tmp_path)])
    both = [("bad", made_up["Bad"], False), ("good", made_up["good"], False)]
    missing = [one.name for found, one, _ in arguments(both) if entry(made_up, found, one.name) is None]
    assert missing == ["table", "horizon"]
    assert refuses(made_up["Bad"].members["__init__"]) and not refuses(made_up["good"])
    for rule in (test_errors_are_told, lambda told: test_every_argument_is_told(made_up, told)):
        with pytest.raises(AssertionError):
            rule(both)
        rule(both[1:])
