"""The labelling site from inside: signing in, taking, answering, undoing, roles, films, serving."""

import itertools
import uuid

import httpx
import polars as pl
import pytest
from label_server import FILM, Person, add_clips, client_of, fill, people, serving

from rewardsmith._core import InputError
from rewardsmith.label import Settings, create_app, serve
from rewardsmith.label.dashboard import between, model_agreement, over_time, read_returns, standing
from rewardsmith.label.security import HEADERS, RateLimit
from rewardsmith.label.settings import Limits, check_public_url
from rewardsmith.preferences.store import Answer, Role, Store


@pytest.fixture
def place(tmp_path):
    """A store with ten questions, its labellers' tokens, and a way to be one of them."""
    tokens = fill(tmp_path / "store", 10, labellers=people(2))
    with Store.open(tmp_path / "store") as store:
        app = create_app(store, Settings())

        def person(name):
            return Person(client_of(app), tokens.get(name))

        yield store, app, person, tokens


def test_an_answer_and_its_undo(place):
    store, _, person, _ = place
    ada = person("person 0")
    me = ada.client.get("/api/me").json()
    assert me["name"] == "person 0" and me["counts"] == {"open": 10, "answered": 0}
    pairs = ada.take(3)
    assert len({pair["question"] for pair in pairs}) == 3
    assert ada.take(3) == pairs, "what is held comes first"
    first = pairs[0]["question"]
    response = ada.answer(first, "equal", seconds=1.5)
    assert response.status_code == 200 and response.json()["question"] == first
    (record,) = store.records()
    assert (record.answer, record.response_seconds) == (Answer.EQUAL, 1.5)
    undone = ada.post("/api/undo", {"request": str(uuid.uuid4())}).json()
    assert undone["pair"]["question"] == first and undone["pair"] == pairs[0]
    assert ada.answer(first, "right").status_code == 200
    assert [one.answer for one in standing(store.records())] == [Answer.RIGHT]
    assert store.counts().answers == 1


def test_undo_with_nothing_to_undo(place):
    _, _, person, _ = place
    response = person("person 0").post("/api/undo", {"request": str(uuid.uuid4())})
    assert response.json() == {"sequence": None, "pair": None}


def test_the_same_request_again_changes_nothing(place):
    store, _, person, _ = place
    ada = person("person 0")
    question, request = ada.take()[0]["question"], str(uuid.uuid4())
    once = ada.answer(question, "left", request)
    again = ada.answer(question, "left", request)
    assert once.status_code == again.status_code == 200 and once.json() == again.json()
    assert len(store.records()) == 1
    assert ada.answer(question, "right", request).status_code == 400
    assert len(store.records()) == 1


def test_only_who_holds_a_question_answers_it(place):
    store, _, person, _ = place
    ada, grace = person("person 0"), person("person 1")
    question = ada.take()[0]["question"]
    assert question not in {pair["question"] for pair in grace.take(10)}
    assert grace.answer(question).status_code == 409
    ada.post("/api/release", {})
    assert ada.answer(question).status_code == 409, "given back"
    assert store.records() == []


