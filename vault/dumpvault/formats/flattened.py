"""makedumpfile's flattened streams (``makedumpfile -F``): their records, the index of them in each region, the dump they make.

The stream is that of makedumpfile's makedumpfile.h (struct makedumpfile_header and makedumpfile_data_header); the index
and what a reader may rely on are the spec's section 9.3. Writer and readers share the checks here.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from dumpvault.errors import Forged, Incomplete
from dumpvault.formats.seekable import BadStream, Plaintext, SeekTable
from dumpvault.model import RegionRecord

__all__ = [
    "BROKEN",
    "ENDED",
    "END_RECORD",
    "GOING",
    "HEADER",
    "LEFT_OUT",
    "MAX_ENTRIES",
    "Index",
    "Reassembled",
    "Records",
    "index_place",
    "is_flattened",
]

_SIGNATURE = b"makedumpfile\0\0\0\0"
#: Bytes before the first record (MAX_SIZE_MDF_HEADER).
HEADER = 4096
_RECORD = struct.Struct(">QQ")
#: The last record: offset and size −1, both big-endian (makedumpfile's makedumpfile.h, END_FLAG_FLAT_HEADER).
END_RECORD = struct.pack(">qq", -1, -1)
MAX_ENTRIES = 65536
_ABSURD = 1 << 63

#: Bytes that are read to see 16: as many as cost no more.
_GLANCE = 512

GOING, ENDED, BROKEN, LEFT_OUT = range(4)
_MAGIC = 0x184D2A5D
_HEAD = struct.Struct("<IIII")


def is_flattened(start: bytes) -> bool:
    """Whether a stream that begins with ``start`` carries the flattened header (signature, type 1)."""
    return start[:16] == _SIGNATURE and start[16:24] in (struct.pack(">q", 1), b"")


@dataclass(frozen=True, slots=True)
class Index:
    """The record data in one slice of the stream; all in bytes.

    Entry k is ``lengths[k]`` bytes for byte ``targets[k]`` of the dump. The data of entry 0 begin at byte ``first`` of
    the slice, those of each next entry 16 bytes after the end of the one before.
    """

    state: int
    first: int
    targets: array[int]
    lengths: array[int]

    @property
    def end(self) -> int:
        """Where in the slice the data of the last entry end; ``first`` without entries."""
        return self.first + sum(self.lengths) + _RECORD.size * max(0, len(self.lengths) - 1)

    def encode(self) -> bytes:
        """The skippable frame (RFC 8878 section 3.1.2) that holds the index."""
        columns = [self.targets, self.lengths]
        if sys.byteorder == "big":
            columns = [array(column.typecode, column) for column in columns]
            for column in columns:
                column.byteswap()
        size = 8 + 12 * len(self.targets)
        return _HEAD.pack(_MAGIC, size, self.state, self.first) + b"".join(column.tobytes() for column in columns)

    @classmethod
    def of_region(cls, plaintext: Plaintext, record: RegionRecord, table: SeekTable | None) -> Index:
        """The index in a region's plaintext; ``table`` is its seek table, None for codec ``raw``. Raises ``BadStream``."""
        place = index_place(plaintext.length, record.length, table)
        return cls.read(plaintext.read(*place), record.offset, record.length)

    @classmethod
    def read(cls, frame: bytes, offset: int, length: int) -> Index:
        """The index of the slice of ``length`` bytes at byte ``offset`` of the stream. Raises ``BadStream``."""
        count, rest = divmod(len(frame) - _HEAD.size, 12)
        if count < 0 or rest or count > MAX_ENTRIES:
            raise BadStream(f"{len(frame)} bytes are no index of records")
        magic, size, state, first = _HEAD.unpack_from(frame)
        if (magic, size) != (_MAGIC, len(frame) - 8) or state > LEFT_OUT:
            raise BadStream("no index of records where it must stand")
        targets, lengths = array("Q"), array("I")
        targets.frombytes(frame[16 : 16 + 8 * count])
        lengths.frombytes(frame[16 + 8 * count :])
        if sys.byteorder == "big":
            targets.byteswap()
            lengths.byteswap()
        index = cls(state, first, targets, lengths)
        index._check(offset, length)
        return index

    def _check(self, offset: int, length: int) -> None:
        if not self.targets:
            most = length if self.state != GOING else _RECORD.size if offset else HEADER + _RECORD.size
            if self.first or length > most:
                raise BadStream("its index of records leaves records out")
            return
        behind = length - self.end
        if (
            self.state == LEFT_OUT
            or (self.first > _RECORD.size if offset else self.first != HEADER + _RECORD.size)
            or not (0 <= behind <= _RECORD.size if self.state == GOING else behind >= _RECORD.size)
            or min(self.lengths) == 0
            or max(map(int.__add__, self.targets, self.lengths)) >= _ABSURD
        ):
            raise BadStream("its index of records cannot be true")


