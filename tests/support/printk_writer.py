"""The kernel's side of its log, written from the kernel's source: rings are filled record by record, as printk does it.

It keeps what a reader must find as Python objects (``survivors``), and never looks into the bytes that it made.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

MASK64 = (1 << 64) - 1
ID_MASK = (1 << 62) - 1
RESERVED, COMMITTED, FINALIZED, REUSABLE = range(4)
FAILED_LPOS, EMPTY_LINE_LPOS = 1, 3


@dataclass
class Message:
    """What is logged. ``fate``: how far its writer came."""

    text: bytes
    nanoseconds: int = 0
    caller: int = 0
    dictionary: bytes = b""
    fate: str = "finalized"  # or committed, reserved, failed


@dataclass
class Blob:
    """Bytes that stand at ``name``: the tests choose the address."""

    name: str
    data: bytes
    pointers: dict[int, str] = field(default_factory=dict)  # offset in data: the name it points to


@dataclass
class _Desc:
    id: int
    state: int
    begin: int
    next: int
    message: Message | None


class LocklessWriter:
    """kernel/printk/printk_ringbuffer.c: prb_reserve, prb_commit, prb_final_commit; ``pad`` moves every field."""

    def __init__(
        self, desc_bits: int, text_bits: int, *, order: str = "<", pad: int = 0, exact_fit: bool = False
    ) -> None:
        self.desc_bits, self.text_bits = desc_bits, text_bits
        self.count, self.size = 1 << desc_bits, 1 << text_bits
        self.order, self.pad, self.exact_fit = order, pad, exact_fit
        self.head_id = self.tail_id = -(self.count + 1) & ID_MASK  # DESC0_ID
        self.head_lpos = self.tail_lpos = -self.size & MASK64  # BLK0_LPOS
        self.descs: dict[int, _Desc] = {
            self.head_id % self.count: _Desc(self.head_id, REUSABLE, FAILED_LPOS, FAILED_LPOS, None)
        }
        self.text = bytearray(self.size)

    def _wrap(self, lpos: int) -> int:
        return (lpos & MASK64) >> self.text_bits

    def _next_lpos(self, begin: int, size: int) -> int:
        end = begin + size & MASK64
        last = end - 1 if self.exact_fit else end
        if self._wrap(begin) == self._wrap(last):
            return end
        return ((end >> self.text_bits << self.text_bits) + size) & MASK64

    def log(self, message: Message) -> None:
        new = self.head_id + 1 & ID_MASK
        if new - self.count & ID_MASK == self.tail_id:
            oldest = self.descs[self.tail_id % self.count]
            self._free(oldest)
            self.tail_id = self.tail_id + 1 & ID_MASK
        self.head_id = new
        desc = _Desc(new, RESERVED, FAILED_LPOS, FAILED_LPOS, message)
        self.descs[new % self.count] = desc
        if not message.text:
            desc.begin = desc.next = EMPTY_LINE_LPOS
        elif message.fate != "failed":
            self._store(desc, message.text)
        if message.fate != "reserved":
            desc.state = COMMITTED if message.fate == "committed" else FINALIZED

    def _free(self, desc: _Desc) -> None:
        """A descriptor's data is given up with all older data: the tail moves behind its block."""
        desc.state = REUSABLE
        if not desc.begin & 1 and (desc.next - self.tail_lpos & MASK64) < 1 << 63:
            self.tail_lpos = desc.next

    def _store(self, desc: _Desc, text: bytes) -> None:
        size = -(-(8 + len(text)) // 8) * 8
        assert size <= self.size // 2, "the kernel refuses such a record"
        end = self._next_lpos(self.head_lpos, size)
        while end - self.tail_lpos & MASK64 > self.size:
            oldest = next(
                d for i in range(self.count) if (d := self._desc(self.tail_id + i)) and d.begin == self.tail_lpos
            )
            self._free(oldest)
        desc.begin, desc.next = self.head_lpos, end
        at = self.head_lpos % self.size
        self.text[at : at + 8] = struct.pack(self.order + "Q", desc.id)
        if self._wrap(self.head_lpos) != self._wrap(end - 1):
            at = 0
            self.text[:8] = struct.pack(self.order + "Q", desc.id)
        self.text[at + 8 : at + 8 + len(text)] = text
        self.head_lpos = end

    def _desc(self, id_: int) -> _Desc | None:
        desc = self.descs.get((id_ & ID_MASK) % self.count)
        return desc if desc and desc.id == id_ & ID_MASK else None

    def survivors(self) -> list[Message]:
        """The messages that a reader must find, oldest first: committed, with text."""
        ids = range((self.head_id - self.tail_id & ID_MASK) + 1)
        found = [self._desc(self.tail_id + i) for i in ids]
        return [
            d.message
            for d in found
            if d is not None and d.message and d.state in (COMMITTED, FINALIZED) and not d.begin & 1
        ]

    def structures(self) -> tuple[dict[str, str], list[Blob]]:
        """VMCOREINFO's entries (symbols left to the caller: ``prb`` points to blob ``ring``), and the memory."""
        p, o = self.pad, self.order
        ring = {"desc_ring": 8 * p, "text_data_ring": 56 + 16 * p, "fail": 120 + 24 * p}
        desc_ring = {
            "count_bits": 4 * p,
            "descs": 8 + 8 * p,
            "infos": 16 + 8 * p,
            "head_id": 24 + 8 * p,
            "tail_id": 32 + 8 * p,
        }
        data_ring = {"size_bits": 0, "data": 8, "head_lpos": 16, "tail_lpos": 24}
        desc = {"state_var": 8 * p, "text_blk_lpos": 8 + 8 * p}
        info = {
            "seq": 8 * p,
            "ts_nsec": 8 + 8 * p,
            "text_len": 16 + 8 * p,
            "caller_id": 20 + 8 * p,
            "dev_info": 24 + 8 * p,
        }
        sizes = {
            "printk_ringbuffer": 128 + 24 * p,
            "prb_desc_ring": 40 + 8 * p,
            "prb_data_ring": 32,
            "prb_desc": 24 + 16 * p,
            "prb_data_blk_lpos": 16,
            "printk_info": 88 + 16 * p,
            "atomic_long_t": 8,
        }
        entries = {f"SIZE({name})": str(size) for name, size in sizes.items()}
        members = {
            "printk_ringbuffer": ring,
            "prb_desc_ring": desc_ring,
            "prb_data_ring": data_ring,
            "prb_desc": desc,
            "prb_data_blk_lpos": {"begin": 0, "next": 8},
            "printk_info": info,
            "atomic_long_t": {"counter": 0},
        }
        for name, fields in members.items():
            entries |= {f"OFFSET({name}.{member})": str(offset) for member, offset in fields.items()}
        head = bytearray(sizes["printk_ringbuffer"])
        a, b = ring["desc_ring"], ring["text_data_ring"]
        struct.pack_into(o + "I", head, a + desc_ring["count_bits"], self.desc_bits)
        struct.pack_into(o + "Q", head, a + desc_ring["head_id"], self.head_id)
        struct.pack_into(o + "Q", head, a + desc_ring["tail_id"], self.tail_id)
        struct.pack_into(o + "I", head, b, self.text_bits)
        struct.pack_into(o + "QQ", head, b + 16, self.head_lpos, self.tail_lpos)
        descs = bytearray(sizes["prb_desc"] * self.count)
        infos = bytearray(sizes["printk_info"] * self.count)
        for slot, d in self.descs.items():
            at = slot * sizes["prb_desc"]
            struct.pack_into(o + "Q", descs, at + desc["state_var"], d.state << 62 | d.id)
            struct.pack_into(o + "QQ", descs, at + desc["text_blk_lpos"], d.begin, d.next)
            if d.message:
                at = slot * sizes["printk_info"]
                struct.pack_into(o + "Q", infos, at + info["ts_nsec"], d.message.nanoseconds)
                struct.pack_into(o + "H", infos, at + info["text_len"], len(d.message.text))
                struct.pack_into(o + "I", infos, at + info["caller_id"], d.message.caller)
        pointers = {a + desc_ring["descs"]: "descs", a + desc_ring["infos"]: "infos", b + 8: "text"}
        return entries, [
            Blob("prb", bytes(8), {0: "ring"}),
            Blob("ring", bytes(head), pointers),
            Blob("descs", bytes(descs)),
            Blob("infos", bytes(infos)),
            Blob("text", bytes(self.text)),
        ]


class RecordWriter:
    """kernel/printk/printk.c of Linux 3.5 to 5.9: log_store and log_make_free_space."""

    def __init__(self, size: int, *, order: str = "<", name: str = "printk_log", caller: bool = False) -> None:
        self.size, self.order, self.name, self.caller = size, order, name, caller
        self.head = 20 if caller else 16
        self.buffer = bytearray(size)
        self.first = self.next = 0
        self.kept: list[tuple[int, int, Message]] = []  # index, length, message

    def _room(self, size: int) -> bool:
        apart = self.next > self.first or not self.kept
        free = max(self.size - self.next, self.first) if apart else self.first - self.next
        return free >= size + self.head

    def log(self, message: Message) -> None:
        size = -(-(self.head + len(message.text) + len(message.dictionary)) // 4) * 4
        assert size + self.head <= self.size
        while self.kept and not self._room(size):
            self.kept.pop(0)
            self.first = self.kept[0][0] if self.kept else self.next
        if self.next + size + self.head > self.size:
            self.buffer[self.next : self.next + self.head] = bytes(self.head)
            if not self.kept:
                self.first = 0
            self.next = 0
        lengths = (size, len(message.text), len(message.dictionary))
        head = struct.pack(self.order + "QHHHBB", message.nanoseconds, *lengths, 0, 6)
        if self.caller:
            head += struct.pack(self.order + "I", message.caller)
        self.buffer[self.next : self.next + size] = (head + message.text + message.dictionary).ljust(size, b"\0")
        self.kept.append((self.next, size, message))
        self.next += size

    def survivors(self) -> list[Message]:
        return [message for _, _, message in self.kept]

    def structures(self) -> tuple[dict[str, str], list[Blob]]:
        fields = {"ts_nsec": 0, "len": 8, "text_len": 10, "dict_len": 12} | ({"caller_id": 16} if self.caller else {})
        entries = {f"OFFSET({self.name}.{field})": str(offset) for field, offset in fields.items()}
        entries[f"SIZE({self.name})"] = str(self.head)
        numbers = {"log_buf_len": self.size, "log_first_idx": self.first, "log_next_idx": self.next}
        return entries, [
            Blob("log_buf", bytes(8), {0: "buffer"}),
            Blob("buffer", bytes(self.buffer)),
            *(Blob(name, struct.pack(self.order + "I", value)) for name, value in numbers.items()),
        ]


class CharacterWriter:
    """kernel/printk.c before Linux 3.5: emit_log_char."""

    def __init__(self, size: int, *, order: str = "<") -> None:
        self.size, self.order = size, order
        self.buffer = bytearray(size)
        self.written = b""

    def log(self, text: bytes) -> None:
        for byte in text:
            self.buffer[len(self.written) % self.size] = byte
            self.written += bytes([byte])

    def structures(self) -> tuple[dict[str, str], list[Blob]]:
        numbers = {
            "log_buf_len": self.size,
            "log_end": len(self.written),
            "logged_chars": min(len(self.written), self.size),
        }
        return {}, [
            Blob("log_buf", bytes(8), {0: "buffer"}),
            Blob("buffer", bytes(self.buffer)),
            *(Blob(name, struct.pack(self.order + "I", value)) for name, value in numbers.items()),
        ]
