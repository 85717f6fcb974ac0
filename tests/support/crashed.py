"""A crashed machine in miniature: kernel structures in scattered physical pages, page tables that find them, VMCOREINFO,
and the dump of it all as an ELF core or kdump-compressed, each written from its own definition."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from dumpvault.formats.elf import PT_LOAD, PT_NOTE
from dumpvault.formats.seekable import zstd

from .printk_writer import Blob

Endian = Literal["little", "big"]
MACHINES = {"x86_64": 62, "aarch64": 183, "ppc64": 21, "s390x": 22, "i386": 3}


@dataclass
class Crashed:
    """Physical memory by page number, and what VMCOREINFO says."""

    machine: str
    endian: Endian
    page_size: int
    info: dict[str, str]
    pages: dict[int, bytearray] = field(default_factory=dict)
    placed: dict[str, int] = field(default_factory=dict)  # virtual addresses
    mapped: dict[int, int] = field(default_factory=dict)  # virtual page number to physical page number
    loads: list[tuple[int, int, int]] = field(default_factory=list)  # virtual, physical, length, for the headers

    @property
    def order(self) -> str:
        return "<" if self.endian == "little" else ">"

    def write(self, address: int, data: bytes) -> None:
        for at in range(len(data)):
            page, offset = divmod(address + at, self.page_size)
            self.pages.setdefault(page, bytearray(self.page_size))[offset] = data[at]

    def physical(self, name: str, offset: int = 0) -> int:
        page, skip = divmod(self.placed[name] + offset, self.page_size)
        return self.mapped[page] * self.page_size + skip

    def poke(self, name: str, offset: int, data: bytes) -> None:
        """Write ``data`` at ``offset`` of what was placed under ``name``."""
        for at in range(len(data)):
            self.write(self.physical(name, offset + at), data[at : at + 1])

    def vmcoreinfo(self) -> bytes:
        return "".join(f"{key}={value}\n" for key, value in self.info.items()).encode()


def crash(
    structures: tuple[dict[str, str], list[Blob]],
    machine: str = "x86_64",
    *,
    endian: Endian = "little",
    page_size: int = 4096,
    bits: int = 48,
    built_bits: int | None = None,
    seed: int = 1,
) -> Crashed:
    """Place the structures of a log in a machine's memory: symbols in the kernel image, the rest in the linear map."""
    entries, blobs = structures
    rng = random.Random(seed)
    info = {"OSRELEASE": "6.1.0-test", "PAGESIZE": str(page_size)} | entries
    crashed = Crashed(machine, endian, page_size, info)
    crashed_size = 1024  # pages of memory
    first_page = (1 << 30) // page_size if machine == "aarch64" else 16
    image_virtual = {"x86_64": 0xFFFFFFFF_9F600000, "aarch64": 0xFFFF8000_08010000, "ppc64": 0xC000000000000000}[
        machine
    ]
    if machine == "aarch64":
        image_virtual = (1 << 64) - (1 << bits - 1) + 0x8010000
    linear_virtual = {
        "x86_64": 0xFF110000_00000000 if bits > 48 else 0xFFFF8880_00000000,
        "ppc64": 0xC000000000000000,
    }.get(machine, (1 << 64) - (1 << bits))
    free = list(range(first_page, first_page + crashed_size))
    image_pages = free[256:320]
    del free[256:320]
    rng.shuffle(free)
    mapped = crashed.mapped
    image_end = 0
    linear_end = linear_virtual + 7 * page_size
    if machine == "ppc64":  # its linear map does not scatter
        image_virtual += image_pages[0] * page_size
        linear_end = linear_virtual + (first_page + 400) * page_size
    for blob in blobs:
        size = len(blob.data)
        if blob.name in ("prb", "log_buf", "log_buf_len", "log_first_idx", "log_next_idx", "log_end", "logged_chars"):
            crashed.placed[blob.name] = image_virtual + 0x100 + image_end
            image_end += 64
            info[f"SYMBOL({blob.name})"] = f"{crashed.placed[blob.name]:x}"
            continue
        crashed.placed[blob.name] = linear_end + rng.randrange(0, page_size, 8)
        linear_end += (size // page_size + 3) * page_size
        for page in range(crashed.placed[blob.name] // page_size, linear_end // page_size):
            mapped[page] = page - linear_virtual // page_size if machine == "ppc64" else free.pop()
    for i, page in enumerate(image_pages):
        mapped[image_virtual // page_size + i] = page
    root = image_virtual + 16 * page_size
    info["SYMBOL(swapper_pg_dir)"] = f"{root:x}"
    offset = image_virtual - image_pages[0] * page_size
    if machine == "x86_64":
        info["NUMBER(phys_base)"] = str(image_pages[0] * page_size - (image_virtual - 0xFFFFFFFF_80000000))
        info["NUMBER(pgtable_l5_enabled)"] = str(int(bits > 48))
        _tables(crashed, mapped, root - offset, free, levels=5 if bits > 48 else 4, top_bits=9)
    elif machine == "aarch64":
        info["NUMBER(kimage_voffset)"] = f"{offset % 2**64:#x}"
        info["NUMBER(VA_BITS)"] = str(built_bits or bits)
        info["NUMBER(TCR_EL1_T1SZ)"] = hex(64 - bits)
        walked = (built_bits or bits) if page_size == 65536 else bits
        stride = page_size.bit_length() - 4
        levels = -(-(walked - (page_size.bit_length() - 1)) // stride)
        _tables(
            crashed, mapped, root - offset, free, levels, walked - (page_size.bit_length() - 1) - stride * (levels - 1)
        )
    for blob in blobs:
        data = bytearray(blob.data)
        for at, name in blob.pointers.items():
            struct.pack_into(crashed.order + "Q", data, at, crashed.placed[name])
        crashed.poke(blob.name, 0, bytes(data))
    crashed.loads = [(image_virtual, image_pages[0] * page_size, len(image_pages) * page_size)]
    crashed.info |= info
    return crashed


def _tables(crashed: Crashed, mapped: dict[int, int], root: int, free: list[int], levels: int, top_bits: int) -> None:
    """Tables of 8-byte entries under physical ``root``, lowest level 0, a page of entries each (root may be shorter)."""
    arm = crashed.machine == "aarch64"
    stride = crashed.page_size.bit_length() - 4
    tables: dict[tuple[int, int], int] = {}

    def entry(physical: int, leaf: bool) -> int:
        if not arm:
            return physical | 0x63 | (1 << 63 if leaf else 0)  # present, writable, …; no-execute
        high = physical >> 48 & 0xF
        if crashed.page_size == 65536:
            physical = physical & 0xFFFF_FFFF_FFFF | high << 12
        return physical | 3 | (0x700 if leaf and (levels, top_bits) != (5, 4) else 0) | (1 << 54 if leaf else 0)

    for virtual, physical in mapped.items():
        at = root
        for level in range(levels - 1, -1, -1):
            width = top_bits if level == levels - 1 else stride
            index = virtual >> stride * level & (1 << width) - 1
            if level == 0:
                crashed.write(
                    at + index * 8, struct.pack(crashed.order + "Q", entry(physical * crashed.page_size, True))
                )
                break
            key = (level, virtual >> stride * level)
            if key not in tables:
                tables[key] = free.pop() * crashed.page_size
                crashed.write(at + index * 8, struct.pack(crashed.order + "Q", entry(tables[key], False)))
            at = tables[key]


def note(name: bytes, content: bytes, endian: Endian, kind: int = 0) -> bytes:
    """One ELF note, padded to 4 bytes."""
    head = struct.pack(("<" if endian == "little" else ">") + "III", len(name) + 1, len(content), kind)
    pad = lambda data: data + bytes(-len(data) % 4)  # noqa: E731
    return head + pad(name + b"\0") + pad(content)


def elf_core(
    crashed: Crashed, *, bits: int = 64, info: bytes | None = None, seed: int = 1, twice: bool = True
) -> bytes:
    """An ELF core: a PT_NOTE with other notes around VMCOREINFO, PT_LOADs in any order, the kernel image in two of them."""
    rng = random.Random(seed)
    text = crashed.vmcoreinfo() if info is None else info
    notes = note(b"CORE", b"x" * 337, crashed.endian, 1)
    notes += note(b"VMCOREINFO", text, crashed.endian) if text else b""
    notes += note(b"LINUX", b"device dump" * 9, crashed.endian, 0x700)
    size = crashed.page_size
    runs = [(0, page * size, bytes(data)) for page, data in sorted(crashed.pages.items())]
    if twice:
        for virtual, physical, length in crashed.loads:
            data = b"".join(
                bytes(crashed.pages.get(p, bytes(size))) for p in range(physical // size, (physical + length) // size)
            )
            runs.append((virtual, physical, data))
    rng.shuffle(runs)
    return elf_file(MACHINES[crashed.machine], crashed.endian, bits, notes, runs)


def elf_file(machine: int, endian: Endian, bits: int, notes: bytes, runs: Iterable[tuple[int, int, bytes]]) -> bytes:
    """An ELF core from (virtual, physical, bytes) runs, as elf(5) lays it out."""
    runs = list(runs)
    order = "<" if endian == "little" else ">"
    wide = bits == 64
    at = (64 if wide else 52) + (56 if wide else 32) * (len(runs) + 1)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if endian == "little" else 2, 1]) + bytes(9)
    phoff, size = (64, 56) if wide else (52, 32)
    fields = (4, machine, 1, 0, phoff, 0, 0, phoff, size, len(runs) + 1, 0, 0, 0)
    out = ident + struct.pack(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"), *fields)
    body = b""
    for kind, virtual, physical, data in [(PT_NOTE, 0, 0, notes), *((PT_LOAD, *run) for run in runs)]:
        if wide:
            out += struct.pack(order + "IIQQQQQQ", kind, 7, at + len(body), virtual, physical, len(data), len(data), 0)
        else:
            out += struct.pack(order + "IIIIIIII", kind, at + len(body), virtual, physical, len(data), len(data), 7, 0)
        body += data
    return out + body


def kdump_file(
    pages: dict[int, bytes],
    *,
    machine: str = "x86_64",
    endian: Endian = "little",
    page_size: int = 4096,
    count: int,
    info: bytes = b"",
    version: int = 6,
    split: int = 0,
    status: int = 0,
    compressions: tuple[str, ...] = ("zlib", "zstd", "none"),
    memory: Iterable[int] = (),
    phys_base: int = 0,
) -> bytes:
    """A kdump-compressed dump of ``pages`` (page number to bytes; zero pages share one), as makedumpfile 1.7 writes it.

    ``count`` is max_mapnr; ``memory`` pages are in bitmap 1 only: left out.
    """
    order = "<" if endian == "little" else ">"
    names = (b"Linux", b"node", b"6.1.0-test", b"#1 SMP", machine.encode(), b"(none)")
    bitmap_blocks = -(-count // (8 * page_size))
    header = b"KDUMP   " + struct.pack(order + "i", version) + b"".join(name.ljust(65, b"\0") for name in names)
    header = header.ljust(408, b"\0") + struct.pack(order + "qq", 1700000000, 5)
    header += struct.pack(
        order + "IiiIIIIIIi", status, page_size, 1, 2 * bitmap_blocks, min(count, 2**32 - 1), 0, 0, 0, 0, 1
    )
    info_at = page_size + 104
    note_at = info_at + len(info)
    notes = note(b"CORE", bytes(336), endian, 1) + (note(b"VMCOREINFO", info, endian) if info else b"")
    sub = struct.pack(order + "Qii", phys_base % 2**64, 1, split)
    sub += struct.pack(order + "QQqQqQqQ", 0, 0, info_at if info else 0, len(info), note_at, len(notes), 0, 0)
    sub += struct.pack(order + "QQQ", 0, count, count)
    bitmaps = [bytearray(bitmap_blocks * page_size), bytearray(bitmap_blocks * page_size)]
    for page in pages:
        bitmaps[1][page >> 3] |= 1 << (page & 7)
    for page in {*pages, *memory}:
        bitmaps[0][page >> 3] |= 1 << (page & 7)
    sub_blocks = -(-(len(sub) + len(info) + len(notes)) // page_size)
    header = header[:432] + struct.pack(order + "i", sub_blocks) + header[436:]
    out = header.ljust(page_size, b"\0") + (sub + info + notes).ljust(sub_blocks * page_size, b"\0")
    out += bytes(bitmaps[0]) + bytes(bitmaps[1])
    data_at = len(out) + 24 * len(pages)
    descriptors = data = b""
    shared: dict[bytes, bytes] = {}
    for i, (_, content) in enumerate(sorted(pages.items())):
        stored, flags = _stored(bytes(content), compressions[i % len(compressions)])
        descriptor = struct.pack(order + "qIIQ", data_at + len(data), len(stored), flags, 0)
        if not any(content):
            descriptor = shared.setdefault(b"zero", descriptor)
            if descriptor[:8] != struct.pack(order + "q", data_at + len(data)):
                stored = b""
        descriptors += descriptor
        data += stored
    return out + descriptors + data


def _stored(content: bytes, compression: str) -> tuple[bytes, int]:
    made = {"zlib": zlib.compress(content, 1), "zstd": zstd.compress(content, 1)}.get(compression, content)
    flag = {"zlib": 0x1, "zstd": 0x20}.get(compression, 0)
    return (made, flag) if len(made) < len(content) else (content, 0)


def kdump_compressed(crashed: Crashed, *, without: Iterable[int] = (), **options: object) -> bytes:
    """A kdump-compressed dump of a machine; page numbers in ``without`` are left out."""
    left_out = set(without)
    names = {"ppc64": "ppc64le" if crashed.endian == "little" else "ppc64"}
    return kdump_file(
        {page: bytes(data) for page, data in crashed.pages.items() if page not in left_out},
        machine=names.get(crashed.machine, crashed.machine),
        endian=crashed.endian,
        page_size=crashed.page_size,
        count=max(crashed.pages) + 1,
        info=crashed.vmcoreinfo(),
        memory=left_out,
        **options,  # type: ignore[arg-type]
    )


def for_makedumpfile(crashed: Crashed, release: str) -> None:
    """Add what makedumpfile asks of an x86_64 kernel of ``release`` before it looks at the log: its name, a mem_map."""
    names = (b"Linux", b"node", release.encode(), b"#1 SMP", b"x86_64", b"(none)")
    image = crashed.loads[0][0]
    crashed.placed |= {"init_uts_ns": image + 0x800, "mem_map": image + 0x700}
    crashed.poke("init_uts_ns", 0, b"".join(name.ljust(65, b"\0") for name in names))
    crashed.poke("mem_map", 0, struct.pack("<Q", crashed.placed.get("text") or crashed.placed["buffer"]))
    page = {"flags": 0, "_refcount": 52, "_count": 28, "mapping": 24, "lru": 8}
    crashed.info |= {f"OFFSET(page.{name})": str(offset) for name, offset in page.items()}
    crashed.info |= {f"SYMBOL({name})": f"{crashed.placed[name]:x}" for name in ("init_uts_ns", "mem_map")}
    crashed.info |= {
        "OSRELEASE": release,
        "SIZE(page)": "64",
        "SIZE(list_head)": "16",
        "OFFSET(list_head.next)": "0",
        "OFFSET(list_head.prev)": "8",
        "OFFSET(uts_namespace.name)": "0",
        "SYMBOL(init_top_pgt)": crashed.info["SYMBOL(swapper_pg_dir)"],
        "SYMBOL(init_level4_pgt)": crashed.info["SYMBOL(swapper_pg_dir)"],
        "SYMBOL(_stext)": f"{image:x}",
        "NUMBER(KERNEL_IMAGE_SIZE)": str(1 << 30),
    }
