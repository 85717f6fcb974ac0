"""The kernel log of an image, from VMCOREINFO alone: no debug symbols.

Three forms, by what VMCOREINFO names: the lockless ring (``prb``, Linux 5.10 and later; kernel
kernel/printk/printk_ringbuffer.c), the record buffer (``log_first_idx``, 3.5 to 5.9; kernel/printk/printk.c) and the
character buffer before them (``log_end``). Only what the log occupies is read. A damaged log gives the records that
make sense, each once, and a warning; it never makes the reader loop: every form is bounded by its own buffer.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dumpvault.errors import BadInput
from dumpvault.formats.memory import Image
from dumpvault.formats.paging import KernelMemory, kernel_memory
from dumpvault.formats.vmcoreinfo import number, required, symbol

__all__ = ["Record", "Warn", "format_record", "kernel_log"]

Warn = Callable[[str], None]

_WORD = 8
_STATE_SHIFT = 62  # a descriptor's state_var: its state in two bits, its id below
_ID = (1 << _STATE_SHIFT) - 1
_COMMITTED, _FINALIZED = 1, 2
_MAX_BITS = 31  # LOG_BUF_LEN_MAX is 2^31 bytes of text, with a descriptor for every 2^5 (PRB_AVGBITS)
_MAX_DESC_BITS = 26
_MAX_LOST = 4096  # in a row


@dataclass(frozen=True, slots=True)
class Record:
    """One message as the kernel keeps it.

    ``nanoseconds`` since boot, None where the text itself holds the time. ``caller`` is the kernel's caller_id: a
    thread's number, or with bit 31 a processor's; None if VMCOREINFO does not say where it is.
    """

    text: bytes
    nanoseconds: int | None
    caller: int | None = None


def format_record(record: Record, *, caller: bool = False) -> bytes:
    """The record as lines, the last one ended: byte for byte what ``makedumpfile --dump-dmesg`` writes.

    ``[    1.234567] text``; a second line of the same record is indented; what is neither printable ASCII nor white
    space is written ``\\xNN``. ``caller`` adds the kernel's ``[    T1]`` or ``[    C0]`` (CONFIG_PRINTK_CALLER).
    One thing differs: a byte from 0x80 is ``\\xe4``, where makedumpfile on a machine with signed ``char`` writes
    ``\\xffffffe4``. The character buffer of old kernels is handed on as it is, by either program.
    """
    if record.nanoseconds is None:
        return record.text
    seconds, rest = divmod(record.nanoseconds, 1_000_000_000)
    head = b"[%5d.%06d]" % (seconds, rest // 1000)
    if caller and record.caller is not None:
        head += b"[%6s]" % (b"%c%d" % (b"C" if record.caller >> 31 else b"T", record.caller & 0x7FFF_FFFF))
    head += b" "
    lines = record.text.split(b"\n")
    return head + (b"\n" + b" " * len(head)).join(_printable(line) for line in lines) + b"\n"


def _printable(line: bytes) -> bytes:
    if line.isascii() and line.decode("ascii").isprintable():
        return line
    return b"".join(b"%c" % byte if 32 <= byte < 127 or 9 <= byte <= 13 else b"\\x%02x" % byte for byte in line)


def kernel_log(image: Image, warn: Warn = lambda _: None) -> Iterator[Record]:
    """The records of the kernel log, oldest first, read as they are asked for.

    ``warn`` is told, in one sentence each, of what could not be read. Raises ``BadInput`` without a VMCOREINFO, without a
    log in it, and for a machine whose addresses are not translated; when the first record is asked for also if the log's
    own head cannot be read or makes no sense. Any other error of the image's read function passes through.
    """
    memory = kernel_memory(image)
    info = image.info
    if symbol(info, "prb") is not None:
        return _lockless(image, memory, warn)
    if symbol(info, "log_first_idx") is not None:
        return _records(image, memory, warn)
    if symbol(info, "log_end") is not None:
        return _characters(image, memory, warn)
    raise BadInput(
        f"VMCOREINFO names no kernel log (kernel {image.release or 'unknown'})",
        "It was built without printk, or is too old to name its log. Use crash with its debug symbols.",
    )


class _Structures:
    """Integers at kernel addresses, in the machine's byte order."""

    def __init__(self, image: Image, memory: KernelMemory) -> None:
        self._memory = memory
        self._order = "<" if image.endian == "little" else ">"

    def word(self, data: bytes, at: int) -> int:
        """An ``unsigned long`` or a pointer: 64 bits on every machine whose addresses are translated."""
        return self.number(data, at, "Q")

    def number(self, data: bytes, at: int, code: str) -> int:
        try:
            (value,) = struct.unpack_from(self._order + code, data, at)
        except struct.error:
            raise BadInput(
                f"VMCOREINFO puts a field at {at:#x} of a structure of {len(data)} bytes",
                "It is damaged, or of a kernel that is not known here. Use crash with the kernel's debug symbols.",
            ) from None
        return int(value)

    def read_word(self, address: int) -> int:
        return self.word(self._memory.read(address, _WORD), 0)

    def read_int(self, address: int) -> int:
        return self.number(self._memory.read(address, 4), 0, "I")


