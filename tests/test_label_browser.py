"""The page in a real browser: films play together, fifty answers by keyboard, nothing is lost."""

import os
import shutil
import statistics
import time
from pathlib import Path

import httpx
import pytest
from label_server import Person, add_clips, film_clips, people, serving

from rewardsmith.label.dashboard import standing
from rewardsmith.preferences.store import Answer, Store

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
if not Path(CHROMIUM).exists() and os.environ.get("CI") != "true":
    pytest.skip("no chromium here: apt-get install chromium", allow_module_level=True)

KEYS = dict(zip(["ArrowLeft", "ArrowRight", "ArrowDown", " "], Answer, strict=True))
SHOWN = "document.querySelector('.pair.shown')"


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return film_clips(tmp_path_factory.mktemp("films"))


@pytest.fixture(scope="module")
def browser():
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if root else [])
        yield browser
        browser.close()


def asked(folder, films):
    """A store with questions on real films."""
    store = Store.open(folder)
    clips = add_clips(store, films, 12)
    store.ask([(a, b) for a in clips for b in clips if a != b][:80])
    return store


@pytest.fixture
def store(tmp_path, films):
    with asked(tmp_path / "store", films) as store:
        yield store


@pytest.fixture(scope="module")
def shared(tmp_path_factory, films):
    """A server and its store, for tests that do not mind one another."""
    folder = tmp_path_factory.mktemp("shared")
    with asked(folder, films) as store, serving(folder) as server:
        yield server, store


@pytest.fixture
def server(store, tmp_path):
    with serving(tmp_path / "store") as server:
        yield server


@pytest.fixture
def window(browser):
    """Opens pages of one person; afterwards none of them may have complained."""
    contexts, complaints = [], []

    def open_window(**options):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        context.set_default_timeout(20_000)
        context.on("console", lambda message: complaints.append((message.type, message.text)))
        context.on("weberror", lambda error: complaints.append(("error", str(error.error))))
        contexts.append(context)
        return context

    yield open_window
    for context in contexts:
        context.close()
    # Chromium itself notes each request that failed; some are cut off here, and some made signed out.
    failed = "Failed to load resource: "
    expected = (f"{failed}net::", f"{failed}the server responded with a status of 401")
    assert [one for one in complaints if not one[1].startswith(expected)] == []


def question(page):
    return page.evaluate(f"Number({SHOWN}?.dataset.question)")


def next_pair(page, *seen):
    """Wait for a pair on the screen that is none of `seen`; its question."""
    page.wait_for_function(
        f"seen => {SHOWN} && !seen.includes(Number({SHOWN}.dataset.question))", arg=list(seen), polling=10
    )
    return question(page)


def start(context, server):
    page = context.new_page()
    page.goto(f"{server.url}/#{server.token}")
    return page, next_pair(page)


