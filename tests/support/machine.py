"""A machine after a crash with a hypervisor-assisted or firmware-assisted dump: memory, vmcore, and the release files.

The vmcore is served from memory *as it is now*, and a page that is freed is overwritten at once. So a read that comes
too late, or a release that comes too early, shows as wrong bytes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import struct
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from dumpvault.formats import elf
from dumpvault.ranges import Ranges
from support.phyp_kernel import PhypKernel
from support.vmcore import MARKER

__all__ = ["Form", "Layout", "Machine", "PhypKernel", "standard_layout"]

Form = Literal["one-line", "wrapped", "dump-boot"]
Area = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """Where everything is, areas as (start, length), all in bytes. The reserve runs from ``reserve`` to memory's end.

    ``scratch`` holds the copy of the lowest memory, ``crashed`` is the second DUMP range as the kernel shows it.
    ``loads`` are in file order, ``table`` gives the order of their program headers.
    """

    pages: int
    reserve: int
    cpu: Area
    hpte: Area
    scratch: Area
    crashed: Area
    loads: tuple[Area, ...]
    table: tuple[int, ...] = ()
    page: int = 4096

    @property
    def end(self) -> int:
        return self.pages * self.page


def standard_layout(pages: int = 256, page: int = 4096) -> Layout:
    """As the kernel's documentation shows it: CPU, HPTE and scratch areas at the top, the latter two off by 0x20.

    Kernel text stands twice in the file, two loads overlap in high memory, and the table is not sorted.
    """
    end, reserve = pages * page, pages // 4 * page
    scratch = end - reserve - page + 0x20
    hpte = scratch - page
    cpu = hpte - 0x20 - 2 * page
    middle = (reserve + cpu) // 2 // page * page
    loads = (
        (2 * page, 4 * page),
        (0, reserve),
        (reserve, middle + 3 * page - reserve),
        (middle, cpu - middle),
        (cpu, end - cpu),
    )
    crashed = (reserve, cpu - reserve)
    return Layout(
        pages, reserve, (cpu, 2 * page), (hpte, page), (scratch, reserve), crashed, loads, (3, 0, 2, 1, 4), page
    )


class Machine:
    """``memory`` is physical memory as it is now; ``pristine`` the whole vmcore as it was before anything was freed.

    Reads that touch a page in ``bad_pages`` (page numbers) fail as /proc/vmcore's do. ``on_release(start, length,
    pages)`` is called after the kernel decided to free ``pages`` and before they are overwritten.
    """

    def __init__(
        self,
        layout: Layout | None = None,
        seed: int = 1,
        *,
        bad_pages: Collection[int] = (),
        on_release: Callable[[int, int, list[int]], None] | None = None,
    ) -> None:
        self.layout = layout = layout or standard_layout()
        self.seed = seed
        self.bad_pages = set(bad_pages)
        self.on_release = on_release
        self.fadump_released = False
        scratch = layout.cpu[0]
        self.kernel = PhypKernel(
            layout.page,
            layout.pages,
            layout.reserve,
            layout.end - layout.reserve,
            scratch,
            layout.cpu[1] + layout.hpte[1] + layout.scratch[1],
        )
        self.memory = self._crashed_memory()
        self._needs: dict[int, Ranges] = {}
        self._notes_length = len(self._notes())
        self._head, self._notes_at, self._runs = self._plan()
        self.size = max(offset + length for offset, length, _ in [(self._notes_at, self._notes_length, 0), *self._runs])
        self.pristine = self._render(0, self.size)

    # What a collector sees

    def read(self, offset: int, length: int) -> bytes:
        """Of the vmcore, from memory as it is now; fewer bytes only at the end. ``OSError`` as from /proc/vmcore."""
        if self.fadump_released:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        end = min(offset + length, self.size)
        if any(Ranges([(offset, end)]) & self.from_page(number) for number in self.bad_pages):
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return self._render(offset, end)

    def release_region_text(self, form: Form = "one-line") -> str:
        """As the kernel prints it, as its documentation wraps it, or with what a dump boot leaves at zero."""
        at = self.layout
        areas = [at.cpu, at.hpte, at.scratch]
        if form == "dump-boot":
            areas = [(0, 0), (at.cpu[1], 0), (at.cpu[1] + at.hpte[1], 0)]
        cpu, hpte, scratch, crashed = (f"{start:#x}-{length:#x}" for start, length in [*areas, at.crashed])
        if form == "wrapped":
            return f"CPU:{cpu}: HPTE:{hpte}: /\nDUMP:{scratch}, {crashed}/\n"
        return f"CPU:{cpu}: HPTE:{hpte}: DUMP:{scratch}, {crashed}:\n"

    def write_release(self, data: bytes) -> int:
        """A write to ``release_region``; the pages it frees are overwritten when it returns."""
        freed = self.kernel.store(data)
        self._overwrite(*self.kernel.writes[-1], freed)
        return len(data)

    def write_fadump(self, data: bytes) -> int:
        """A write to ``release_mem``: takes the vmcore away, then frees the whole reserve."""
        if self.fadump_released:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        if data not in (b"1", b"1\n"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.fadump_released = True
        freed = [number for number in self.kernel.reserved if number not in self.kernel.freed]
        self.kernel.freed.update(freed)
        self._overwrite(self.kernel.reserve, self.kernel.reserve_size, freed)
        return len(data)

    # What a proof asks

    def from_page(self, number: int) -> Ranges:
        """The vmcore's file ranges whose bytes stand in physical page ``number``: they are gone when it is."""
        if number not in self._needs:
            page = self.layout.page
            low, high = number * page, (number + 1) * page
            found = []
            for offset, length, address in self._runs:
                start, end = max(low, address), min(high, address + length)
                found.append((offset + start - address, offset + end - address))
            for start, length in (self.layout.cpu, self.layout.hpte):
                if start < high and low < start + length:
                    found.append((self._notes_at, self._notes_at + self._notes_length))
            self._needs[number] = Ranges(pair for pair in found if pair[0] < pair[1])
        return self._needs[number]

    def lost(self, durable: Iterable[tuple[int, int]]) -> list[int]:
        """The freed pages that held vmcore bytes outside the file ranges ``durable``. Invariant A: none, ever."""
        kept = Ranges(durable)
        return [number for number in sorted(self.kernel.freed) if self.from_page(number) - kept]

    @property
    def unreadable(self) -> Ranges:
        """The file ranges that ``bad_pages`` make unreadable."""
        return Ranges(pair for number in self.bad_pages for pair in self.from_page(number))

    @property
    def state(self) -> dict[str, Any]:
        """What was done to it, for JSON. A twin made with the same arguments gets there by ``replay``."""
        kernel = self.kernel
        return {
            "writes": kernel.writes,
            "rejected": [data.decode("latin-1") for data in kernel.rejected],
            "freed": sorted(kernel.freed),
            "double_released": list(kernel.double_released),
            "below": kernel.below,
            "beyond": kernel.beyond,
            "runaway": kernel.runaway,
            "registrations": kernel.registrations,
            "fadump_released": self.fadump_released,
        }

    def replay(self, state: dict[str, Any]) -> None:
        """Do what another machine's ``state`` says was done to it."""
        for start, length in state["writes"]:
            self.write_release(f"{start:x} {length:x}\n".encode())
        if state["fadump_released"]:
            self.write_fadump(b"1")

    # How it is made

    def _crashed_memory(self) -> bytearray:
        at = self.layout
        rng = random.Random(self.seed)
        memory = bytearray().join(_page(rng, number, at.page) for number in range(at.pages))
        for start, length in (at.cpu, at.hpte):
            memory[start : start + length] = rng.randbytes(length)
        start, length = at.scratch
        memory[start : start + length] = memory[:length]
        # The kernel that runs now has made low memory its own.
        memory[: at.reserve] = rng.randbytes(at.reserve)
        return memory

    def _plan(self) -> tuple[bytes, int, list[tuple[int, int, int]]]:
        """The headers padded to pages, where the notes begin, and which memory the rest of the file is made of:
        (file offset, length, where in memory), low memory from its copy."""
        at = self.layout
        table = at.table or tuple(range(len(at.loads)))
        size = len(elf.write_headers([(0, 0, 0, 0)] * (len(table) + 1), machine=21, endian="big"))
        notes_at = -(-size // at.page) * at.page
        offset = notes_at + -(-self._notes_length // at.page) * at.page
        offsets = []
        runs = []
        for address, length in at.loads:
            offsets.append(offset)
            copied = max(0, min(address + length, at.scratch[1]) - address)
            runs.append((offset, copied, at.scratch[0] + address))
            runs.append((offset + copied, length - copied, address + copied))
            offset += length
        segments = [(elf.PT_NOTE, notes_at, 0, self._notes_length)]
        segments += [(elf.PT_LOAD, offsets[i], *at.loads[i]) for i in table]
        head = elf.write_headers(segments, machine=21, endian="big")
        return head.ljust(notes_at, b"\0"), notes_at, [run for run in runs if run[1]]

    def _notes(self) -> bytes:
        """PRSTATUS made from the CPU and HPTE areas as they are now, then VMCOREINFO; virtual addresses are physical."""
        saved = b"".join(self.memory[start : start + length] for start, length in (self.layout.cpu, self.layout.hpte))
        info = f"OSRELEASE=2.6.32-phyp\nPAGESIZE={self.layout.page}\nSYMBOL(_stext)={2 * self.layout.page:x}\n"
        info += f"CRASHTIME={1_700_000_000 + self.seed}\n"
        notes = struct.pack(">III", 5, 336, 1) + b"CORE\0\0\0\0" + hashlib.shake_256(saved).digest(336)
        notes += struct.pack(">III", 11, len(info), 0) + b"VMCOREINFO\0\0" + info.encode()
        return notes + bytes(-len(notes) % 4)

    def _render(self, start: int, end: int) -> bytes:
        """The file's bytes from ``start`` to ``end``, out of memory as it is now."""
        out = bytearray(max(0, end - start))

        def put(offset: int, length: int, data: Callable[[int, int], bytes | bytearray]) -> None:
            a, b = max(start, offset), min(end, offset + length)
            if a < b:
                out[a - start : b - start] = data(a - offset, b - offset)

        put(0, self._notes_at, lambda a, b: self._head[a:b])
        put(self._notes_at, self._notes_length, lambda a, b: self._notes()[a:b])
        for offset, length, address in self._runs:
            put(offset, length, lambda a, b, at=address: self.memory[at + a : at + b])
        return bytes(out)

    def _overwrite(self, start: int, length: int, pages: list[int]) -> None:
        if self.on_release:
            self.on_release(start, length, pages)
        page = self.layout.page
        for number in pages:
            self.memory[number * page : (number + 1) * page] = random.Random(f"{self.seed}/{number}").randbytes(page)


def _page(rng: random.Random, number: int, page: int) -> bytes:
    """Zeros, text, pointers or noise; every eighth page holds ``MARKER``."""
    kind = rng.randrange(4)
    if kind == 0:
        data = bytes(page)
    elif kind == 1:
        line = b"[%5d.%06d] kernel: something happened\n" % (number, rng.randrange(10**6))
        data = (line * (page // len(line) + 1))[:page]
    elif kind == 2:
        words = b"".join(struct.pack(">Q", 0xC000000000000000 + rng.randrange(1 << 20) * 64) for _ in range(8))
        data = (words * (page // 64 + 1))[:page]
    else:
        data = rng.randbytes(page)
    if number % 8 == 3:
        data = (data[:100] + MARKER + data[100 + len(MARKER) :])[:page]
    return data