class _Window:
    """Kernel memory from ``base``, of which the page last used is kept: neighbours are read together."""

    def __init__(self, memory: KernelMemory, base: int) -> None:
        self._memory = memory
        self._base = base
        self._start = -1
        self._page = b""

    def get(self, offset: int, length: int) -> bytes:
        out = bytearray()
        while length > 0:
            address = self._base + offset
            start = address - address % 4096
            if start != self._start:
                self._page = self._memory.read(start, 4096)
                self._start = start
            take = min(length, 4096 - address % 4096)
            out += self._page[address - start : address - start + take]
            offset += take
            length -= take
        return bytes(out)


def _power(structures: _Structures, data: bytes, at: int, what: str, most: int) -> int:
    bits = structures.number(data, at, "I")
    if bits > most:
        raise BadInput(
            f"the kernel log's {what} is 2^{bits}: no kernel has such a ring",
            "The structure is damaged, or the dump's addresses are not what VMCOREINFO says. Use crash on the opened dump.",
        )
    return 1 << bits


class _Ring:
    """struct printk_ringbuffer: its descriptors, infos and text, each read a page at a time."""

    def __init__(self, image: Image, memory: KernelMemory) -> None:
        info = image.info
        s = _Structures(image, memory)
        self._s = s
        self._info = info
        counter = number(info, "OFFSET(atomic_long_t.counter)") or 0
        at = s.read_word(required(info, "SYMBOL(prb)"))
        ring = memory.read(at, self._size("printk_ringbuffer"))

        def within(outer: str, field: str) -> int:
            return required(info, f"OFFSET(printk_ringbuffer.{outer})") + required(info, f"OFFSET(prb_{field})")

        self.count = _power(s, ring, within("desc_ring", "desc_ring.count_bits"), "descriptor ring", _MAX_DESC_BITS)
        self.text_size = _power(s, ring, within("text_data_ring", "data_ring.size_bits"), "text ring", _MAX_BITS)
        self.tail = s.word(ring, within("desc_ring", "desc_ring.tail_id") + counter) & _ID
        self.head = s.word(ring, within("desc_ring", "desc_ring.head_id") + counter) & _ID
        self._desc_size, self._info_size = self._size("prb_desc"), self._size("printk_info")
        descs = s.word(ring, within("desc_ring", "desc_ring.descs"))
        infos = s.word(ring, within("desc_ring", "desc_ring.infos"))
        text = s.word(ring, within("text_data_ring", "data_ring.data"))
        self._descs, self._infos, self._text = _Window(memory, descs), _Window(memory, infos), _Window(memory, text)
        self._state_at = required(info, "OFFSET(prb_desc.state_var)") + counter
        block_at = required(info, "OFFSET(prb_desc.text_blk_lpos)")
        self._begin_at = block_at + required(info, "OFFSET(prb_data_blk_lpos.begin)")
        self._next_at = block_at + required(info, "OFFSET(prb_data_blk_lpos.next)")
        self._time_at = required(info, "OFFSET(printk_info.ts_nsec)")
        self._length_at = required(info, "OFFSET(printk_info.text_len)")
        self._caller_at = number(info, "OFFSET(printk_info.caller_id)")

    def _size(self, name: str) -> int:
        size = required(self._info, f"SIZE({name})")
        if not 0 < size <= 4096:
            raise BadInput(f"VMCOREINFO says SIZE({name})={size}", "It is damaged. Use crash on the opened dump.")
        return size

    def record(self, id_: int) -> Record | None:
        """The record with this id; None if it is not there: unused, not written yet, or without text."""
        s = self._s
        slot = id_ % self.count
        desc = self._descs.get(slot * self._desc_size, self._desc_size)
        state = s.word(desc, self._state_at)
        if state & _ID != id_ or state >> _STATE_SHIFT not in (_COMMITTED, _FINALIZED):
            return None
        begin, end = s.word(desc, self._begin_at), s.word(desc, self._next_at)
        if begin & 1 and end & 1:  # data-less: an empty line, or no room for the text
            return None
        at, room = self._block(begin, end, id_)
        details = self._infos.get(slot * self._info_size, self._info_size)
        length = min(s.number(details, self._length_at, "H"), room)
        return Record(
            text=self._text.get(at, length),
            nanoseconds=s.number(details, self._time_at, "Q"),
            caller=None if self._caller_at is None else s.number(details, self._caller_at, "I"),
        )

    def _block(self, begin: int, end: int, id_: int) -> tuple[int, int]:
        """Where the text of a block stands in the ring, and its bytes. A block that would wrap stands at the ring's start."""
        size = self.text_size
        start, stop = begin % size, (end - 1) % size + 1
        if begin // size != (end - 1) % (1 << 64) // size:
            start = 0
        if start + _WORD > stop:
            raise _Damage("its text block ends before it begins")
        if self._s.word(self._text.get(start, _WORD), 0) & _ID != id_:
            raise _Damage("its text block belongs to another record")
        return start + _WORD, stop - start - _WORD


