"""Kernel virtual memory of an image, from VMCOREINFO alone: no symbols, no user space.

x86_64: the kernel image by ``phys_base``, the rest by the page tables under ``swapper_pg_dir``, 4 or 5 levels
(Intel SDM volume 3 chapter 4; kernel Documentation/arch/x86/x86_64/mm.rst). aarch64: the tables under ``swapper_pg_dir``,
whose own place ``kimage_voffset`` tells (Arm ARM D8; kernel arch/arm64/include/asm/memory.h). ppc64: the linear map, which
holds the kernel image and everything allocated early, whether the kernel uses radix or hash tables (kernel
arch/powerpc/include/asm/page.h). Where the tables say nothing, the program headers' virtual addresses are believed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from dumpvault.errors import BadInput
from dumpvault.formats.memory import Absent, Image
from dumpvault.formats.vmcoreinfo import number, symbol

__all__ = ["KernelMemory", "kernel_memory"]

#: The physical address of the virtual page of 4096 bytes that begins at an address; None if nothing maps it.
Translate = Callable[[int], int | None]

_KEPT = 4096
_TOP = 1 << 64
_IMAGE_START = 0xFFFF_FFFF_8000_0000  # x86_64 __START_KERNEL_map
_IMAGE_SIZE = 1 << 30
_LINEAR_START, _LINEAR_END = 0xC000_0000_0000_0000, 0xC008_0000_0000_0000  # ppc64 PAGE_OFFSET; vmalloc begins above


class KernelMemory:
    """Reads at kernel virtual addresses. Safe for several threads."""

    def __init__(self, image: Image, translate: Translate) -> None:
        self._image = image
        self._translate = translate
        self._mapped = [(s.virtual, s.physical, s.length) for s in image.segments if s.virtual is not None]
        self._kept: dict[int, int] = {}  # virtual page of 4 KiB to its physical address

    def read(self, address: int, length: int) -> bytes:
        """Exactly ``length`` bytes from virtual ``address``. Raises ``Absent``, or ``BadInput`` if it is not mapped."""
        parts = []
        while length > 0:
            take = min(length, 4096 - address % 4096)
            parts.append(self._image.physical(self.physical(address), take))
            address += take
            length -= take
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def physical(self, address: int) -> int:
        """The physical address of virtual ``address``; raises as ``read`` does."""
        page, skip = divmod(address, 4096)
        found = self._kept.get(page)
        if found is None:
            found = self._find(address - skip)
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[page] = found
        return found + skip

    def _find(self, address: int) -> int:
        missing = None
        place = None
        try:
            place = self._translate(address)
        except Absent as error:
            missing = error
        if place is not None:
            return place
        for virtual, physical, length in self._mapped:
            if virtual <= address < virtual + length:
                return physical + address - virtual
        if missing is not None:
            raise missing
        raise BadInput(
            f"kernel address {address:#x} is not mapped ({self._image.arch})",
            "The dump's page tables, or its VMCOREINFO, are damaged, or the address is not translated on this machine.",
        )


def kernel_memory(image: Image) -> KernelMemory:
    """The kernel's virtual memory. Raises ``BadInput`` without a VMCOREINFO, and for a machine that is not translated."""
    if not image.info:
        raise BadInput(
            "the dump has no VMCOREINFO: nothing says where the kernel's structures are",
            "The guest of a hypervisor's dump gives it only to a machine with a vmcoreinfo device (QEMU: -device vmcoreinfo). "
            "Use crash or drgn with the kernel's debug symbols.",
        )
    translators = {"x86_64": _x86_64, "aarch64": _aarch64, "ppc64": _ppc64, "ppc64le": _ppc64}
    make = translators.get(image.arch)
    if make is None:
        raise BadInput(
            f"kernel addresses of {image.arch} are not translated",
            f"These are: {', '.join(sorted(translators))}. Use crash on the opened dump.",
        )
    return KernelMemory(image, make(image))


def _unknown(what: str, image: Image) -> BadInput:
    return BadInput(
        f"kernel addresses cannot be translated: VMCOREINFO has no usable {what} ({image.arch}, {image.release})",
        "Kernels of this age do not say enough of themselves. Use crash with the kernel's debug symbols.",
    )