def wait(condition, seconds=20.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def given(store):
    return {record.question: record.answer for record in standing(store.records())}


def places(page):
    return page.evaluate(f"[...{SHOWN}.querySelectorAll('video')].map(video => video.currentTime)")


def test_fifty_answers_by_keyboard(window, server, store, capsys):
    page, shown = start(window(), server)
    assert page.evaluate("location.hash") == "" and server.token not in page.content()
    _films_play_together(page)
    said = {}
    for index in range(50):
        key = list(KEYS)[index * 7 % 4]
        page.keyboard.press(key)
        said[shown] = KEYS[key]
        shown = next_pair(page, *said)
    wait(lambda: given(store) == said)
    assert len(store.records()) == 50
    assert store.records()[0].response_seconds is not None
    assert "50 of 80 answered" in page.inner_text("#progress")
    durations = page.evaluate("performance.getEntriesByName('next pair').map(entry => entry.duration)")
    assert len(durations) == 50
    with capsys.disabled():
        print(f"\nanswer to next pair: median {statistics.median(durations):.0f} ms of {len(durations)}")

    # Undo twice: the last two pairs come back, and are answered anew.
    last, before = list(said)[-1], list(said)[-2]
    page.keyboard.press("z")
    assert next_pair(page, shown) == last
    page.keyboard.press("Z")
    assert next_pair(page, shown, last) == before
    wait(lambda: before not in given(store) and last not in given(store))
    for one in (before, last):
        assert question(page) == one
        page.keyboard.press("ArrowLeft")
        said[one] = Answer.LEFT
        next_pair(page, one)
    wait(lambda: given(store) == said)
    assert len(store.records()) == 54


def _films_play_together(page):
    page.wait_for_function(
        f"() => [...{SHOWN}.querySelectorAll('video')].every(video => video.currentTime > 0.1)"
    )
    apart = []
    for _ in range(10):
        first, second = places(page)
        apart.append(abs(first - second))
        page.wait_for_timeout(60)
    assert statistics.median(apart) < 0.05, apart
    # They end, and begin again together.
    page.wait_for_function(
        f"() => {{ const [a, b] = {SHOWN}.querySelectorAll('video');"
        " window.far ||= a.currentTime > 0.7 * a.duration;"
        " return window.far && a.currentTime < 0.3 * a.duration && !a.paused && !b.paused; }",
        polling=20,
    )
    first, second = places(page)
    assert abs(first - second) < 0.1


def test_closing_the_tab_and_a_server_that_is_gone_lose_nothing(window, server, store, tmp_path):
    context = window()
    page, shown = start(context, server)
    # The answer cannot leave, and the tab is closed on it.
    context.route("**/api/answers", lambda route: route.abort())
    page.keyboard.press("ArrowRight")
    said = {shown: Answer.RIGHT}
    next_pair(page, shown)
    page.wait_for_selector("#notice:not([hidden])")
    assert "1 answer is kept here" in page.inner_text("#notice")
    page.close()
    assert given(store) == {}
    context.unroute("**/api/answers")
    page = context.new_page()
    page.goto(server.url)
    wait(lambda: given(store) == said)
    shown = next_pair(page, shown)

    # The server goes in the middle, when the next pairs are here, and comes back at the same place.
    here = "() => [...document.querySelectorAll('video')].filter(video => video.readyState >= 3).length >= 6"
    page.wait_for_function(here)
    server.kill()
    for key in ("ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
        said[shown] = KEYS[key]
        if key == "ArrowLeft":
            shown = next_pair(page, *said)
    page.wait_for_selector("#notice:not([hidden])")
    with serving(tmp_path / "store", port=server.port):
        wait(lambda: given(store) == said)
        page.wait_for_selector("#notice[hidden]", state="attached")
        shown = next_pair(page, *said)
        assert len(store.records()) == 3
        # Leaving gives back what is held.
        assert store.counts().taken > 0
        page.goto("about:blank")
        wait(lambda: store.counts().taken == 0)


def test_nothing_to_compare_and_then_something(window, tmp_path, films):
    with Store.open(tmp_path / "store") as store:
        clips = add_clips(store, films, 3)
        with serving(tmp_path / "store") as server:
            page = window().new_page()
            page.goto(f"{server.url}/#{server.token}")
            page.wait_for_selector("#idle:not([hidden])")
            assert "nothing to compare" in page.inner_text("#idle")
            (number,) = store.ask([(clips[0], clips[1])])
            assert next_pair(page) == number
            page.keyboard.press("ArrowLeft")
            page.wait_for_selector("#idle:not([hidden])")
            page.keyboard.press("z")
            assert next_pair(page) == number


def test_on_a_phone(window, shared):
    server, store = shared
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page, shown = start(window(**phone), server)
    boxes = [video.bounding_box() for video in page.query_selector_all(".pair.shown video")]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"], "one film over the other"
    assert all(box["height"] > 150 for box in boxes)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for button in page.query_selector_all("#choices button, #tools button"):
        box = button.bounding_box()
        assert box["height"] >= 44 and box["width"] >= 44 and box["y"] + box["height"] <= 844
    page.get_by_role("button", name="B is better").tap()
    next_pair(page, shown)
    page.get_by_role("button", name="Undo").tap()
    page.wait_for_function(f"shown => Number({SHOWN}?.dataset.question) === shown", arg=shown)
    wait(lambda: shown not in given(store))


CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((one) => one / 255)
    .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, index) => sum + one * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim()) continue;
    if (!node.checkVisibility({ visibilityProperty: true })) continue;
    if (node.closest("svg, noscript, .unseen")) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), node.textContent.slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_read_it(window, shared, scheme):
    server, _ = shared
    page, _ = start(window(color_scheme=scheme), server)
    page.wait_for_timeout(400)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 60")
    assert dark == (scheme == "dark")
    for path in ("/", "/dashboard"):
        if path != "/":
            page.goto(server.url + path)
            page.wait_for_selector("#board:not([hidden])")
        seen = page.evaluate(CONTRASTS)
        assert len(seen) > 8
        assert [one for one in seen if one[0] < 4.5] == []
    # What someone hears who does not see: names, roles, headings, and tables beside the charts.
    assert page.get_attribute("html", "lang") == "en"
    assert page.get_by_role("heading", level=1).count() == 1


