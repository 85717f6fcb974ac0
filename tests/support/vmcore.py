"""Small vmcores of every shape, and memory to fill them with."""

from __future__ import annotations

import random
import struct
from pathlib import Path

from dumpvault.formats import elf

PAGE = 4096
MARKER = b"SECRET-MARKER-0123456789"


def memory(pages: int, seed: int = 1) -> bytes:
    """Pages in runs of 1 to 8: zeros, text, pointers, noise; every 16th run holds ``MARKER``."""
    rng = random.Random(seed)
    out = bytearray()
    run = 0
    while len(out) < pages * PAGE:
        size = rng.randint(1, 8) * PAGE
        kind = rng.randrange(4)
        if kind == 0:
            data = bytearray(size)
        elif kind == 1:
            data = bytearray((b"%08x kernel: something happened\n" % rng.getrandbits(32)) * (size // 20))[:size]
        elif kind == 2:
            word = struct.Struct("<Q")
            data = bytearray(
                b"".join(word.pack(0xFFFF888000000000 + rng.randrange(4096) * 64) for _ in range(size // 8))
            )
        else:
            data = bytearray(rng.randbytes(size))
        if run % 16 == 3:
            data[100 : 100 + len(MARKER)] = MARKER
        out += data
        run += 1
    return bytes(out[: pages * PAGE])


def core(data: bytes, *, bits: int = 64, endian: str = "little", notes: int = 1, phoff: int | None = None) -> bytes:
    """A core with ``notes`` notes and ``data`` in three segments: unsorted in the table, two overlapping in memory."""
    note = struct.pack("<III" if endian == "little" else ">III", 11, 8, 0) + b"VMCOREINFO\0\0" + b"OSREL=1\0"
    third = len(data) // 3 // PAGE * PAGE
    offsets = [i * 128 for i in range(notes)]
    pages = -(-(offsets[-1] + len(note)) // PAGE) if notes else 0
    count = notes + 3
    table = elf.write_headers([(1, 0, 0, 0)] * count, bits=bits, endian=endian, phoff=phoff)  # type: ignore[arg-type]
    first = -(-len(table) // PAGE) * PAGE
    start = first + pages * PAGE
    segments = [(elf.PT_NOTE, first + offset, 0, len(note)) for offset in offsets]
    segments += [
        (elf.PT_LOAD, start + 2 * third, 0x4000000, len(data) - 2 * third),
        (elf.PT_LOAD, start, 0x1000000, third),
        (elf.PT_LOAD, start + third, 0x1000000 + third // 2, third),
    ]
    head = elf.write_headers(segments, bits=bits, endian=endian, phoff=phoff)  # type: ignore[arg-type]
    body = bytearray(pages * PAGE)
    for offset in offsets:
        body[offset : offset + len(note)] = note
    return head.ljust(first, b"\0") + bytes(body) + data


def write_core(path: Path, pages: int = 64, seed: int = 1) -> Path:
    path.write_bytes(core(memory(pages, seed)))
    return path