def index_place(plaintext: int, length: int, table: SeekTable | None) -> tuple[int, int]:
    """(start, bytes) of the index in the plaintext of a region of kind ``flattened``.

    ``plaintext`` is the message's, ``length`` the region's, in bytes; ``table`` is its seek table, None for codec
    ``raw``. Raises ``BadStream`` where no index has room, or one would be larger than the spec allows.
    """
    start, end = (length, plaintext) if table is None else (table.starts[-1], plaintext - table.bytes)
    if not _HEAD.size <= end - start <= _HEAD.size + 12 * MAX_ENTRIES:
        raise BadStream(f"{end - start} bytes where its index of records must stand")
    return start, end - start


class Records:
    """Follows a stream's records as its bytes pass, and makes the index of each slice.

    Its state does not grow with the stream: where the next record begins, what is known of one whose 16 bytes are not
    all there yet, and the entries of the slice at hand.
    """

    def __init__(self) -> None:
        self.state = GOING
        #: Where in the stream the next record's 16 bytes begin.
        self.next = HEADER
        self._at = 0  # what has passed
        self._shift: int | None = None  # target less stream offset of the data that end at ``next``
        self._partial = b""
        self.begin()

    @classmethod
    def within(cls, offset: int, index: Index) -> Records | None:
        """A follower that takes from the index of the slice at ``offset`` what only the slice before could tell.

        Fed with the slice, it comes to the same index, or that one lies. None if it says nothing that can be checked.
        """
        records = cls()
        if index.state == LEFT_OUT or (offset and not index.targets):
            return None
        if offset:
            records._at = records.next = offset
            records.begin()
            if index.first < _RECORD.size:
                records._first = index.first
                records._targets.append(index.targets[0])
                records._lengths.append(index.lengths[0])
                records.next += index.first + index.lengths[0]
        return records

    def ahead(self, offset: int, look: Callable[[int, int], bytes]) -> Records:
        """A follower that begins at byte ``offset`` of a stream that can be read anywhere.

        ``look(length, offset)`` reads a few bytes of it; where it gives less or raises ``OSError``, the stream counts as
        broken. Asked for in rising order, each record's 16 bytes are looked at once, small records' together.
        """
        following, unpack, shift = self.next, _RECORD.unpack_from, self._shift
        seen, start, end = b"", 0, 0  # a few bytes, where they begin, and where 16 of them are the last
        partial = b""
        if self.state == GOING:
            target = length = 0
            try:
                while following + 16 <= offset:
                    if following > end:
                        seen, start = look(_GLANCE, following), following
                        end = start + len(seen) - 16
                    target, length = unpack(seen, following - start)
                    if not length or target + length >= _ABSURD:
                        self._stop(target, length)
                        break
                    following += 16
                    shift = target - following
                    following += length
                else:
                    if following < offset:
                        partial = look(offset - following, following)
            except (OSError, struct.error):
                self._stop(0, 0)
        self.next, self._shift = following, shift
        records = Records()
        records.state, records.next, records._shift, records._at = self.state, following, shift, offset
        records._partial = partial
        records.begin()
        return records

    def begin(self) -> None:
        """Begin the slice that starts at what has passed."""
        self._crowded = False
        self._targets, self._lengths = array("Q"), array("Q")
        self._first = self.next + _RECORD.size - self._at
        if self._shift is not None and self.next > self._at:
            self._first = 0
            self._targets.append(self._at + self._shift)
            self._lengths.append(self.next - self._at)

    def feed(self, data: bytes | memoryview) -> None:
        """Take the stream's next bytes."""
        at = self._at
        end = self._at = at + len(data)
        if self.state != GOING:
            return
        following, unpack = self.next, _RECORD.unpack_from
        targets, lengths = self._targets, self._lengths
        target = length = 0
        while following + 16 <= end:
            if following < at:
                target, length = unpack(self._partial + data[: 16 - len(self._partial)])
            else:
                target, length = unpack(data, following - at)
            if not length or target + length >= _ABSURD:
                self._stop(target, length)
                self.next = following
                return
            following += 16
            targets.append(target)
            lengths.append(length)
            following += length
        if length:
            self._shift = target - (following - length)
        if following < end:
            self._partial = (self._partial if following < at else b"") + data[max(0, following - at) :]
        self.next = following
        if len(targets) > MAX_ENTRIES + 1:  # the last may yet begin behind the slice
            self._crowded = True
            del targets[:-1], lengths[:-1]

    def _stop(self, target: int, length: int) -> None:
        """The 16 bytes where a record must begin are no record's."""
        self.state = ENDED if target == length == (1 << 64) - 1 else BROKEN

    def index(self) -> Index:
        """The index of the slice that ends with what has passed."""
        targets, lengths = self._targets, self._lengths
        if lengths and self.next > self._at:
            beyond = self.next - self._at
            if lengths[-1] > beyond:
                lengths[-1] -= beyond
            else:  # its 16 bytes end with the slice
                del targets[-1], lengths[-1]
        if self._crowded or len(targets) > MAX_ENTRIES:
            return Index(LEFT_OUT, 0, array("Q"), array("I"))
        return Index(self.state, self._first if targets else 0, targets, array("I", lengths))


