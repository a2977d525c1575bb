"""What one server of the page is told: whom it listens to, how much, and where the run is."""

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from rewardsmith._core.errors import InputError

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
_HOST = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9._-]{1,253}))(?::\d{1,5})?", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """How much is accepted: sizes in bytes, times in seconds, rates as (requests a second, at once)."""

    head: int = 16 * 1024
    body: int = 16 * 1024
    body_seconds: float = 10.0
    session_seconds: float = 7 * 24 * 3600.0
    session_rate: tuple[float, float] = (40.0, 200.0)
    address_rate: tuple[float, float] = (400.0, 2000.0)
    failed_sign_ins: tuple[float, float] = (0.1, 10.0)
    audited_refusals: tuple[float, float] = (2.0, 100.0)


@dataclass(frozen=True)
class Settings:
    """Settings of a server.

    Attributes:
        hosts: names a request may give as its Host. A page elsewhere whose name was pointed at this machine
            (DNS rebinding) gives another.
        any_address: an address in digits is a Host too: no name can be pointed at it.
        public_url: what people type where a proxy stands in front, such as "https://label.example.org".
        secure: the connection is TLS as people see it: cookies are sent over nothing else.
        cookie: name of the session's cookie. Ports share cookies, so the name tells servers apart.
        link: a token that signs in the labeller `local`, for as long as the server runs; None: there is none.
        local: id of the labeller who sits at the machine.
        run: folder of a run whose returns the dashboard shows; None: none.
        limits: sizes and rates.
    """

    hosts: frozenset[str] = LOOPBACK_NAMES
    any_address: bool = False
    public_url: str | None = None
    secure: bool = False
    cookie: str = "rewardsmith"
    link: str | None = field(default=None, repr=False)
    local: int | None = None
    run: Path | None = None
    limits: Limits = field(default_factory=Limits)

    def accepts(self, host: str) -> bool:
        """Whether a request may carry this Host header.

        Args:
            host: the header as it came, with or without a port.
        """
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = (match[1] or match[2]).lower()
        return name in self.hosts or (self.any_address and is_address(name))


def is_address(name: str) -> bool:
    """Whether `name` is an IPv4 or IPv6 address in digits."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    return host == "localhost" or (is_address(host) and ip_address(host).is_loopback)


def check_public_url(url: str) -> str:
    """The host's name in a URL such as "https://label.example.org"; `InputError` for anything else."""
    parts = urlsplit(url)
    plain = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/")
    if not plain or parts.query or parts.fragment or parts.username:
        raise InputError(f"{url!r} is no address of a page: write it as https://label.example.org")
    return str(parts.hostname)
