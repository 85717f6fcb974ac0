"""What is in large files and in what programs write, a piece at a time."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SECRETS", "count", "pieces", "same"]

#: What guest/init plants.
SECRETS = (b"SECRET-MARKER-", b"password=hunter2")


def pieces(path: Path, size: int = 4 << 20) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(size):
            yield piece


def count(path: Path, *needles: bytes) -> int:
    """How often any of ``needles`` stands in a file, also across the borders of what is read at once."""
    found, tail = 0, b""
    for piece in pieces(path):
        text = tail + piece
        found += sum(text.count(needle) - tail.count(needle) for needle in needles)
        tail = text[-max(map(len, needles)) + 1 :]
    return found


def same(process: subprocess.Popen[bytes], expected: Iterator[bytes], but: range = range(0)) -> int:
    """Bytes that a program writes, each held against what is expected, except those at ``but``; it must end well, and
    neither may be longer."""
    assert process.stdout is not None
    assert process.stderr is not None
    total = 0
    with process:
        for piece in expected:
            got = process.stdout.read(len(piece))
            assert len(got) == len(piece), f"ends at {total + len(got)}"
            other = [total + i for i in range(len(piece)) if got[i] != piece[i]] if got != piece else []
            other = [offset for offset in other if offset not in but]
            assert not other, f"{len(other)} bytes differ, the first at {other[0]}"
            total += len(piece)
        assert not process.stdout.read(1), f"has more than {total} bytes"
        said = process.stderr.read().decode(errors="replace")
    assert process.returncode == 0, said
    return total