def test_films_are_for_those_who_are_asked(place):
    store, _, person, _ = place
    ada, grace, owner = person("person 0"), person("person 1"), person("owner")
    pair = ada.take()[0]
    film = pair["left"]["film"]
    response = ada.client.get(film)
    assert response.status_code == 200 and response.content == FILM
    assert (
        response.headers["content-type"] == "video/mp4" and "immutable" in response.headers["cache-control"]
    )
    part = ada.client.get(film, headers={"range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == FILM[10:20]
    assert part.headers["content-range"] == f"bytes 10-19/{len(FILM)}"
    assert ada.client.get(film, headers={"range": "bytes=-5"}).content == FILM[-5:]
    assert grace.client.get(film).status_code == 404
    assert owner.client.get(film).status_code == 200
    unfilmed = store.add_clip({"observations": pl.Series([1.0]).to_numpy()}, env="E", length=4, film=None)
    assert owner.client.get(f"/api/films/{unfilmed}").status_code == 404


def test_roles(place):
    store, _, person, _ = place
    ada, owner = person("person 0"), person("owner")
    assert ada.client.get("/api/statistics").status_code == 403
    assert ada.client.get("/dashboard").status_code == 403
    put = {"headers": ada.headers, "json": {"text": "mine"}}
    assert ada.client.put("/api/instruction", **put).status_code == 403
    assert store.get_setting("instruction") == ""
    text = " Which is <b>better</b>?\nIf neither: equal. "
    response = owner.client.put("/api/instruction", headers=owner.headers, json={"text": text})
    assert response.json() == {"text": text.strip()}
    assert ada.client.get("/api/me").json()["instruction"] == text.strip()
    assert owner.client.get("/dashboard").status_code == 200
    events = {(line.event, line.labeller) for line in store.audit_log()}
    assert ("refused 403", 2) in events and ("instruction", 1) in events


def test_signing_in_and_out(place):
    store, app, person, tokens = place
    stranger = person("nobody")
    assert stranger.client.get("/api/me").status_code == 401
    response = stranger.sign_in(tokens["person 0"])
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "secure" not in cookie
    secure = client_of(create_app(store, Settings(secure=True)), "https://127.0.0.1")
    given = secure.post("/api/sign-in", json={"token": tokens["person 0"]})
    assert "secure" in given.headers["set-cookie"].lower()
    stranger.take()
    assert stranger.post("/api/sign-out", {}).status_code == 200
    assert store.counts().taken == 0
    assert stranger.client.get("/api/me").status_code == 401
    ada = person("person 0")
    store.revoke("person 0")
    assert ada.client.get("/api/me").status_code == 401
    log = " ".join(line.detail for line in store.audit_log())
    assert not any(token in log for token in tokens.values())
    del app


def test_sessions_outlive_the_server_and_end_in_time(place):
    store, _, person, tokens = place
    ada = person("person 0")
    again = Person(client_of(create_app(store), cookies=ada.client.cookies))
    again.headers = ada.headers
    assert again.take()
    short = Settings(limits=Limits(session_seconds=1e-6))
    brief = Person(client_of(create_app(store, short)))
    brief.sign_in(tokens["person 1"])
    assert brief.client.get("/api/me").status_code == 401


def test_what_every_response_carries(place):
    _, _, person, _ = place
    ada = person("person 0")
    for path in ("/", "/static/label.js", "/api/me", "/nowhere", "/dashboard", ada.take()[0]["left"]["film"]):
        headers = ada.client.get(path).headers
        assert {name: headers[name] for name in HEADERS} == HEADERS, path
    assert ada.client.get("/api/me").headers["cache-control"] == "no-store"
    policy = HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "data:" not in policy
    for page in ("/", "/dashboard"):
        text = person("owner").client.get(page).text
        assert "<style" not in text and " style=" not in text and "http" not in text
        assert text.count("<script") == text.count('<script type="module" src="/static/')
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert ada.client.get(path).status_code == 404


def test_rates(place):
    store, _, _, tokens = place
    limits = Limits(session_rate=(0.01, 3.0), failed_sign_ins=(0.01, 2.0), address_rate=(0.01, 20.0))
    client = client_of(create_app(store, Settings(limits=limits)))
    wrong = [client.post("/api/sign-in", json={"token": "x" * 43}) for _ in range(3)]
    assert [response.status_code for response in wrong] == [401, 401, 429]
    assert int(wrong[-1].headers["retry-after"]) >= 50
    assert client.post("/api/sign-in", json={"token": tokens["owner"]}).status_code == 429

    client = client_of(create_app(store, Settings(limits=limits)))
    Person(client, tokens["owner"])
    assert [client.get("/api/me").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert [client.get("/").status_code for _ in range(16)][-2:] == [200, 429]


def test_a_flood_of_refusals_is_counted_not_written(place):
    store, _, _, _ = place
    settings = Settings(limits=Limits(audited_refusals=(1e-9, 3.0)))
    client = client_of(create_app(store, settings))
    before = len(store.audit_log())
    assert {client.get(f"/{index}").status_code for index in range(20)} == {404}
    assert len(store.audit_log()) == before + 3


def test_a_bucket():
    bucket = RateLimit(1000.0, 2.0, keys=2)
    assert bucket.take("a") == bucket.take("a") == 0
    assert 0 < bucket.take("a") <= 0.001
    assert bucket.take("b") == bucket.take("c") == bucket.take("a", cost=0.0) == 0


def test_a_store_that_fails_is_not_the_labellers_fault(place, monkeypatch):
    store, _, person, _ = place
    ada = person("person 0")
    question = ada.take()[0]["question"]

    def broken(*_, **__):
        raise InputError("the store cannot be used") from OSError("disk full")

    monkeypatch.setattr(store, "answer", broken)
    response = ada.answer(question)
    # The page sends it again later; at 400 it would throw the answer away.
    assert response.status_code == 503 and "disk" not in response.text


# ---- statistics ---------------------------------------------------------------------------------


def test_statistics(tmp_path):
    names = people(2, owner=False)
    fill(tmp_path, 4, clips=4, labellers=names, overlap=2, held_out=[True, True, False, False], step=100)
    with Store.open(tmp_path) as store:
        said = {1: ("left", "left"), 2: ("right", "left"), 3: ("left", "cannot tell"), 4: ("right", "right")}
        for who, question in itertools.product((1, 2), said):
            store.take(who, count=4)
            answer = Answer(said[question][who - 1])
            store.answer(question, who, answer, response_seconds=float(who), request=str(uuid.uuid4()))
        store.predict({1: 0.9, 2: 0.2, 3: 0.4, 4: 0.3}, step=100)
        given = standing(store.records())
        both = between(given)
        assert (both["questions"], both["pairs"]) == (3, 3)
        assert both["agreement"] == pytest.approx(2 / 3)
        # Three of each among the six answers compared: by chance half would agree.
        assert both["expected"] == pytest.approx(1 / 2) and both["kappa"] == pytest.approx(1 / 3)
        assert model_agreement(given, store.predictions()) == {
            "held_out": [{"step": 100, "agreement": 3 / 4, "answers": 4}],
            "trained_on": [{"step": 100, "agreement": 2 / 3, "answers": 3}],
        }
        assert sum(bucket["answers"] for bucket in over_time(given)["buckets"]) == 8
        token = store.add_labeller("owner", Role.OWNER)
        owner = Person(client_of(create_app(store)), token)
        seen = owner.client.get("/api/statistics").json()
        assert [one["median_seconds"] for one in seen["labellers"]] == [1, 2, None]
        assert seen["labellers"][0]["agreement"] == pytest.approx(2 / 3)
        assert seen["counts"]["answered"] == 4 and seen["returns"] == []
        store.undo(1, request=str(uuid.uuid4()))
        assert owner.client.get("/api/statistics").json()["undone"] == 1


def test_statistics_of_an_empty_store(tmp_path):
    with Store.open(tmp_path) as store:
        owner = Person(client_of(create_app(store)), store.add_labeller("owner", Role.OWNER))
        seen = owner.client.get("/api/statistics").json()
    assert seen["over_time"]["buckets"] == [] and seen["between"]["agreement"] is None


def test_returns_of_a_run(tmp_path):
    assert read_returns(None) == read_returns(tmp_path) == []
    columns = {"step": [5, 0, 3], "kind": ["eval", "eval", "leader"]}
    frame = pl.DataFrame(columns | {"true_return": [2.0, 1.0, None], "true_return_std": [0.5, 0.25, None]})
    frame.write_parquet(tmp_path / "metrics.parquet")
    assert read_returns(tmp_path) == [
        {"step": 0, "mean": 1.0, "std": 0.25},
        {"step": 5, "mean": 2.0, "std": 0.5},
    ]
    (tmp_path / "metrics.parquet").write_bytes(b"PAR1 broken")
    assert read_returns(tmp_path) == []


# ---- serving ------------------------------------------------------------------------------------


def test_serve_refuses_what_cannot_be_right(tmp_path):
    with Store.open(tmp_path) as store:
        for options, text in {
            ("0.0.0.0", 0, "", ""): "--add-labeller",
            ("127.0.0.1", 0, "https://label.example.org", ""): "--add-labeller",
            ("127.0.0.1", 0, "", "only.pem"): "both --tls-cert and --tls-key",
            ("127.0.0.1", 99999, "", ""): "port",
        }.items():
            host, port, url, cert = options
            with pytest.raises(InputError, match=text):
                serve(store, host, port, public_url=url or None, tls_cert=tmp_path / cert if cert else None)
        pem = tmp_path / "broken.pem"
        with pytest.raises(InputError, match="there is no file"):
            serve(store, tls_cert=pem, tls_key=pem)
        pem.write_text("not a certificate")
        with pytest.raises(InputError, match="TLS cannot be used"):
            serve(store, port=0, tls_cert=pem, tls_key=pem)
        store.add_labeller("someone")
        store.revoke("someone")
        with pytest.raises(InputError, match="--add-labeller"):
            serve(store, "0.0.0.0", 0)
        store.add_labeller("someone")
        with pytest.raises(InputError, match="--host 127.0.0.1"):
            serve(store, "no such host", 0)
    for url in ("label.example.org", "https://a/b", "https://u@a", "ftp://a", "https://a?x"):
        with pytest.raises(InputError, match="https://label.example.org"):
            check_public_url(url)
    assert check_public_url("https://Label.example.org/") == "label.example.org"


def test_hosts():
    here, everywhere = Settings(), Settings(any_address=True, hosts=frozenset({"label.example.org"}))
    assert all(map(here.accepts, ("127.0.0.1:80", "localhost", "[::1]:8765", "LOCALHOST:1")))
    assert not any(
        map(here.accepts, ("", "evil.org", "192.168.0.7", "127.0.0.1:80:80", "a\x00", "127.0.0.1/"))
    )
    assert all(map(everywhere.accepts, ("192.168.0.7:8765", "[fe80::1]", "label.example.org")))
    assert not everywhere.accepts("evil.org")


def test_the_link_signs_in_and_a_restart_makes_another(tmp_path):
    fill(tmp_path, 2)
    with serving(tmp_path) as server, httpx.Client(base_url=server.url) as client:
        me = Person(client, server.token)
        assert client.get("/api/me").json()["role"] == "owner"
        assert me.take()
        status, rest = server.stop()
        assert (status, rest) == (0, "")
        with serving(tmp_path, port=server.port) as after:
            assert after.url == server.url and after.token != server.token
            assert me.take(), "the session is still open"
            old = client.post("/api/sign-in", json={"token": server.token})
            assert old.status_code == 401
    with Store.open(tmp_path) as store:
        assert [(one.name, one.role) for one in store.labellers()] == [("local", Role.OWNER)]
        assert add_clips(store, None, 1)
        store.add_labeller("Ada")
    with serving(tmp_path) as server:
        assert server.token is None
