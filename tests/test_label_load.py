"""Fifty people at once: no answer is lost, doubled or another's; with REWARDSMITH_SOAK=1 for a minute."""

import json
import os
import statistics
import subprocess
import sys

from label_server import fill, people, serving

from rewardsmith.preferences.store import Store

SOAK = os.environ.get("REWARDSMITH_SOAK") == "1"
PEOPLE = 50
SECONDS = 60 if SOAK else 5

# Everyone takes three pairs, fetches their films, and answers one after about a second, as the page does.
# Requests are written by hand: fifty clients of a library would need more of the machine than the server.
CLIENTS = """
import asyncio, json, random, sys, time, uuid

port, seconds = int(sys.argv[1]), float(sys.argv[2])
tokens = json.load(sys.stdin)
log, others = [], []

class Client:
    async def open(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        self.headers = ""

    async def ask(self, method, path, body=None):
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\\r\\nhost: 127.0.0.1:{port}\\r\\n{self.headers}"
        head += f"content-type: application/json\\r\\ncontent-length: {len(content)}\\r\\n\\r\\n"
        self.writer.write(head.encode() + content)
        lines = (await self.reader.readuntil(b"\\r\\n\\r\\n")).decode().split("\\r\\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:-2])
        received = await self.reader.readexactly(int(headers["content-length"]))
        if "set-cookie" in headers:
            # Tokens have capitals: not the one in lower case.
            cookie = next(line for line in lines if line.lower().startswith("set-cookie"))
            self.headers = f"cookie: {cookie.split(': ', 1)[1].split(';')[0]}\\r\\n"
        return int(lines[0].split()[1]), received

async def label(token, seed, everyone):
    rng, client = random.Random(seed), Client()
    await client.open()
    status, received = await client.ask("POST", "/api/sign-in", {"token": token})
    client.headers += f"x-rewardsmith: {json.loads(received)['csrf']}\\r\\n"
    others.append(status)
    await everyone.wait()
    until = time.monotonic() + seconds
    await asyncio.sleep(rng.random())
    while time.monotonic() < until:
        status, received = await client.ask("POST", "/api/take", {"count": 3})
        others.append(status)
        for pair in json.loads(received)["pairs"]:
            for side in ("left", "right"):
                others.append((await client.ask("GET", pair[side]["film"]))[0])
            await asyncio.sleep(rng.uniform(0.5, 1.5))
            answer = rng.choice(["left", "right", "equal", "cannot tell"])
            body = {"question": pair["question"], "answer": answer, "request": str(uuid.uuid4())}
            start = time.perf_counter()
            status, _ = await client.ask("POST", "/api/answers", body)
            log.append([seed, pair["question"], answer, status, time.perf_counter() - start])
            if time.monotonic() > until:
                break
    others.append((await client.ask("POST", "/api/release", {}))[0])
    client.writer.close()

class Barrier:
    def __init__(self, number):
        self.number, self.complete = number, asyncio.Event()

    async def wait(self):
        self.number -= 1
        if not self.number:
            self.complete.set()
        await self.complete.wait()

async def main():
    everyone = Barrier(len(tokens))
    await asyncio.gather(*(label(token, seed, everyone) for seed, token in enumerate(tokens)))
    json.dump({"log": log, "others": others}, sys.stdout)

asyncio.run(main())
"""


def test_fifty_people_at_once(tmp_path, capsys):
    clips = 75 if SOAK else 26
    tokens = fill(tmp_path, 5000 if SOAK else 600, clips=clips, labellers=people(PEOPLE, owner=False))
    with serving(tmp_path) as server:
        done = subprocess.run(
            [sys.executable, "-c", CLIENTS, str(server.port), str(SECONDS)],
            input=json.dumps(list(tokens.values())),
            stdout=subprocess.PIPE,
            text=True,
            timeout=SECONDS + 60,
            check=True,
        )
        seen = json.loads(done.stdout)
        assert set(seen["others"]) == {200}
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
