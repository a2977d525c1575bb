"""The documents: examples run, links lead somewhere, and what they say of the code is so."""

import ast
import dataclasses
import itertools
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import rewardsmith as rs
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.metrics import SCHEMA

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rewardsmith"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
TRAINING = (ROOT / "docs" / "training.md").read_text()


def examples(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def rows(page, header):
    """Cells of the table under the header line that starts so."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(header))
    body = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


def name_of(page):
    return str(page.relative_to(ROOT))


# ---- examples and links -------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=name_of)
def test_examples_run(page, tmp_path, monkeypatch):
    """The examples of one page follow on one another."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "example"}
    for example in examples(page):
        exec(compile(example, str(page), "exec"), namespace)


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{name_of(page)} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(linked), f"{name_of(page)} links to {target}: no such heading"


# ---- what they say of the code ------------------------------------------------------------------


def test_every_setting_is_described_with_its_default():
    described = {row[0]: row[1] for row in _setting_rows()}
    fields = dataclasses.fields(TrainConfig)
    actual = {f"`--{field.name.replace('_', '-')}`": field.default for field in fields}
    assert described.keys() == actual.keys()
    for flag, default in actual.items():
        text = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        assert described[flag] == text.replace("None", "none"), flag


def _setting_rows():
    lines = [line for line in TRAINING.splitlines() if line.startswith("| `--")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if len(row) == 3]


def test_every_column_of_the_metrics_is_described():
    described = [name for row in rows("training.md", "| column |") for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(described) == sorted(SCHEMA)


def test_the_table_of_readers_is_the_whole_list():
    described = {(row[0].strip("`"), row[1].strip("`")) for row in rows("true-reward.md", "| reader |")}
    actual = set()
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "_core" / "true_reward.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "TrueRewardReader":
                actual.add((node.attr, str(path.relative_to(PACKAGE))))
    assert described == actual


def test_rooms_import_what_their_row_allows():
    allowed = {
        row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in rows("design.md", "| room |")
    }
    here = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert allowed.keys() == {name for name in here if name == "_core" or not name.startswith("__")}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in allowed:
            excess = _imported(path) - allowed[room] - {room}
            assert not excess, f"{path} imports {excess}: not in the row of docs/design.md"


def _imported(path):
    """Names of the rooms that a module imports."""
    package = ["rewardsmith", *path.relative_to(PACKAGE).parts[:-1]]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [f"{module}.{alias.name}" for alias in node.names] if module else []
    parts = [name.split(".") for name in found]
    return {part[1] for part in parts if part[0] == "rewardsmith" and len(part) > 1}


RECORDS = ("clips", "comparisons", "schedule", "selection", "teachers")


def test_environments_and_records_are_free_of_jax():
    records = [PACKAGE / "preferences" / f"{name}.py" for name in RECORDS]
    for path in [*(PACKAGE / "envs").glob("*.py"), *records]:
        assert not re.search(r"^\s*(import|from) (jax|equinox|optax)", path.read_text(), re.MULTILINE), path


# ---- the numbers of docs/estimators.md, by enumeration ------------------------------------------


def test_the_biases_of_the_estimators_are_what_the_page_says():
    case = np.load(ROOT / "tests" / "reference" / "preference_clip.npz")
    P, rho, tau, gamma = case["P"], case["rho"], float(case["tau"]), float(case["gamma"])
    slope, reward, true = case["B"], case["B"] @ case["x"], case["rtrue"]
    with jax.enable_x64(True):
        policy = np.asarray(rs.solve_follower(rs.MDP(P, rho, gamma), reward, tau).policy)
    moves = np.einsum("sa,sat->st", policy, P)
    dV = np.linalg.solve(np.eye(3) - gamma * moves, np.einsum("sa,san->sn", policy, slope))
    dQ = slope + gamma * np.einsum("sat,tn->san", P, dV)

    s, a, t, b = np.indices((3, 2, 3, 2)).reshape(4, -1)  # all clips (s, a), (t, b)
    p = rho[s] * policy[s, a] * P[s, a, t] * policy[t, b]
    returns, wanted = reward[s, a] + reward[t, b], true[s, a] + true[t, b]
    label = 1 / (1 + np.exp(-np.subtract.outer(wanted, wanted)))
    gap = np.subtract.outer(returns, returns)
    loss = label * np.logaddexp(0, -gap) + (1 - label) * np.logaddexp(0, gap)
    # E[l | clip] for a clip in either place.
    given = [loss @ p, p @ loss]

    def term(weigh, at_first, at_second):
        """(1/τ) Σ over both places of E[w_0 G(step 0) + w_1 G(step 1)]."""
        total = 0.0
        for losses in given:
            weighted = weigh(losses, s)[:, None] * at_first + weigh(losses, t)[:, None] * at_second
            total = total + p @ weighted
        return total / tau

    def plain(losses, states):
        del states
        return losses

    def less_baseline(losses, states):
        mean = np.bincount(states, p * losses) / np.bincount(states, p)
        return losses - mean[states]

    def error(estimate, exact):
        return np.linalg.norm(estimate - exact) / np.linalg.norm(exact)

    second = case["hypergradient"] - case["first"]
    advantage = dQ - dV[:, None]
    np.testing.assert_allclose(term(plain, advantage[s, a], advantage[t, b]), second, atol=1e-9)
    # ∇V may go when b_h(s_h) = E[l | s_h], and only then.
    np.testing.assert_allclose(term(less_baseline, dQ[s, a], dQ[t, b]), second, atol=1e-9)
    assert error(term(plain, dQ[s, a], dQ[t, b]), second) > 10

    now = slope - np.einsum("sa,san->sn", policy, slope)[:, None]
    one_step = term(plain, now[s, a], now[t, b])
    # The rewards along the same trajectory; behind the clip their mean will do.
    product = term(less_baseline, slope[s, a] + gamma * dQ[t, b], dQ[t, b])
    page = (ROOT / "docs" / "estimators.md").read_text().replace("\n", " ")
    whole = case["hypergradient"]
    errors = [error(case["first"], whole), error(case["first"] + one_step, whole)]
    parts = [error(one_step, second), error(product, second)]
    assert "{:.2f} without a second term and {:.2f}".format(*errors) in page
    assert "misses {:.2f} and the plain product {:.2f}".format(*parts) in page
