"""Memory-like data for benchmarks: an ELF core of runs of 16 pages, 40 % zeros, 20 % text, 20 % pointers, 20 % noise.

python benchmarks/memory.py FILE MIB
"""

from __future__ import annotations

import os
import random
import sys

from dumpvault.formats import elf

PAGE = 4096
RUN = 16 * PAGE


def _text(rng: random.Random) -> bytes:
    """4 MiB of log-like lines, no two alike."""
    lines = []
    total = 0
    while total < 4 << 20:
        line = (
            f"Nov {rng.randint(1, 30):2} {rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02} "
            f"host{rng.randint(1, 40)} kernel: [{rng.random() * 1e5:12.6f}] "
            f"{rng.choice(('eth0', 'nvme0n1', 'sshd', 'postgres', 'EXT4-fs'))}: "
            f"{rng.choice(('link up', 'timeout', 'accepted from', 'checkpoint', 'remount'))} "
            f"{rng.randint(1, 1 << 32):x} {rng.randint(1, 1 << 16)}\n"
        ).encode()
        lines.append(line)
        total += len(line)
    return b"".join(lines)


def _pointers(rng: random.Random) -> bytes:
    """4 MiB of kernel-like pointers and small integers."""
    words = []
    for _ in range((4 << 20) // 8):
        word = 0xFFFF888000000000 + rng.randrange(1 << 27) * 64 if rng.random() < 0.6 else rng.randrange(1 << 12)
        words.append(word.to_bytes(8, "little"))
    return b"".join(words)


def write(path: str, mib: int, seed: int = 7) -> None:
    """Write the core; the same bytes for the same arguments."""
    rng = random.Random(seed)
    size = mib << 20
    text, pointers = _text(rng), _pointers(rng)
    note = bytes(512)
    segments = [(elf.PT_NOTE, PAGE, 0, len(note)), (elf.PT_LOAD, 2 * PAGE, 1 << 20, size)]
    with open(path, "wb") as file:
        file.write(elf.write_headers(segments).ljust(PAGE, b"\0") + note.ljust(PAGE, b"\0"))
        for _ in range(size // RUN):
            kind = rng.random()
            at = rng.randrange((4 << 20) - RUN) & ~7
            if kind < 0.4:
                file.write(bytes(RUN))
            elif kind < 0.6:
                file.write(text[at : at + RUN])
            elif kind < 0.8:
                file.write(pointers[at : at + RUN])
            else:
                file.write(os.urandom(RUN) if seed == 0 else rng.randbytes(RUN))


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]))
