"""The results as a page and as a table of numbers."""

import datetime
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from rewardsmith._core import write_atomically

from .rounds import ABSENT, Row, summary
from .subject import Subject

_PARTS = {
    "env": "environment",
    "learner": "learner",
    "leader": "leader",
    "rest": "evaluation and bookkeeping",
}


@dataclass(frozen=True)
class Circumstances:
    """Where, when and how it was measured."""

    machine: str
    cores: int
    core: int | None
    load: float
    date: str
    command: str
    versions: dict[str, dict[str, str]]


def circumstances(core: int | None, load: float, command: str, versions: dict) -> Circumstances:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Circumstances(_machine(), os.cpu_count() or 1, core, load, now, command, versions)


def render(subjects: list[Subject], rows: list[Row], shares: dict[str, float], where: Circumstances) -> str:
    """The page."""
    pinned = "not pinned" if where.core is None else f"core {where.core} for both sides of every ratio"
    lines = [
        "# Benchmarks",
        "",
        "Ratios, measured in one run: ours and the peers live side by side and take turns (A B A B …), one "
        "at a time, pinned to the same core. A ratio is of two turns of one round; given are the median "
        "over rounds and, as spread, the smallest and the largest. Rates are medians too. Machines drift: "
        "read the ratio, not the rate, and nothing into a ratio whose spread holds 1.",
        "",
        f"* machine: {where.machine}, {where.cores} cores; {pinned}; CPU only, one thread a process",
        f"* load before the run: {where.load:.1f}"
        + (" — the machine was busy with other work" if where.load > 0.5 else ""),
        f"* date: {where.date}",
        f"* made by `{where.command}`; the numbers of every round are in `benchmarks.parquet`",
    ]
    for home, versions in where.versions.items():
        told = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines.append(f"* {home}: {told}")
    for subject in subjects:
        lines += ["", f"## {subject.title}", "", f"{subject.how} {subject.rounds} rounds.", ""]
        lines += [
            f"| what | peer | ours, {subject.unit} | peer, {subject.unit} | ratio | spread |",
            "|---|---|---:|---:|---:|---:|",
            *(_line(row) for row in rows if row.subject == subject.name),
        ]
        if subject.name == "end-to-end" and shares:
            told = ", ".join(f"{text} {shares[name]:.1%}" for name, text in _PARTS.items())
            lines += [
                "",
                f"Where the wall time of a short `sobirl` run goes, from its metrics: {told}; "
                f"{_rate(shares['steps_per_second'])} steps/s.",
            ]
    return "\n".join(lines) + "\n"


def table(rows: list[Row], shares: dict[str, float], where: Circumstances) -> pl.DataFrame:
    """One row a ratio; shares of wall time as rows without a peer."""
    shared = asdict(where) | {"versions": json.dumps(where.versions)}
    records = []
    for row in rows:
        median, least, most = summary(row.ratios) if row.ratios else (None, None, None)
        numbers = {"ratio": median, "ratio_min": least, "ratio_max": most}
        rates = {"our_rates": list(row.our_rates), "peer_rates": list(row.peer_rates)}
        names = {"subject": row.subject, "unit": row.unit, "ours": row.ours, "peer": row.peer}
        records.append(names | numbers | rates | shared)
    for name, value in shares.items():
        unit = "steps/s" if name == "steps_per_second" else "share of wall time"
        names = {"subject": "sobirl-shares", "unit": unit, "ours": name, "peer": None}
        records.append(names | {"our_rates": [value], "peer_rates": []} | shared)
    schema = {
        **dict.fromkeys(("subject", "unit", "ours", "peer"), pl.String),
        **dict.fromkeys(("ratio", "ratio_min", "ratio_max"), pl.Float64),
        **dict.fromkeys(("our_rates", "peer_rates"), pl.List(pl.Float64)),
        "machine": pl.String,
        "cores": pl.Int64,
        "core": pl.Int64,
        "load": pl.Float64,
        **dict.fromkeys(("date", "command", "versions"), pl.String),
    }
    return pl.DataFrame(records, schema=schema)


def write(
    folder: Path, subjects: list[Subject], rows: list[Row], shares: dict[str, float], where: Circumstances
) -> Path:
    """``benchmarks.md`` and ``benchmarks.parquet`` in `folder`, each whole or not at all."""
    path = folder / "benchmarks.md"
    with write_atomically(folder / "benchmarks.parquet") as temporary:
        table(rows, shares, where).write_parquet(temporary)
    with write_atomically(path) as temporary:
        temporary.write_text(render(subjects, rows, shares, where), encoding="utf-8")
    return path


def _line(row: Row) -> str:
    ours, peer = (_rate(summary(rates)[0]) if rates else ABSENT for rates in (row.our_rates, row.peer_rates))
    if not row.ratios:
        return f"| {row.ours} | {row.peer} | {ours} | {peer} | | |"
    median, least, most = summary(row.ratios)
    return f"| {row.ours} | {row.peer} | {ours} | {peer} | {median:.2f} | {least:.2f} – {most:.2f} |"


def _rate(value: float) -> str:
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def _machine() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
