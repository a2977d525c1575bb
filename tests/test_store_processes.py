"""Many threads and processes at one store; some of them are killed."""

import contextlib
import itertools
import multiprocessing
import os
import random
import threading
import time
from collections import Counter

import numpy as np
import pytest

from rewardsmith.preferences.store import Answer, NotYours, Store
from tests.store_databases import answer, ask, let_in, new, taken

pytest_plugins = "tests.store_databases"

# Children start from a server that has imported all they need, and that has no threads.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["rewardsmith.preferences.store", "pytest", "psycopg"])


def work(where, clips, name, said, endless):
    """In a process of its own: answer whatever is open, and write down each word of the store.

    With `endless` it also asks, and ends when it is killed.
    """
    with Store.open(where, clips=clips) as store, said.open("a", buffering=1) as words:
        me = next(one.id for one in store.labellers() if one.name == name)
        while True:
            if endless:
                store.ask([large_clips(store, name)])
            lent = store.take(me, count=2)
            if not lent and not endless:
                return
            for one in lent:
                words.write(f"taken {one.question.id}\n")
                line = store.answer(one.question.id, me, random.choice(list(Answer)), request=new())
                words.write(f"answered {line.sequence} {line.question} {me} {line.answer.name}\n")


def large_clips(store, name):
    def film(path):
        path.write_bytes(os.urandom(100_000))

    arrays = ({"a": np.frombuffer(os.urandom(80_000), np.int64)} for _ in range(2))
    return tuple(store.add_clip(one, env=name, length=3, film=film) for one in arrays)


def start(place, name, endless=False):
    """A process at work, and the file with what it was told."""
    said = place.folder / f"{name}.txt"
    said.touch()
    process = PROCESSES.Process(target=work, args=(place.where, place.folder / "clips", name, said, endless))
    process.start()
    return process, said


def told(said, word):
    """What follows `word` in the whole lines of a file."""
    lines = said.read_text().split("\n")[:-1]
    return [line.split()[1:] for line in lines if line.startswith(word)]


def check_log(store):
    records = store.records()
    assert [one.sequence for one in records] == list(range(1, len(records) + 1))
    return records


def test_processes_never_share_a_question(place):
    names = ["Ann", "Bob", "Cid"]
    with place.open() as store:
        ask(store, 80)
        let_in(store, *names)
        workers = [start(place, name) for name in names]
        for process, _ in workers:
            process.join(timeout=120)
            assert process.exitcode == 0
        lent = Counter(int(number) for _, said in workers for (number,) in told(said, "taken"))
        assert lent == dict.fromkeys(range(1, 81), 1)
        assert sorted(one.question for one in check_log(store)) == list(range(1, 81))


def test_killed_processes_lose_no_acknowledged_answer(place):
    names = ["Ann", "Bob", "Cid", "Dan", "Eve"]
    with place.open() as store:
        let_in(store, *names)
        workers = [start(place, name, endless=True) for name in names]
        for process, said in workers:
            while not told(said, "answered"):
                assert process.is_alive()
                time.sleep(0.01)
            time.sleep(random.uniform(0.0, 0.2))
            process.kill()
            process.join()
        records = check_log(store)
        acknowledged = [line for _, said in workers for line in told(said, "answered")]
        assert len(acknowledged) >= 5
        for sequence, question, labeller, answered in acknowledged:
            one = records[int(sequence) - 1]
            assert (one.question, one.labeller) == (int(question), int(labeller))
            assert one.answer.name == answered
        # Each can have died between an answer and the word of it.
        assert len(acknowledged) <= len(records) <= len(acknowledged) + 5
        assert max(Counter(one.question for one in records).values()) == 1
        for number in {one.id for one in store.open_questions()} | {one.question for one in records}:
            for clip in (store.question(number).first, store.question(number).second):
                assert store.load_clip(clip)["a"].size == 10_000
                assert store.clip(clip).film.stat().st_size == 100_000
        for path in store.clips_folder.glob("[0-9a-f]*.mp4"):
            assert path.stat().st_size == 100_000
        (zoe,) = let_in(store, "Zoe")
        ask(store)
        answer(store, *taken(store, zoe), zoe)
    if place.server is None:
        assert place.execute("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("overlap", [1, 3])
def test_threads_never_hold_more_than_the_overlap(place, overlap):
    """Eight connections answer and take back while a reader follows the log."""
    ready, errors, followed, over = threading.Barrier(9), [], [], threading.Event()
    with place.open() as store:
        ask(store, 12, overlap=overlap)
        people = let_in(store, *(f"P{number}" for number in range(8)))

    def label(me):
        with place.open() as own:
            ready.wait()
            for turn in itertools.count():
                held = taken(own, me, 2)
                if not held:
                    return
                for number in held:
                    # Nothing runs out here, so all that was lent can be answered.
                    answer(own, number, me)
                if turn == 0:
                    own.undo(me, request=new())

    def follow():
        with place.open() as own:
            ready.wait()
            while True:
                last = over.is_set()
                news = own.records(after=len(followed))
                followed.extend(news)
                if last and not news:
                    return

    def guarded(function, *arguments):
        try:
            function(*arguments)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(label, me)) for me in people]
    reader = threading.Thread(target=guarded, args=(follow,))
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    reader.join()
    assert not errors
    with place.open() as store:
        assert check_log(store) == followed
        standing = Counter()
        for one in followed:
            standing[one.question, one.labeller] += 1 if one.answer else -1
            assert standing[one.question, one.labeller] in (0, 1)
            assert sum(standing[one.question, who] for who in people) <= overlap
        assert sum(standing.values()) == 12 * overlap and store.counts().answered == 12


def test_one_store_in_many_threads(place):
    errors = []
    with place.open() as store:
        ask(store, 40)
        people = let_in(store, *(f"P{number}" for number in range(8)))

        def label(me):
            try:
                while held := taken(store, me):
                    request = new()
                    lines = {answer(store, held[0], me, request=request).sequence for _ in range(2)}
                    assert len(lines) == 1
                    with contextlib.suppress(NotYours):
                        answer(store, held[0], me)
                        errors.append("answered twice")
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=label, args=(me,)) for me in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert sorted(one.question for one in check_log(store)) == list(range(1, 41))
