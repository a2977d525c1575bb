"""Fifty people at once: no answer is lost, doubled or another's; with REWARDSMITH_SOAK=1 for a minute."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from label_server import fill, people, serving

from rewardsmith.preferences.store import Store

SOAK = os.environ.get("REWARDSMITH_SOAK") == "1"
PEOPLE = 50
SECONDS = 60 if SOAK else 5
CROWD = Path(__file__).with_name("label_crowd.py")


def test_fifty_people_at_once(tmp_path, capsys):
    clips = 75 if SOAK else 26
    tokens = fill(tmp_path, 5000 if SOAK else 600, clips=clips, labellers=people(PEOPLE, owner=False))
    with serving(tmp_path) as server:
        done = subprocess.run(
            [sys.executable, CROWD, str(server.port), str(SECONDS)],
            input=json.dumps(list(tokens.values())),
            stdout=subprocess.PIPE,
            text=True,
            timeout=SECONDS + 60,
            check=True,
        )
        seen = json.loads(done.stdout)
        assert seen["others"].keys() == {"200"}
        assert server.stop() == (0, "")
    log = seen["log"]
    assert {status for *_, status, _ in log} == {200} and len(log) > PEOPLE
    with Store.open(tmp_path, create=False) as store:
        records = store.records()
        numbers = {one.name: one.id for one in store.labellers()}
        taken = store.counts().taken
    ids = [numbers[name] for name in tokens]
    assert [record.sequence for record in records] == list(range(1, len(records) + 1))
    in_store = sorted((record.labeller, record.question, str(record.answer)) for record in records)
    by_people = sorted((ids[who], question, answer) for who, question, answer, _, _ in log)
    assert in_store == by_people, "each answer once, its own labeller's"
    assert len({record.question for record in records}) == len(records), "no pair went to two"
    assert taken == 0
    times = sorted(1000 * took for *_, took in log)
    median, late = statistics.median(times), times[int(0.95 * len(times))]
    load = os.getloadavg()[0]
    with capsys.disabled():
        print(
            f"\n{len(log)} answers of {PEOPLE} people in {SECONDS} s: median {median:.1f} ms, "
            f"95 % {late:.1f} ms, load {load:.1f} on {os.cpu_count()} cores"
        )
    if SOAK:
        assert median < 50
