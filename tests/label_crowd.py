"""Many people who label at once.

    python tests/label_crowd.py PORT SECONDS <<< '["TOKEN", ...]'

Everyone takes three pairs, fetches their films, and answers one after about a second, as the page does.
Requests are written by hand: fifty clients of a library would need more of the machine than the server.
SIGTERM ends it before the time. Prints
{"log": [[who, question, answer, status, seconds], ...], "others": {status: count}}.
"""

import asyncio
import collections
import json
import random
import signal
import sys
import time
import uuid

LOOK_AGAIN = 1.0
"""Seconds until one who got no pair asks again."""


class Client:
    def __init__(self, port):
        self.port, self.headers, self.writer = port, "", None

    async def ask(self, method, path, body=None):
        """Status and content. A server may close a connection that was idle: then once more, on a new one."""
        for again in (True, False):
            try:
                return await self._ask(method, path, body)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.close()
                if not again:
                    raise

    def close(self):
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    async def _ask(self, method, path, body):
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n{self.headers}"
        head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        self.writer.write(head.encode() + content)
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:-2])
        received = await self.reader.readexactly(int(headers["content-length"]))
        if "set-cookie" in headers:
            # Tokens have capitals: not the one in lower case.
            cookie = next(line for line in lines if line.lower().startswith("set-cookie"))
            self.headers = f"cookie: {cookie.split(': ', 1)[1].split(';')[0]}\r\n"
        return int(lines[0].split()[1]), received


class Barrier:
    def __init__(self, number):
        self.number, self.complete = number, asyncio.Event()

    async def wait(self):
        self.number -= 1
        if not self.number:
            self.complete.set()
        await self.complete.wait()


class Crowd:
    def __init__(self, port, seconds, tokens):
        self.port, self.tokens, self.until = port, tokens, time.monotonic() + seconds
        self.log, self.others = [], collections.Counter()

    @property
    def over(self):
        return time.monotonic() > self.until

    def stop(self):
        self.until = 0.0

    async def run(self):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stop)
        everyone = Barrier(len(self.tokens))
        await asyncio.gather(*(self.label(who, everyone) for who in range(len(self.tokens))))
        return {"log": self.log, "others": self.others}

    async def label(self, who, everyone):
        rng, client = random.Random(who), Client(self.port)
        status, received = await client.ask("POST", "/api/sign-in", {"token": self.tokens[who]})
        client.headers += f"x-rewardsmith: {json.loads(received)['csrf']}\r\n"
        self.others[status] += 1
        await everyone.wait()
        await asyncio.sleep(rng.random())
        while not self.over:
            status, received = await client.ask("POST", "/api/take", {"count": 3})
            self.others[status] += 1
            pairs = json.loads(received)["pairs"]
            for pair in pairs:
                for side in ("left", "right"):
                    self.others[(await client.ask("GET", pair[side]["film"]))[0]] += 1
                await asyncio.sleep(rng.uniform(0.5, 1.5))
                await self.answer(who, client, pair["question"], rng)
                if self.over:
                    break
            if not pairs:
                await asyncio.sleep(LOOK_AGAIN)
        self.others[(await client.ask("POST", "/api/release", {}))[0]] += 1
        client.close()

    async def answer(self, who, client, question, rng):
        answer = rng.choice(["left", "right", "equal", "cannot tell"])
        body = {"question": question, "answer": answer, "request": str(uuid.uuid4())}
        start = time.perf_counter()
        status, _ = await client.ask("POST", "/api/answers", body)
        self.log.append([who, question, answer, status, time.perf_counter() - start])


if __name__ == "__main__":
    crowd = Crowd(int(sys.argv[1]), float(sys.argv[2]), json.load(sys.stdin))
    json.dump(asyncio.run(crowd.run()), sys.stdout)
