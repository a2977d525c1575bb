"""The documents of the exact world: every name, method, problem and setting has its place, as it is."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

import rewardsmith as rs
from rewardsmith.bilevel import Method
from rewardsmith.problems import TASKS
from rewardsmith.problems.task import Task
from rewardsmith.runs.exact.config import EXACT_METHODS, SolveConfig
from rewardsmith.runs.exact.records import SCHEMA

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Page of each exact method, and the class it is of; the two penalties share one.
METHODS = {
    "implicit-gradient": rs.ImplicitGradient,
    "unrolled-gradient": rs.UnrolledGradient,
    "m-sobirl": rs.MSoBiRL,
    "parl": rs.PARL,
    "pbrl": rs.PBRL,
    "hpgd": rs.HPGD,
    "bc-hg": rs.BCHG,
    "amd": rs.AMD,
    "zeroth-order": rs.ZerothOrder,
}


def text_of(page):
    return (DOCS / page).read_text()


def rows(text, header):
    """Cells of every table under a header line that starts so."""
    found, inside = [], False
    for line in text.splitlines():
        if inside and line.startswith("|"):
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        inside = line.startswith(header) or (inside and line.startswith("|"))
    return [row for row in found if not set(row[0]) <= set("-")]


def told(value):
    """A default as the pages write it."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, jax.Array | np.ndarray):
        return str(float(value))
    return str(value)


# ---- names --------------------------------------------------------------------------------------


def public_names():
    tree = ast.parse((ROOT / "rewardsmith" / "__init__.py").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return [alias.asname for node in imports for alias in node.names if alias.asname]


def test_every_public_name_is_told():
    text, names = text_of("api/index.md") + text_of("exact.md"), public_names()
    assert len(names) > 30
    missing = [name for name in names if not re.search(rf"`(rs\.)?{name}\b", text)]
    assert not missing


# ---- methods ------------------------------------------------------------------------------------


def test_every_method_has_a_page():
    public = [getattr(rs, name) for name in public_names()]
    classes = {
        one for one in public if inspect.isclass(one) and issubclass(one, Method) and one is not Method
    }
    assert classes == set(METHODS.values())
    assert {name.removesuffix("-value").removesuffix("-bellman") for name in EXACT_METHODS} == set(METHODS)
    for name in EXACT_METHODS:
        page = name.removesuffix("-value").removesuffix("-bellman")
        assert f"`--method {name}`" in text_of(f"methods/{page}.md")
        assert f"`{name}`" in text_of("solve.md")
        for guide in ("choosing.md", "index.md", "solve.md"):
            assert f"(methods/{page}.md)" in text_of(guide), guide


@pytest.mark.parametrize("page", METHODS)
def test_a_method_page_is_whole(page):
    text = text_of(f"methods/{page}.md")
    for heading in ("Equation", "Settings", "Cost of a step", "Departures", "Example"):
        assert f"\n## {heading}\n" in text, heading
    assert re.search(r"\*\*Sources?\.\*\*", text) and "```python" in text and "\nrewardsmith " in text


@pytest.mark.parametrize("page", METHODS)
def test_every_argument_of_a_method_is_told_with_its_default(page):
    described = {row[0].strip("`"): row[1] for row in rows(text_of(f"methods/{page}.md"), "| argument |")}
    parameters = inspect.signature(METHODS[page]).parameters
    actual = {field.name: field.default for field in dataclasses.fields(METHODS[page])}
    assert described.keys() == actual.keys() == parameters.keys()
    for name, default in actual.items():
        if default is dataclasses.MISSING:
            assert described[name] == "required"
        elif name == "optimiser":
            assert described[name] == "sgd(1.0)"
        elif isinstance(default, eqx.Module):
            assert described[name] == f"{type(default).__name__}()"
        else:
            assert described[name] == told(default), name


# ---- problems -----------------------------------------------------------------------------------


def test_every_problem_is_in_the_index():
    assert set(re.findall(r"\]\(([\w-]+)\.md\)", text_of("problems/index.md"))) == set(TASKS)
    names = [
        re.findall(r"`(\w+)`", row[0]) for row in rows(text_of("problems/index.md"), "| field of `Task`")
    ]
    assert sorted(sum(names, [])) == sorted(field.name for field in dataclasses.fields(Task))


@pytest.mark.parametrize("name", TASKS)
def test_every_problem_has_a_page_with_a_picture_and_its_options(name):
    text = text_of(f"problems/{name}.md")
    assert f"](../images/problems/{name}.png)" in text and f"\nrewardsmith solve {name}" in text
    assert re.search(r"\*\*Sources?\.\*\*", text) and "**Departures:**" in text
    for who in ("leader", "follower"):
        assert re.search(rf"\*\*the\s{who}\*\*", text, re.IGNORECASE)
    picture = DOCS / "images" / "problems" / f"{name}.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size < 200_000
    described = {row[0].strip("`"): row[1] for row in rows(text, "| option |")}
    options = inspect.signature(TASKS[name]).parameters
    assert described == {option: told(one.default) for option, one in options.items()}


def test_the_commands_of_the_pictures_are_those_of_the_pages():
    from benchmarks.pictures import PICTURES

    assert PICTURES.keys() == {*TASKS, "methods"}
    for name in TASKS:
        assert f"\nrewardsmith {PICTURES[name][1]}\n" in text_of(f"problems/{name}.md")
    assert f"`rewardsmith {PICTURES['methods'][1]}`" in text_of("choosing.md")


# ---- the command --------------------------------------------------------------------------------


def test_every_setting_of_solve_is_told_with_its_default():
    described = {row[0].strip("`"): row[1] for row in rows(text_of("solve.md"), "| setting |")}
    actual = {"PROBLEM": "required"}
    for field in dataclasses.fields(SolveConfig):
        if field.name != "problem":
            default = "none" if field.default in (None, ()) else str(field.default)
            actual[f"--{field.name.replace('_', '-')}"] = default
    assert described == actual


def test_every_column_of_the_measurements_is_told():
    cells = [row[0] for row in rows(text_of("solve.md"), "| column |")]
    names = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(names) == sorted(SCHEMA)
    assert any(cell.startswith("`outcome_") for cell in cells)