def test_everyone_can_use_it(window, shared):
    server, store = shared
    earlier = len(store.records())
    page, shown = start(window(), server)
    assert page.get_by_role("heading", level=1).inner_text() == "Which film do you prefer?"
    for name in ("A is better", "Equal", "Cannot tell", "B is better", "Undo", "Replay", "Slow ½×"):
        assert page.get_by_role("button", name=name, exact=True).count() == 1, name
    films = page.query_selector_all(".pair.shown video")
    assert [film.get_attribute("aria-label") for film in films] == [
        f"Film {name}: CartPole-v1, 4 steps" for name in "AB"
    ]
    assert page.get_by_role("progressbar", name="Questions answered").count() == 1
    assert page.get_by_role("group", name="Your answer").count() == 1
    # By Tab alone: the skip link first, then on in the order of reading, each with a visible outline.
    reached = []
    for _ in range(10):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.innerText.trim().split(/\\s+/)[0]"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert reached == "Skip Dashboard Sign A Equal Cannot B Undo Replay Slow".split()
    # On a button the space bar presses that button, and no other key is lost.
    page.get_by_role("button", name="B is better").focus()
    page.keyboard.press("Space")
    wait(lambda: given(store).get(shown) == Answer.RIGHT)
    assert "B preferred" in page.inner_text("#status")
    second = next_pair(page, shown)
    # After a click the space bar is an answer again.
    page.get_by_role("button", name="A is better").click()
    third = next_pair(page, shown, second)
    page.keyboard.press("Space")
    wait(lambda: given(store).get(third) == Answer.CANNOT_TELL)
    fourth = next_pair(page, shown, second, third)
    page.keyboard.press("s")
    assert page.get_by_role("button", name="Slow ½×").get_attribute("aria-pressed") == "true"
    rates = page.evaluate(f"[...{SHOWN}.querySelectorAll('video')].map(video => video.playbackRate)")
    assert max(rates) == 0.5
    # Single keys can be switched off, for those whose tools speak or press keys of their own.
    page.get_by_role("checkbox", name="Shortcuts").uncheck()
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(200)
    assert question(page) == fourth and len(store.records()) == earlier + 3


def test_motion_is_reduced_where_that_is_wished(window, shared):
    page, _ = start(window(reduced_motion="reduce"), shared[0])
    page.wait_for_timeout(500)
    assert places(page) == [0, 0]
    page.keyboard.press("r")
    ended = f"() => [...{SHOWN}.querySelectorAll('video')].every(video => video.ended)"
    page.wait_for_function(ended)
    page.wait_for_timeout(300)
    assert page.evaluate(ended), "once only"


def test_tokens_the_dashboard_and_the_instruction(window, store, tmp_path):
    tokens = {name: store.add_labeller(name, role) for name, role in people(1)}
    with serving(tmp_path / "store") as server:
        with httpx.Client(base_url=server.url) as client:
            labeller = Person(client, tokens["person 0"])
            for pair in labeller.take(4):
                labeller.answer(pair["question"], "left", seconds=2.0)
                store.predict({pair["question"]: 0.9}, step=100)
        context = window()
        page = context.new_page()
        page.goto(server.url)
        page.get_by_label("Token").fill("x" * 43)
        page.keyboard.press("Enter")
        page.wait_for_selector("#sign-in-error:has-text('not known')")
        page.get_by_label("Token").fill(tokens["owner"])
        page.keyboard.press("Enter")
        next_pair(page)
        page.goto(f"{server.url}/dashboard")
        page.wait_for_selector("#board:not([hidden])")
        tiles = page.inner_text("#tiles").split()
        assert tiles[:2] == ["answers", "4"]
        assert page.inner_text("#people").split("person 0")[1].split()[:2] == ["labeller", "4"]
        assert page.get_by_role("img", name="Answers over time").count() == 1
        page.get_by_text("As a table").nth(1).click()
        assert "100 %" in page.inner_text("details[open] table")
        script = "<img src=x onerror=\"document.title='gone'\">Which?"
        page.get_by_role("textbox").fill(script)
        page.get_by_role("button", name="Save").click()
        page.wait_for_selector("#saved:has-text('Saved')")
        page.goto(server.url)
        next_pair(page)
        assert page.get_by_role("heading", level=1).inner_text() == script
        assert page.title() == "Compare · Rewardsmith"
        page.get_by_role("button", name="Sign out").click()
