"""Flattened streams for tests, the dump that each describes, made by writing record after record, and a ranged reader."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from functools import partial

from dumpvault.flows.site import Site
from dumpvault.flows.verify import verify
from dumpvault.formats import sealed
from dumpvault.formats.commit import Regions
from dumpvault.formats.flattened import END_RECORD, Index, Reassembled, index_place
from dumpvault.formats.private_key import PrivateKey
from dumpvault.formats.seekable import SeekTable, decode_frame
from dumpvault.model import RegionRecord, body_path, keys_path, vault_prefix
from dumpvault.stages.unlock import choose_key, unlock_attempt, unwrap_key
from dumpvault.stages.unseal import block_list

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
    """The dump of a sealed stream, from the index of each region that is there, reading nothing else of it before it is
    asked for."""
    store, prefix = site.store(), vault_prefix(vault)
    report = verify(store, vault, site.trust.allowed_signers(), bodies=False)
    examiner = report.examiner
    key = choose_key(examiner.header, site.trust.private_keys())
    assert isinstance(key, PrivateKey)
    frame_size, regions = examiner.header.frame_size, []
    for commit in examiner.commits:
        if not isinstance(commit.body, Regions) or not commit.body.regions:
            continue
        kek = unlock_attempt(report.keybags[commit.attempt], key, examiner.header_digest)
        keys = examiner.check_keys(commit, store.get(f"{prefix}/{keys_path(commit.attempt, commit.number)}"))
        for record, (_, wrapped) in zip(commit.body.regions, keys.keys, strict=True):
            name = body_path(commit.attempt, record.index)
            if store.size(f"{prefix}/{name}") is None:
                continue
            bound = sealed.context(vault, commit.attempt, record.index, record.kind, record.offset, record.codec)
            get = partial(store.get, f"{prefix}/{name}")
            blocks = sealed.Blocks(get, block_list(get, record, name), record.message, name)
            message = sealed.Message(unwrap_key(kek, wrapped, name), bound, blocks)
            regions.append(Region(record, message, frame_size))
    regions.sort(key=lambda region: region.record.offset)

    def read(offset: int, length: int) -> bytes:
        out = b""
        for region in regions:
            start, end = max(offset, region.record.offset), min(offset + length, region.record.end)
            if start < end:
                out += region.read(start - region.record.offset, end - start)
        return out

    return Reassembled(((r.record.offset, r.record.length, r.index) for r in regions), read)


class Region:
    """One sealed region read by range: its seek table, its index, its frames."""

    def __init__(self, record: RegionRecord, message: sealed.Message, frame_size: int) -> None:
        self.record, self._message = record, message
        self.table: SeekTable | None = None
        if record.codec == "zstd":
            size = SeekTable.size(record.length, frame_size)
            self.table = SeekTable(
                message.read(message.length - size, size),
                length=record.length, frame_size=frame_size, stream=message.length, indexed=True,
            )  # fmt: skip
        place = index_place(message.length, record.length, self.table)
        self.index = Index.read(message.read(*place), record.offset, record.length)

    def read(self, start: int, length: int) -> bytes:
        table = self.table
        if table is None:
            return self._message.read(start, length)
        first, last = start // table.frame_size, (start + length - 1) // table.frame_size
        plain = b"".join(
            decode_frame(
                self._message.read(table.starts[i], table.starts[i + 1] - table.starts[i]),
                table.frame_length(i), table.frame_size,
            )
            for i in range(first, last + 1)
        )  # fmt: skip
        return plain[start - first * table.frame_size :][:length]
