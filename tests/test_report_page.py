"""The report as a page: in a real browser it needs nothing and says everything; of several runs it ranks."""

import base64
import contextlib
import dataclasses
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from rewardsmith._core import InputError
from rewardsmith.runs.audit.record import Disagreement, write_audit
from rewardsmith.runs.finish import film_run
from rewardsmith.runs.ranking.collect import collect, labels_of
from rewardsmith.runs.ranking.curves import curves_of
from rewardsmith.runs.ranking.rank import ALL
from rewardsmith.runs.report import write_report
from rewardsmith.runs.report_many import report
from rewardsmith.runs.statistics import iqm_curve, stratified_iqm
from tests.commands import command
from tests.line_walk import audited_pendulum
from tests.made_up import made_up_audit
from tests.test_plot_report import HOSTILE, Page, make_run

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
SECTIONS = [
    "The policy at work",
    "Learning",
    "Is the learned reward any good?",
    "Where learned and true reward disagree most",
    "How it learned",
    "Settings",
]
FIGURES = [
    "Learned and true return",
    "Held-out accuracy along the run",
    "Calibration",
    "Learned against true reward",
    "Distance to the true reward",
]


def audited(path, films=(), **more):
    """A made-up run with a made-up audit of its newest checkpoint."""
    folder = make_run(path, **more)
    checkpoint = folder / "checkpoints" / "step_000002000.safetensors"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    audit = made_up_audit(hacked=more.get("seed") == 1)
    assert audit.reward is not None
    audit = dataclasses.replace(audit, reward=dataclasses.replace(audit.reward, films=films))
    write_audit(folder / "audit.json", audit)
    return folder


def test_a_page_embeds_no_file_but_the_runs_own_films(tmp_path):
    """audit.json may be somebody else's, and a page is passed on."""
    (tmp_path / "secret").write_bytes(b"a secret")
    names = ("over_own.mp4", "../../secret", str(tmp_path / "secret"), "over_link.mp4", "..", "")
    films = tuple(Disagreement(name, 2.0, -2.0, 1.0, 2000, 0) for name in names)
    folder = audited(tmp_path / "run", films)
    (folder / "audit").mkdir()
    (folder / "audit" / "over_own.mp4").write_bytes(b"a film")
    (folder / "audit" / "over_link.mp4").symlink_to(tmp_path / "secret")
    page = write_report(folder).read_text()
    assert base64.b64encode(b"a film").decode() in page
    assert base64.b64encode(b"a secret").decode() not in page


