"""Runs the site until Ctrl-C."""

import secrets
import socket
from pathlib import Path

import uvicorn

from rewardsmith._core.errors import InputError
from rewardsmith.preferences.store import Role, Store

from .app import create_app
from .settings import LOOPBACK_NAMES, Limits, Settings, check_public_url, is_loopback

LOCAL = "local"
"""The labeller of whoever sits at the machine, while the store has no others."""


def serve(
    store: Store,
    host: str = "127.0.0.1",
    port: int = 8765,
    *,
    run: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    public_url: str | None = None,
    limits: Limits | None = None,
) -> None:
    """Serve the labelling page over `store` until Ctrl-C, printing where it is once it listens.

    On this machine alone and without labellers in the store, the printed link signs in whoever opens it, as
    the owner "local"; each start makes a new link, and sessions that are open stay so.

    Args:
        store: where questions come from and answers go.
        host: address or name to listen at.
        port: 0: any free one.
        run: folder of a run whose returns the dashboard shows.
        tls_cert, tls_key: PEM files; both or neither.
        public_url: what people type where a proxy on this machine stands in front; its X-Forwarded headers
            are believed then.
        limits: sizes and rates.

    Raises:
        InputError: others could reach `host` and there is no labeller with a token; the address or the files
            cannot be used.
    """
    if (tls_cert is None) != (tls_key is None):
        raise InputError("TLS needs a certificate and its key: give both --tls-cert and --tls-key")
    for path in (tls_cert, tls_key):
        if path is not None and not path.is_file():
            raise InputError(f"there is no file {path}: give --tls-cert and --tls-key the paths of PEM files")
    names = {check_public_url(public_url)} if public_url else set()
    local = _local_labeller(store, host, bool(public_url))
    # Nobody but whoever reads the terminal knows it, and it ends with the server.
    token = None if local is None else secrets.token_urlsafe(32)
    with _listen(host, port) as listener:
        scheme = "http" if tls_cert is None else "https"
        port = listener.getsockname()[1]
        settings = Settings(
            hosts=frozenset(names | ({host} if not is_loopback(host) else set())) | LOOPBACK_NAMES,
            any_address=not is_loopback(host),
            public_url=public_url,
            secure=tls_cert is not None or bool(public_url and public_url.startswith("https://")),
            # Other servers on this machine, at other ports, share the cookies of its name.
            cookie=f"rewardsmith-{port}",
            link=token,
            local=local,
            run=run,
            limits=limits or Limits(),
        )
        shown = f"[{host}]" if ":" in host else host
        url = f"{(public_url or f'{scheme}://{shown}:{port}').rstrip('/')}/" + (f"#{token}" if token else "")
        lines = [f"Labelling at {url} (Ctrl-C ends)"]
        if not settings.secure and not is_loopback(host):
            lines.append(
                "note: without TLS others on the network can read tokens: give --tls-cert and --tls-key"
            )
        config = uvicorn.Config(
            create_app(store, settings),
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=public_url is not None,
            forwarded_allow_ips=["127.0.0.1", "::1"],
            ssl_certfile=tls_cert,
            ssl_keyfile=tls_key,
            limit_concurrency=1000,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=3,
            h11_max_incomplete_event_size=32 * 1024,
        )
        try:
            _Server(config, lines).run(sockets=[listener])
        except KeyboardInterrupt:
            # The server ended in good order and passed the signal on.
            pass
        except OSError as error:
            raise InputError(f"TLS cannot be used ({error}): check --tls-cert and --tls-key") from error


class _Server(uvicorn.Server):
    """Says where it is once it listens, on standard output and in a line that a program can read."""

    def __init__(self, config: uvicorn.Config, lines: list[str]):
        super().__init__(config)
        self._lines = lines

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print("\n".join(self._lines), flush=True)


def _local_labeller(store: Store, host: str, behind_proxy: bool) -> int | None:
    """The owner "local", made where only this machine can ask and no one has a token, else None."""
    active = {one.name: one.id for one in store.labellers() if one.active}
    if active.keys() - {LOCAL}:
        return None
    if behind_proxy or not is_loopback(host):
        where = "a public address" if behind_proxy else host
        raise InputError(
            f"others can reach {where} and no labeller has a token: make one with --add-labeller NAME first"
        )
    if LOCAL not in active:
        store.add_labeller(LOCAL, Role.OWNER)
    return next(one.id for one in store.labellers() if one.name == LOCAL)


def _listen(host: str, port: int) -> socket.socket:
    # getaddrinfo would take 99999 for 34463.
    if not 0 <= port <= 65535:
        raise InputError(f"port {port}: choose one from 1 to 65535, or 0 for any free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(
            f"{host} port {port} is no address ({error}): try --host 127.0.0.1 --port 0"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise InputError(
            f"cannot listen at {host} port {port} ({error.strerror}): choose another --port, or 0 for any"
        ) from error
    return listener
