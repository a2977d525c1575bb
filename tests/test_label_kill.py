"""The server dies at any moment, and no acknowledged answer is lost; REWARDSMITH_SOAK=1 for twenty deaths."""

import os
import random
import threading
import time
import uuid
from collections import Counter

import httpx
from label_server import Person, Server, fill, people

from rewardsmith.preferences.store import Store

DEATHS = 20 if os.environ.get("REWARDSMITH_SOAK") == "1" else 4
PEOPLE = 5


class Stubborn(threading.Thread):
    """A labeller whose client sends each answer again, with the same request id, until the server has it."""

    def __init__(self, url, token, seed):
        super().__init__(daemon=True)
        self.client = httpx.Client(base_url=url, timeout=10)
        self.person = Person(self.client, token)
        self.rng = random.Random(seed)
        self.enough = threading.Event()
        self.acknowledged: list[tuple[int, str]] = []
        self.under_way: tuple[int, str] | None = None
        self.repeated = 0
        self.trouble: list[object] = []

    def run(self):
        try:
            while not self.enough.is_set():
                for pair in self.insist("/api/take", {"count": 2})["pairs"]:
                    self.one(pair["question"])
        except Exception as error:
            self.trouble.append(error)

    def one(self, question):
        answer = self.rng.choice(["left", "right", "equal", "cannot tell"])
        self.under_way = (question, answer)
        body = {"question": question, "answer": answer, "request": str(uuid.uuid4())}
        assert self.insist("/api/answers", body)["question"] == question
        self.acknowledged.append((question, answer))
        self.under_way = None
        time.sleep(self.rng.uniform(0, 0.01))

    def insist(self, path, body):
        for attempt in range(3000):
            try:
                response = self.person.post(path, body)
            except httpx.HTTPError:
                self.repeated += path == "/api/answers"
                time.sleep(0.02)
                continue
            assert response.status_code == 200, (attempt, response.status_code, response.text)
            return response.json()
        raise AssertionError("the server never came back")


def count(crowd):
    return sum(len(one.acknowledged) for one in crowd)


def test_no_acknowledged_answer_is_lost(tmp_path, capsys):
    rng = random.Random(6)
    # More than can be answered meanwhile.
    tokens = fill(tmp_path, 80 * 79, clips=80, labellers=people(PEOPLE, owner=False))
    server = Server(tmp_path)
    crowd = [Stubborn(server.url, token, seed) for seed, token in enumerate(tokens.values())]
    for one in crowd:
        one.start()
    for _ in range(DEATHS):
        # Somewhere in the middle: after a few more answers, and a moment.
        known, wanted = count(crowd), rng.randint(5, 40)
        while count(crowd) < known + wanted:
            assert all(one.is_alive() for one in crowd), [one.trouble for one in crowd]
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        safe = [list(one.acknowledged) for one in crowd]
        server.kill()
        time.sleep(0.05)
        _check(tmp_path, crowd, safe)
        server = Server(tmp_path, port=server.port)
    for one in crowd:
        one.enough.set()
    for one in crowd:
        one.join(60)
        assert not one.is_alive() and one.trouble == []
        one.client.close()
    server.stop()
    safe = [list(one.acknowledged) for one in crowd]
    records = _check(tmp_path, crowd, safe)
    # In the end everything was acknowledged, so there is nothing else.
    assert len(records) == sum(map(len, safe)) >= 5 * DEATHS
    with capsys.disabled():
        repeated = sum(one.repeated for one in crowd)
        print(f"\n{DEATHS} deaths, {len(records)} answers, {repeated} sent again: none lost, none twice")


def _check(folder, crowd, safe):
    """What was acknowledged is there, once; of what was under way, each is there once or not at all."""
    with Store.open(folder, create=False) as store:
        records = store.records()
        names = {one.id: int(one.name.split()[1]) for one in store.labellers()}
    assert [record.sequence for record in records] == list(range(1, len(records) + 1))
    found = Counter((names[record.labeller], record.question, str(record.answer)) for record in records)
    assert set(found.values()) <= {1}
    assert len({record.question for record in records}) == len(records)
    wanted = {(index, *answer) for index, answers in enumerate(safe) for answer in answers}
    assert wanted <= found.keys()
    for index, one in enumerate(crowd):
        possible = {(index, *answer) for answer in [*one.acknowledged, one.under_way] if answer}
        assert {key for key in found if key[0] == index} <= possible
    return records