# --- several runs


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Runs of two kinds in two environments, three seeds each, and an unfinished one."""
    place = tmp_path_factory.mktemp("several")
    for env in ("Hopper-v5", "HalfCheetah-v5"):
        for seed in range(3):
            for method, lift in (("sobirl", 500.0), ("drlhf", 0.0)):
                own = {"seed": seed, "env": env, "method": method, "comparisons": 20 + (method == "drlhf")}
                folder = audited(place / f"{env}-{method}-{seed}", **own)
                if lift:
                    (folder / "eval.json").write_text(json.dumps({"step": 2000, "mean": lift + seed}))
    make_run(place / "short", points=2, seed=9)
    return place


@pytest.fixture
def tables_only(monkeypatch):
    """Without the figures of each run, which take their time."""
    monkeypatch.setattr("rewardsmith.runs.report_many._WHOLE", 5)


def page_of(place, **more):
    return Page(report([place], **more).read_text(encoding="utf-8"))


def test_several_runs_have_curves_a_ranking_audits_and_what_tells_them_apart(several, tables_only):
    path = report([several], quick=True)
    assert path == several / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    first = {row[0] for row in page.rows}
    assert {"sobirl comparisons=20", "drlhf comparisons=21"} <= first
    assert "12 runs · 2 kinds" in page.text and "left out" in page.text and "unfinished" in page.text
    header = ["that differ", "method", "comparisons"]
    assert header in page.rows
    assert ["drlhf comparisons=21", "drlhf", "21"] in page.rows
    for text in ("HalfCheetah-v5", "Hopper-v5", ALL, "P(best is better)", "the best", "interquartile mean"):
        assert text in page.text, text
    audits = [row for row in page.rows if row[0].startswith("Hopper-v5-sobirl")]
    assert len(audits) == 3 and all(
        row[1] == "Hopper-v5" and row[5] == "80.0% [70.0%, 90.0%]" for row in audits
    )
    assert [row[-1] for row in audits] == ["0", "1", "0"], "the reward of seed 1 is hacked"


def test_many_runs_are_one_table_without_each_page(several, tables_only):
    page = page_of(several, quick=True)
    assert "With more than 5 runs, see the page of each." in page.text
    assert page.tags.count("svg") == 3, "two environments and all of them"


def test_the_page_of_several_lies_where_it_is_asked_to_or_beside_them(several, tables_only, tmp_path):
    runs = sorted(several.glob("Hopper-v5-*"))
    assert report(runs, quick=True) == several / "report.html"
    assert report(runs, tmp_path / "page.html", quick=True) == tmp_path / "page.html"
    alone = report([runs[0]], quick=True)
    assert alone == runs[0] / "report.html" and "Is the learned reward" in alone.read_text()
    assert report([runs[0]], tmp_path / "one.html", quick=True) == tmp_path / "one.html"


def test_unfinished_runs_are_shown_where_there_are_no_others(several, tmp_path):
    (tmp_path / "a").mkdir()
    shutil.copytree(several / "short", tmp_path / "a" / "short")
    make_run(tmp_path / "a" / "other", points=3, seed=4)
    assert "2 runs · 1 kinds" in page_of(tmp_path / "a", quick=True).text


def test_curves_are_interquartile_means_with_runs_drawn_within_environments(several):
    runs, _ = collect([several])
    curves = curves_of(runs, labels_of(runs))
    assert list(curves) == ["HalfCheetah-v5", "Hopper-v5", ALL]
    (curve, _) = curves["Hopper-v5"]
    own = np.array([run.returns for run in runs if run.env == "Hopper-v5" and "drlhf" in run.path.name])
    np.testing.assert_allclose(curve.value, own.mean(axis=0), atol=1e-9)  # of three nothing is cut
    assert curve.low is not None and (curve.low <= curve.value).all()
    (overall, _) = curves[ALL]
    assert overall.runs == 6 and overall.x[[0, -1]] == pytest.approx([0, 1])
    assert overall.value.min() > -0.1 and overall.value.max() < 1.1


def test_the_interval_of_a_curve_is_that_of_its_points():
    rng = np.random.default_rng(0)
    strata = [rng.normal(size=(8, 3)), rng.normal(1.0, 2.0, size=(5, 3))]
    value, low, high = iqm_curve(strata)
    assert low is not None and high is not None
    for point in range(3):
        one = stratified_iqm([stratum[:, point] for stratum in strata])
        assert one.low is not None and one.high is not None
        np.testing.assert_allclose(value[point], one.value)
        np.testing.assert_allclose([low[point], high[point]], [one.low, one.high], atol=0.12)
    assert iqm_curve([strata[0][:2]])[1] is None


def test_hostile_names_of_runs_and_settings_are_shown_and_not_obeyed(tmp_path):
    everything = " ".join(HOSTILE)
    for seed in range(2):
        audited(tmp_path / everything.replace("/", "") / str(seed), env=everything, seed=seed)
    page = page_of(tmp_path, quick=True)
    assert page.text.count(everything) >= 4
    assert not {"script", "img"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("report", "no runs to report"),
        ("report nowhere", "no run at nowhere"),
        ("report nowhere elsewhere", "no run at nowhere"),
        ("report .", "is no run folder"),
        ("report . --quick --again", "give one of them"),
        ("report . --seed x", "x"),
    ],
)
def test_a_mistake_is_one_line(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(*arguments.split()) == 2
    told = capsys.readouterr()
    assert says in told.err and told.err.count("\n") == 1 and told.out == ""
    assert list(tmp_path.iterdir()) == []


# --- the audit on the page of one run


def test_an_audit_is_shown_with_its_warnings_instead_of_plainer_ones(tmp_path):
    path = audited(tmp_path / "run", seed=1)
    (path / "warnings.json").write_text(json.dumps(["Something else."]))
    page = Page(write_report(path).read_text())
    assert "Reward hacking" in page.text and "Something else." in page.text
    for title in FIGURES:
        assert title in page.text, title
    assert "none were made" in page.text
    assert ["newest policy", "90", "0.50", "0.40", "10", "0.90", "–"] in page.rows
    fine = Page(write_report(audited(tmp_path / "fine", seed=2)).read_text())
    assert "Reward hacking" not in fine.text


def test_a_damaged_audit_is_one_line(tmp_path):
    path = audited(tmp_path / "run")
    (path / "audit.json").write_text("{")
    with pytest.raises(InputError, match="damaged: delete it"):
        write_report(path)


# --- in a browser


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The report of a real run: trained, filmed and audited."""
    path = shutil.copytree(audited_pendulum().path, tmp_path_factory.mktemp("real") / "run")
    film_run(path, 0)
    return report([path], quick=True)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists() and os.environ.get("CI") != "true":
        pytest.skip("no chromium here: apt-get install chromium")
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if root else [])
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, path, width=1180, **options):
    """The page in a window; nothing may complain, and nothing but the page itself may be asked for."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    page, complaints, asked = context.new_page(), [], []
    page.set_default_timeout(20_000)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.resolve().as_uri())
    yield page
    context.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith("data:")] == [path.resolve().as_uri()]


def wait(page, condition, seconds=30.0):
    # Playwright's own waiting evaluates text, which the page does not allow.
    until = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < until, condition
        page.wait_for_timeout(50)


def test_the_page_of_a_run_opens_from_a_file_and_its_films_play(real, browser):
    with opened(browser, real) as page:
        assert page.eval_on_selector_all("h2", "all => all.map(one => one.textContent)") == SECTIONS
        titles = page.eval_on_selector_all("figure h3", "all => all.map(one => one.textContent)")
        assert set(FIGURES) <= set(titles) and "Hyper-gradient" in titles
        links = page.eval_on_selector_all(
            "nav a", "all => all.map(one => document.querySelector(one.getAttribute('href')) !== null)"
        )
        assert len(links) == len(SECTIONS) and all(links)
        videos = page.locator("video").count()
        assert videos >= 3
        wait(page, "[...document.querySelectorAll('video')].every(one => one.readyState >= 2)")
        page.locator("video").nth(1).scroll_into_view_if_needed()
        wait(page, "document.querySelectorAll('video')[1].currentTime > 0")
        nameless = "all => all.filter(one => !one.getAttribute('aria-label')).length"
        assert page.eval_on_selector_all("video, svg", nameless) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_either_scheme(real, browser, scheme):
    with opened(browser, real, width=400, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        colours = "getComputedStyle(document.body)"
        dark = page.evaluate(f"{colours}.backgroundColor") == "rgb(18, 22, 28)"
        assert dark == (scheme == "dark")
        assert page.evaluate("document.querySelector('svg').getBoundingClientRect().width") > 300


def test_the_page_of_several_runs_unfolds(tmp_path, browser):
    for seed in range(2):
        audited(tmp_path / str(seed), seed=seed)
    path = report([tmp_path], quick=True)
    found = Page(path.read_text())
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids)), "figures of two runs share no id"
    with opened(browser, path, width=400) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        hidden = page.locator("details section").first
        assert not hidden.is_visible()
        page.locator("summary").nth(1).click()
        assert hidden.is_visible() and hidden.locator("svg").count() >= len(FIGURES)
