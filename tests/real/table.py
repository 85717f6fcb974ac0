"""The table of what captures in crash kernels took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from real.machine import Crash, Step

__all__ = ["Row", "table"]

_HEADINGS = (
    "machine", "root in", "capture of", "crashkernel=", "memory there", "available idle", "lowest available",
    "collector's peak", "seconds", "bytes", "sealed bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One capture: of ``size`` bytes into ``sealed`` bytes; None for one that came to no end."""

    crash: Crash
    step: Step
    size: int | None
    sealed: int | None


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a Markdown table, aligned for a terminal too. Memory is in MiB."""
    lines = [_HEADINGS, *map(_cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADINGS))]
    for number, line in enumerate(lines):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        if not number:
            yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"


def _cells(row: Row) -> tuple[str, ...]:
    crash, step = row.crash, row.step
    source = "a makedumpfile pipe" if step.name == "filtered" else "/proc/vmcore"
    return (
        crash.machine.platform.tag,
        crash.layout,
        source,
        f"{crash.reserved_mib}M",
        _mib(crash.memory_kib),
        _mib(step.idle_kib),
        _mib(step.lowest_kib),
        _mib(step.peak_kib),
        f"{step.seconds:.1f}",
        str(row.size or "-"),
        str(row.sealed or "-"),
    )


def _mib(kib: int | None) -> str:
    return "-" if kib is None else f"{kib / 1024:.1f}"
