"""A store with films and questions, and a real server over it, for tests of the page."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import httpx
import numpy as np

from rewardsmith.envs import film_clip, make
from rewardsmith.preferences.store import Role, Store

# The server's own program: what `rewardsmith label` does, without what a command line needs.
PROGRAM = """
import sys
from pathlib import Path
from rewardsmith.label import serve
from rewardsmith.label.settings import Limits
from rewardsmith.preferences.store import Store

folder, port, lease, run = sys.argv[1:]
limits = Limits(session_rate=(1e6, 1e6), address_rate=(1e6, 1e6))
with Store.open(Path(folder), create=False, lease_seconds=float(lease)) as store:
    serve(store, port=int(port), run=Path(run) if run else None, limits=limits)
"""
FILM = b"\x00\x00\x00\x18ftypisom" + bytes(range(256)) * 20
"""Enough of a film for whoever does not look at it."""


def film_clips(folder, number=6, env_id="CartPole-v1", length=30):
    """Real H.264 films of clips of an environment."""
    env = make(env_id, 1)
    env.reset(7)
    rng = np.random.default_rng(7)
    films = []
    for index in range(number):
        row = {name: array[0] for name, array in env.get_state().items()}
        if env.spec.num_actions:
            actions = rng.integers(env.spec.num_actions, size=(length, 1))
        else:
            actions = rng.uniform(-1, 1, size=(length, 1, *env.spec.action_shape)).astype(np.float32)
        films.append(film_clip(env_id, row, actions[:, 0], folder / f"{index}.mp4"))
        for action in actions[:5]:
            env.step(action)
    return films


def add_clips(store, films, number, env_id="CartPole-v1"):
    """`number` clips of which no two are equal; `films` are used in turn, None stands for a stand-in."""

    def writer(index):
        content = films[index % len(films)].read_bytes() if films else FILM
        return lambda path: path.write_bytes(content)

    rng = np.random.default_rng(len(store.open_questions()))
    return [
        store.add_clip(
            {"observations": rng.normal(size=(4, 2)).astype(np.float32)},
            env=env_id,
            length=4,
            film=writer(index),
        )
        for index in range(number)
    ]


def fill(folder, questions=10, *, films=None, clips=12, labellers=(), **asked):
    """A store in `folder` with questions and labellers; returns the labellers' tokens."""
    with Store.open(folder) as store:
        ids = add_clips(store, films, clips)
        pairs = [(a, b) for a in ids for b in ids if a != b]
        assert questions <= len(pairs)
        store.ask(pairs[:questions], **asked)
        return {name: store.add_labeller(name, role) for name, role in labellers}


def people(number, *, owner=True):
    """Names and roles of labellers."""
    some = [(f"person {index}", Role.LABELLER) for index in range(number)]
    return [("owner", Role.OWNER), *some] if owner else some


class Server:
    """A server process over the store in `folder`, waited for until it listens.

    Attributes:
        url: where it is, without the link's token.
        token: that of the link; None where labellers have their own.
    """

    def __init__(self, folder, port=0, lease=300.0, run=""):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), str(port), str(lease), str(run)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("Labelling at http://127.0.0.1:"), line
        self.url, _, token = line.split()[2].partition("/#")
        self.url = self.url.rstrip("/")
        self.token = token or None
        self.port = int(self.url.rpartition(":")[2])

    def kill(self):
        """At once, as a power cut would."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        """By Ctrl-C; returns the exit status and what else it printed."""
        self.process.send_signal(signal.SIGINT)
        rest = self.process.stdout.read()
        status = self.process.wait(20)
        self.process.stdout.close()
        return status, rest


@contextlib.contextmanager
def serving(folder, **options):
    """A server for as long as the block lasts."""
    server = Server(Path(folder), **options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


class _Inside(httpx.BaseTransport):
    """Requests go to the application itself, in this process."""

    def __init__(self, app):
        self._app = httpx.ASGITransport(app, raise_app_exceptions=False)

    def handle_request(self, request):
        async def ask():
            response = await self._app.handle_async_request(request)
            return response.status_code, response.headers, await response.aread()

        status, headers, content = asyncio.run(ask())
        return httpx.Response(status, headers=headers, content=content)


def client_of(app, url="http://127.0.0.1", **more):
    """A browser, as it were, that asks the application."""
    return httpx.Client(transport=_Inside(app), base_url=url, **more)


class Person:
    """A labeller's side of the API, as the page uses it."""

    def __init__(self, client: httpx.Client, token: str | None = None):
        self.client = client
        self.headers: dict[str, str] = {}
        if token is not None:
            self.sign_in(token)

    def sign_in(self, token):
        response = self.client.post("/api/sign-in", json={"token": token})
        assert response.status_code == 200, response.text
        self.headers = {"x-rewardsmith": response.json()["csrf"]}
        return response

    def post(self, path, body, **more):
        headers = {**self.headers, **more.pop("headers", {})}
        return self.client.post(path, json=body, headers=headers, **more)

    def take(self, count=1):
        response = self.post("/api/take", {"count": count})
        assert response.status_code == 200, response.text
        return response.json()["pairs"]

    def answer(self, question, answer="left", request=None, seconds=None):
        body = {"question": question, "answer": answer, "request": request or str(uuid.uuid4())}
        return self.post("/api/answers", body | ({} if seconds is None else {"response_seconds": seconds}))
