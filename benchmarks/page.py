"""The results as a page and as a table of numbers."""

import datetime
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from rewardsmith._core import write_atomically

from .rounds import ABSENT, Row, summary
from .subject import Subject


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
    seconds: float | None = None


def circumstances(
    core: int | None, load: float, command: str, versions: dict, seconds: float | None = None
) -> Circumstances:
    """This machine, now; `seconds`: how long the measurements took."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Circumstances(_machine(), os.cpu_count() or 1, core, load, now, command, versions, seconds)


def render(
    subjects: Sequence[Subject], rows: Sequence[Row], more: Sequence[str], where: Circumstances
) -> str:
    """The page: a table of each subject, then the lines of `more`."""
    pinned = "not pinned" if where.core is None else f"core {where.core} for both sides of every ratio"
    took = "" if where.seconds is None else f" in {where.seconds / 60:.0f} minutes"
    lines = [
        "# Benchmarks",
        "",
        "Ratios, measured in one run: ours and the peers live side by side and take turns (A B A B …), one "
        "at a time, pinned to the same core. A ratio is of two turns of one round; given are the median "
        "over rounds and, as spread, the smallest and the largest. Rates are medians too. Machines drift: "
        "read the ratio, not the rate, and nothing into a ratio whose spread holds 1. Where two processes "
        "run at once, each has a core of its own. Peers have environments of their own, which the program "
        "makes: one for all but imitation, which wants older neighbours.",
        "",
        f"* machine: {where.machine}, {where.cores} cores; {pinned}; CPU only, one thread a process",
        f"* load before the run: {where.load:.1f}"
        + (" — the machine was busy with other work" if where.load > 0.5 else ""),
        f"* date: {where.date}",
        f"* made by `{where.command}`{took}; the numbers of every round are in `benchmarks.parquet`",
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
    lines += more
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Row], where: Circumstances) -> pl.DataFrame:
    """One row a ratio; points of curves and parts of runs as rows without a peer, with `series` and `x`."""
    shared = asdict(where) | {"versions": json.dumps(where.versions)}
    records = []
    for row in rows:
        median, least, most = summary(row.ratios) if row.ratios else (None, None, None)
        numbers = {"ratio": median, "ratio_min": least, "ratio_max": most}
        records.append(asdict(row) | numbers | shared)
    schema = {
        **dict.fromkeys(("subject", "unit", "ours", "peer", "series"), pl.String),
        "x": pl.Int64,
        **dict.fromkeys(("ratio", "ratio_min", "ratio_max"), pl.Float64),
        **dict.fromkeys(("our_rates", "peer_rates"), pl.List(pl.Float64)),
        "machine": pl.String,
        "cores": pl.Int64,
        "core": pl.Int64,
        "load": pl.Float64,
        **dict.fromkeys(("date", "command", "versions"), pl.String),
        "seconds": pl.Float64,
    }
    return pl.DataFrame(records, schema=schema)


def write(folder: Path, name: str, text: str, frame: pl.DataFrame) -> Path:
    """``name.md`` and ``name.parquet`` in `folder`, each whole or not at all."""
    path = folder / f"{name}.md"
    with write_atomically(path.with_suffix(".parquet")) as temporary:
        frame.write_parquet(temporary)
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _line(row: Row) -> str:
    ours, peer = (rate(summary(rates)[0]) if rates else ABSENT for rates in (row.our_rates, row.peer_rates))
    if not row.ratios:
        return f"| {row.ours} | {row.peer} | {ours} | {peer} | | |"
    median, least, most = summary(row.ratios)
    return f"| {row.ours} | {row.peer} | {ours} | {peer} | {median:.2f} | {least:.2f} – {most:.2f} |"


def rate(value: float) -> str:
    """As few digits as mean something."""
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def _machine() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