#: The records of 16 MiB of dump are a bucket, which is put in order when it is first read.
_BUCKET = 24
_WITHIN = (1 << _BUCKET) - 1
_LENGTH = (1 << 32) - 1
#: Of each record: offset in the bucket (high half) and length, and where its data stand in the stream; whether in order.
_Bucket = tuple["array[int]", "array[int]", bool]


class Reassembled:
    """The dump that a flattened stream describes, as ``makedumpfile -R`` makes it, read without making it.

    ``read(offset, length)`` reads the stream; ``regions`` are (offset, length, index) of the regions that are there, in
    the order of the stream; all in bytes. A record takes 18 bytes of memory, so 1 TiB of stream with 31 records a MiB
    takes 580 MB.

    ``size`` is the dump's, in bytes; ``whole`` says that all records are known, up to the end record. Where they are
    not, each byte is what the last record *known* wrote. Raises ``Forged`` where neighbours contradict each other,
    ``Incomplete`` where a region's index was left out.
    """

    def __init__(self, regions: Iterable[tuple[int, int, Index]], read: Callable[[int, int], bytes]) -> None:
        self._read = read
        self._buckets: dict[int, _Bucket] = {}
        self.size = 0
        self.whole = False
        at, gapless, tip = 0, True, _Tip()
        for offset, length, index in regions:
            if index.state == LEFT_OUT:
                raise Incomplete(
                    f"the region at byte {offset:#x} of the stream has too many records for an index",
                    "Open the stream and let 'makedumpfile -R' make the dump of it.",
                )
            if offset != at:
                gapless = False
            elif not tip.followed_by(index, offset):
                raise Forged(
                    f"the records of the region at byte {offset:#x} of the stream do not go on where those before it end",
                    "Its collector may be faulty or hostile. The stream itself can be opened.",
                )
            self._add(offset + index.first, index)
            tip.pass_(index, offset)
            at = offset + length
            self.whole = self.whole or (gapless and index.state == ENDED)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes of the dump from ``offset``; less at its end. What no record wrote is zeros.

        Raises ``Incomplete`` where it is not known whether one did, and what reading the stream raises.
        """
        out = bytearray(max(0, min(length, self.size - offset)))
        at, end = offset, offset + len(out)
        while at < end:
            number = at >> _BUCKET
            base = number << _BUCKET
            for start, stop, stand in self._pieces(number, at - base, min(end - base, 1 << _BUCKET)):
                if base + start > at:
                    self._hole(at)
                data = self._read(stand, stop - start)
                if len(data) != stop - start:
                    raise Incomplete(f"the stream ends inside a record, at byte {stand + len(data):#x}")
                out[base + start - offset : base + stop - offset] = data
                at = base + stop
            bound = min(end, base + (1 << _BUCKET))
            if at < bound:
                self._hole(at)
            at = bound
        return bytes(out)

    def _hole(self, at: int) -> None:
        if not self.whole:
            raise Incomplete(
                f"byte {at:#x} of the dump is in no record that is there; the stream is cut off or regions of it are missing",
                "It is not known to be zero. Other parts of the dump can be read.",
            )

    def _pieces(self, number: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """What records wrote between two bytes of a bucket: (start, end, where in the stream), in order."""
        from bisect import bisect_right

        bucket = self._buckets.get(number)
        if bucket is None:
            return
        if not bucket[2]:
            bucket = self._buckets[number] = _in_order(bucket[0], bucket[1])
        spans, stands, _ = bucket
        for i in range(max(0, bisect_right(spans, start << 32 | _LENGTH) - 1), len(spans)):
            begin, length = spans[i] >> 32, spans[i] & _LENGTH
            if begin >= end:
                return
            left, right = max(begin, start), min(begin + length, end)
            if left < right:
                yield left, right, stands[i] + left - begin

    def _add(self, stand: int, index: Index) -> None:
        buckets, size = self._buckets, self.size
        for target, length in zip(index.targets, index.lengths, strict=True):
            at, end = target, target + length
            size = max(size, end)
            while at < end:
                number = at >> _BUCKET
                n = min(end, number + 1 << _BUCKET) - at
                bucket = buckets.get(number)
                if bucket is None:
                    bucket = buckets[number] = (array("Q"), array("Q"), False)
                bucket[0].append((at & _WITHIN) << 32 | n)
                bucket[1].append(stand)
                at += n
                stand += n
            stand += _RECORD.size
        self.size = size


class _Tip:
    """How the index of one region must go on from the one before."""

    def __init__(self) -> None:
        self._state = GOING
        self._end = HEADER  # of the last entry's data, in the stream
        self._target: int | None = None  # where data behind them would belong

    def followed_by(self, index: Index, offset: int) -> bool:
        if self._state != GOING:
            return index.state == self._state and not index.targets
        if not index.targets:
            return self._end + _RECORD.size != offset
        if self._end == offset and index.first == 0:
            return index.targets[0] == self._target
        return self._end + _RECORD.size == offset + index.first or offset == 0

    def pass_(self, index: Index, offset: int) -> None:
        self._state = index.state
        if index.targets:
            self._end = offset + index.end
            self._target = index.targets[-1] + index.lengths[-1]


def _in_order(added_spans: array[int], added_stands: array[int]) -> _Bucket:
    """Sort what was added in the order of the stream, later records over earlier ones."""
    from heapq import heappop, heappush

    added = sorted((span >> 32, -i, span & _LENGTH, added_stands[i]) for i, span in enumerate(added_spans))
    spans, stands = array("Q"), array("Q")
    live: list[tuple[int, int, int, int]] = []  # (order, latest first; end; start; stand)
    at = i = 0
    while i < len(added) or live:
        if not live:
            at = added[i][0]
        while i < len(added) and added[i][0] <= at:
            start, order, length, stand = added[i]
            heappush(live, (order, start + length, start, stand))
            i += 1
        while live and live[0][1] <= at:
            heappop(live)
        if live:
            _, end, start, stand = live[0]
            until = min(end, added[i][0]) if i < len(added) else end
            spans.append(at << 32 | until - at)
            stands.append(stand + at - start)
            at = until
    return spans, stands, True
