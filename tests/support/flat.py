"""Flattened streams for tests, the dump that each describes, made by writing record after record."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable

import pytest

from dumpvault.flows.site import Site
from dumpvault.flows.view import ViewRequest, open_view
from dumpvault.formats.flattened import END_RECORD, Reassembled

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


def known(data: bytes, lost: range = range(0)) -> tuple[bytes, bytearray]:
    """What the records of a stream wrote, cut off or broken as it may be, and 1 for each byte that one did.

    Data that stand in ``lost``, bytes of the stream, do not count.
    """
    out, mask, at = bytearray(), bytearray(), 4096
    while at + 16 <= len(data):
        target, length = struct.unpack_from(">QQ", data, at)
        if length == 0 or target + length >= 1 << 63:
            break
        at += 16
        end = min(at + length, len(data))
        for start, stop in ((at, min(end, lost.start)), (max(at, lost.stop), end)) if lost else ((at, end),):
            if start < stop:
                first, last = target + start - at, target + stop - at
                out.extend(bytes(max(0, last - len(out))))
                mask.extend(bytes(max(0, last - len(mask))))
                out[first:last] = data[start:stop]
                mask[first:last] = b"\1" * (last - first)
        at += length
    return bytes(out), mask


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


def ranged(site: Site, vault: str) -> Reassembled:
    """The dump of a sealed stream by the view's own reader, reading nothing but the indexes before it is asked for."""
    request = ViewRequest(vault, site.trust.private_keys(), partial=True)
    view = open_view(
        site.store(), request, site.trust.allowed_signers(), lambda key: pytest.fail(f"{key.name} is locked")
    )
    return Reassembled(view.reader.indexes(), view.reader.read)


def frame(state: int, first: int, entries: Iterable[tuple[int, int]], magic: int = 0x184D2A5D, more: int = 0) -> bytes:
    """An index as section 9.3 of the spec writes it; ``more`` is added to the size that it claims."""
    entries = list(entries)
    head = struct.pack("<IIII", magic, 8 + 12 * len(entries) + more, state, first)
    columns = b"".join(struct.pack("<Q", t) for t, _ in entries) + b"".join(struct.pack("<I", n) for _, n in entries)
    return head + columns


#: A slice in the middle of a stream, and its index: 100 bytes of a record from before, two records, part of a third.
MIDDLE_OFFSET = 8192
MIDDLE = b"a" * 100 + record(0, b"b" * 50) + record(7000, b"c" * 1000) + record(100, b"d" * 500)[: 16 + 300]
MIDDLE_ENTRIES = [(900, 100), (0, 50), (7000, 1000), (100, 300)]
#: Its last slice: the 3 last bytes of a record's 16, the record, the end, something behind it.
LAST_OFFSET = 16384
LAST = (8).to_bytes(3) + b"e" * 8 + END_RECORD + b"behind"
LAST_ENTRIES = [(4444, 8)]
#: Its first slice, which ends inside the 16 bytes of its second record.
FIRST = HEADER + record(300, b"f" * 30) + record(1, b"g")[:12]

