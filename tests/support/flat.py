"""Flattened streams for tests, and the dump that each describes, made the simple way: by writing record after record."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable

from dumpvault.formats.flattened import END_RECORD

HEADER = (b"makedumpfile\0\0\0\0" + struct.pack(">qq", 1, 1)).ljust(4096, b"\0")

Piece = tuple[int, bytes]


def record(target: int, data: bytes) -> bytes:
    return struct.pack(">QQ", target, len(data)) + data


def stream(pieces: Iterable[Piece], end: bytes = END_RECORD) -> bytes:
    return HEADER + b"".join(record(*piece) for piece in pieces) + end


def dump(pieces: Iterable[Piece]) -> bytes:
    """What ``makedumpfile -R`` makes: holes are zeros, later records win."""
    out = bytearray()
    for target, data in pieces:
        out.extend(bytes(max(0, target + len(data) - len(out))))
        out[target : target + len(data)] = data
    return bytes(out)


def like_makedumpfile(length: int, seed: int = 0) -> list[Piece]:
    """Records of about 33 KB that fill two areas in turn, half of them seeking backwards, and a header written twice."""
    rng = random.Random(seed)
    pieces = [(0, rng.randbytes(4096)), (4096, rng.randbytes(512))]
    near, far, left = 8192, 8192 + length // 4, length
    while left > 0:
        for at in (near, far):
            size = min(left, rng.randint(30000, 36000) if at == far else 8000)
            pieces.append((at, rng.choice((bytes, rng.randbytes, lambda n: b"text" * (n // 4) + b"x" * (n % 4)))(size)))
            left -= size
            if left <= 0:
                break
        near, far = near + 8000, far + 40000
    return [*pieces, (100, b"the header, again")]