class _Entries:
    """Entries of 8 bytes of the page tables, by physical address."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._format = struct.Struct("<Q" if image.endian == "little" else ">Q")
        self._kept: dict[int, int] = {}

    def __call__(self, address: int) -> int:
        entry = self._kept.get(address)
        if entry is None:
            (entry,) = self._format.unpack(self._image.physical(address, 8))
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[address] = entry
        return int(entry)


def _x86_64(image: Image) -> Translate:
    info = image.info
    base = number(info, "NUMBER(phys_base)")  # from 4.10 on; before, the dump's own headers say it
    if base is None:
        base = image.phys_base
    for segment in image.segments:
        if base is None and segment.virtual is not None and segment.virtual >= _IMAGE_START:
            base = segment.physical - (segment.virtual - _IMAGE_START)
    if base is None:
        raise _unknown("NUMBER(phys_base)", image)
    offset = base - _IMAGE_START
    image_end = _IMAGE_START + (number(info, "NUMBER(KERNEL_IMAGE_SIZE)") or _IMAGE_SIZE)
    levels = 5 if number(info, "NUMBER(pgtable_l5_enabled)") else 4
    mask = 0x000F_FFFF_FFFF_F000 & ~(number(info, "NUMBER(sme_mask)") or 0)
    names = ("swapper_pg_dir", "init_top_pgt", "init_level4_pgt")
    root = next((found for name in names if (found := symbol(info, name)) is not None), None)
    entries = _Entries(image)

    def translate(address: int) -> int | None:
        if _IMAGE_START <= address < image_end:
            return address + offset
        if root is None or not address >> 63:
            return None
        table = root + offset
        for level in range(levels, 0, -1):
            shift = 3 + 9 * level
            entry = entries(table + (address >> shift & 511) * 8)
            if not entry & 1:  # present
                return None
            table = entry & mask
            if level == 1 or (level < 4 and entry & 0x80):  # a page, or a large one
                return (table & -(1 << shift)) + (address & (1 << shift) - 1)
        return None

    return translate


def _aarch64(image: Image) -> Translate:
    info = image.info
    voffset = number(info, "NUMBER(kimage_voffset)")
    root = symbol(info, "swapper_pg_dir")
    page_size = number(info, "PAGESIZE") or 0
    built = number(info, "NUMBER(VA_BITS)") or 0
    unused = number(info, "NUMBER(TCR_EL1_T1SZ)")
    if voffset is None or root is None or page_size not in (4096, 16384, 65536):
        raise _unknown("NUMBER(kimage_voffset), SYMBOL(swapper_pg_dir) or PAGESIZE", image)
    # A kernel built for 52 bits may run on 48. With 64 KiB pages its root table then keeps all entries, and the last are
    # used (TTBR1 is moved), as the sign-extended address finds them; with smaller pages the tables are those of 48 bits.
    bits = 64 - unused if unused is not None and page_size != 65536 else built
    if not 36 <= bits <= 52:
        raise _unknown("NUMBER(VA_BITS)", image)
    page_shift = page_size.bit_length() - 1
    stride = page_shift - 3
    levels = -(-(bits - page_shift) // stride)
    entries = _Entries(image)

    def output(entry: int) -> int:
        if page_size == 65536:
            return entry & 0x0000_FFFF_FFFF_0000 | (entry >> 12 & 0xF) << 48
        if bits > 48:  # FEAT_LPA2
            return entry & 0x0003_FFFF_FFFF_F000 | (entry >> 8 & 3) << 50
        return entry & 0x0000_FFFF_FFFF_F000

    def translate(address: int) -> int | None:
        if not address >> 55 & 1:  # the bits above may be a pointer's tag
            return None
        table = (root - voffset) % _TOP
        for level in range(levels - 1, -1, -1):
            shift = page_shift + stride * level
            width = bits - shift if level == levels - 1 else stride
            entry = entries(table + (address >> shift & (1 << width) - 1) * 8)
            if not entry & 1 or (level == 0 and not entry & 2):
                return None
            table = output(entry)
            if level == 0 or not entry & 2:  # a page, or a block
                return (table & -(1 << shift)) + (address & (1 << shift) - 1)
        return None

    return translate


def _ppc64(_: Image) -> Translate:
    return lambda address: address - _LINEAR_START if _LINEAR_START <= address < _LINEAR_END else None