#: (what is wrong, offset and bytes of the slice, its index)
LIES: list[tuple[str, int, bytes, bytes]] = [
    (what, MIDDLE_OFFSET, MIDDLE, lie)
    for what, lie in {
        "nothing": b"",
        "too short": frame(0, 0, [])[:-1],
        "no magic": frame(0, 0, MIDDLE_ENTRIES, magic=0x184D2A5E),
        "a size too large": frame(0, 0, MIDDLE_ENTRIES, more=12),
        "a size too small": frame(0, 0, MIDDLE_ENTRIES, more=-12),
        "a byte behind": frame(0, 0, MIDDLE_ENTRIES, more=1) + b"\0",
        "an entry cut off": frame(0, 0, MIDDLE_ENTRIES)[:-4],
        "an unknown state": frame(4, 0, MIDDLE_ENTRIES),
        "entries where they are left out": frame(3, 0, MIDDLE_ENTRIES),
        "a place where they are left out": frame(3, 5, []),
        "no entries": frame(0, 0, []),
        "no entries, and a place": frame(1, 5, []),
        "an end that is none": frame(1, 0, MIDDLE_ENTRIES),
        "a break that is none": frame(2, 0, MIDDLE_ENTRIES),
        "an entry of no bytes": frame(0, 0, [(900, 100), (0, 50), (7000, 1000), (100, 284), (4, 0)]),
        "a target beyond all": frame(0, 0, [((1 << 63) - 100, 100), *MIDDLE_ENTRIES[1:]]),
        "a first target that wraps": frame(0, 0, [((1 << 64) - 1, 100), *MIDDLE_ENTRIES[1:]]),
        "an entry too long": frame(0, 0, [*MIDDLE_ENTRIES[:3], (100, 301)]),
        "an entry too short": frame(0, 0, [*MIDDLE_ENTRIES[:3], (100, 299)]),
        "an entry far too long": frame(0, 0, [*MIDDLE_ENTRIES[:3], (100, 0xFFFFFFFF)]),
        "an entry left out at the end": frame(0, 0, MIDDLE_ENTRIES[:3]),
        "a first entry left out": frame(0, 116, MIDDLE_ENTRIES[1:]),
        "a first place too late": frame(0, 20, [(920, 80), *MIDDLE_ENTRIES[1:]]),
        "a place beyond the slice": frame(0, 0xFFFFFFFF, MIDDLE_ENTRIES),
        "another target": frame(0, 0, [(900, 100), (1, 50), *MIDDLE_ENTRIES[2:]]),
        "two entries made one": frame(0, 0, [(900, 100), (0, 50 + 16 + 1000), (100, 300)]),
        "one entry made two": frame(0, 0, [(900, 100), (0, 50), (7000, 492), (7508, 492), (100, 300)]),
        "a first entry shorter": frame(0, 0, [(900, 99), (0, 51), *MIDDLE_ENTRIES[2:]]),
        "a place a byte on": frame(0, 1, [(900, 99), *MIDDLE_ENTRIES[1:]])[:-4] + struct.pack("<I", 301),
    }.items()
] + [
    (what, LAST_OFFSET, LAST, lie)
    for what, lie in {
        "an end left out": frame(0, 3, LAST_ENTRIES),
        "an end made a break": frame(2, 3, LAST_ENTRIES),
        "data behind the end": frame(1, 3, [(4444, 8), (5, 6)]),
        "the last bytes of 16 made data": frame(1, 0, [(4441, 11)])[:-4] + struct.pack("<I", 12),
    }.items()
] + [
    (what, 0, FIRST, lie)
    for what, lie in {
        "another first place": frame(0, 4111, [(300, 30)]),
        "an early first place": frame(0, 0, [(300, 30)]),
        "another first target": frame(0, 4112, [(301, 30)]),
        "a first record left out": frame(1, 0, []),
        "a record that is not there": frame(0, 4112, [(300, 14), (1, 12)]),
    }.items()
]  # fmt: skip
#: Those of them that only the bytes of the slice give away.
BYTES_TELL = {
    "an entry too short", "another target", "two entries made one", "one entry made two", "a first entry shorter",
    "an end made a break", "another first target", "the last bytes of 16 made data", "a first record left out",
    "a record that is not there",
}  # fmt: skip
HONEST = [
    (0, FIRST, frame(0, 4112, [(300, 30)])),
    (MIDDLE_OFFSET, MIDDLE, frame(0, 0, MIDDLE_ENTRIES)),
    (LAST_OFFSET, LAST, frame(1, 3, LAST_ENTRIES)),
    (LAST_OFFSET, b"x" * 5000, frame(1, 0, [])),
    (LAST_OFFSET, b"x" * 5000, frame(2, 0, [])),
    (LAST_OFFSET, b"x" * 5000, frame(3, 0, [])),
]