class _Damage(Exception):
    """One record makes no sense; says why."""


def _lockless(image: Image, memory: KernelMemory, warn: Warn) -> Iterator[Record]:
    ring = _Ring(image, memory)
    count = (ring.head - ring.tail & _ID) + 1
    if count > ring.count:
        warn(
            f"the kernel log's ring of {ring.count} claims {count} records: only the newest {ring.count} are looked at"
        )
        count = ring.count
    lost = in_a_row = 0
    for back in range(count - 1, -1, -1):
        id_ = ring.head - back & _ID
        try:
            record = ring.record(id_)
        except (_Damage, BadInput) as error:
            if not lost:
                warn(f"the kernel log is damaged: record {id_:#x} is left out: {error}")
            lost += 1
            in_a_row += 1
            if in_a_row == _MAX_LOST:
                warn(f"{in_a_row} records in a row could not be read: the {back} that follow are left out")
                return
            continue
        in_a_row = 0
        if record is not None:
            yield record
    if lost > 1:
        warn(f"{lost} records of the kernel log could not be read")


def _records(image: Image, memory: KernelMemory, warn: Warn) -> Iterator[Record]:
    """Records of varying length from ``log_first_idx`` to ``log_next_idx``; length 0 sends the reader to the start."""
    info = image.info
    s = _Structures(image, memory)
    name = "printk_log" if "SIZE(printk_log)" in info else "log"  # "log" until 3.10
    head_size = required(info, f"SIZE({name})")
    at = {field: required(info, f"OFFSET({name}.{field})") for field in ("ts_nsec", "len", "text_len")}
    caller_at = number(info, f"OFFSET({name}.caller_id)")
    size = s.read_int(required(info, "SYMBOL(log_buf_len)"))
    index, end = (s.read_int(required(info, f"SYMBOL({key})")) for key in ("log_first_idx", "log_next_idx"))
    window = _Window(memory, s.read_word(required(info, "SYMBOL(log_buf)")))
    if not 0 < head_size <= 4096 or not 0 < size <= 1 << _MAX_BITS or index >= size or end > size:
        raise BadInput(
            f"the kernel log's buffer of {size} bytes goes from {index} to {end}, with heads of {head_size}",
            "The structure is damaged, or the dump's addresses are not what VMCOREINFO says. Use crash on the opened dump.",
        )
    while index != end:
        limit = end if index < end else size  # past the start once, and then up to the end: no more than one round
        try:
            head = window.get(index, head_size) if index + head_size <= limit else bytes(head_size)
            length, text_length = (s.number(head, at[field], "H") for field in ("len", "text_len"))
            if length == 0 and end < index:
                index = 0
                continue
            if length < head_size + text_length or index + length > limit:
                raise BadInput(f"a record of {length} bytes with {text_length} of text cannot be")
            text = window.get(index + head_size, text_length)
        except BadInput as error:
            warn(f"the kernel log is damaged at byte {index} of its buffer: what follows is left out: {error}")
            return
        yield Record(
            text=text,
            nanoseconds=s.number(head, at["ts_nsec"], "Q"),
            caller=None if caller_at is None else s.number(head, caller_at, "I"),
        )
        index += length


def _characters(image: Image, memory: KernelMemory, warn: Warn) -> Iterator[Record]:
    """A ring of characters: the last ``log_buf_len`` of the ``log_end`` that were ever written."""
    info = image.info
    s = _Structures(image, memory)
    size = s.read_int(required(info, "SYMBOL(log_buf_len)"))
    end = s.read_int(required(info, "SYMBOL(log_end)"))
    if not 0 < size <= 1 << _MAX_BITS or size & size - 1:
        raise BadInput(
            f"the kernel log's buffer has {size} bytes", "The structure is damaged. Use crash on the opened dump."
        )
    window = _Window(memory, s.read_word(required(info, "SYMBOL(log_buf)")))
    at = max(end - size, 0)
    lost = 0
    while at < end:
        take = min(end - at, size - at % size, 4096)
        try:
            text = window.get(at % size, take)
        except BadInput as error:
            if not lost:
                warn(f"the kernel log is damaged: {take} characters and perhaps more are left out: {error}")
            lost += take
        else:
            yield Record(text=text, nanoseconds=None)
        at += take
