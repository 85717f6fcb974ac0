"""Kernel addresses: large pages, encrypted memory, 52-bit physical addresses, and what is not mapped."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from dumpvault.errors import BadInput
from dumpvault.formats.image import Absent, Image
from dumpvault.formats.paging import kernel_memory

START = 0xFFFFFFFF_80000000
ROOT = START + 0x1000000


class Words:
    """Physical memory of which only these 8-byte words exist; everything else holds its own address."""

    def __init__(self, tables: dict[int, int], table_pages: set[int]) -> None:
        self._tables = tables
        self._pages = table_pages

    def physical(self, address: int, length: int) -> bytes:
        if address >> 16 in self._pages:
            return struct.pack("<Q", self._tables.get(address, 0))
        return struct.pack("<Q", address)[:length].ljust(length, b"\0")


def physical(machine: int, tables: dict[int, int], info: dict[str, str], address: int) -> int:
    text = "".join(f"{key}={value}\n" for key, value in info.items()).encode()
    memory = Words(tables, {at >> 16 for at in tables})
    image = Image(machine, "little", 64, text, [], memory)
    return kernel_memory(image).physical(address)


def x86_64(tables: dict[int, int], address: int, **info: str) -> int:
    base = {"SYMBOL(swapper_pg_dir)": f"{ROOT:x}", "NUMBER(phys_base)": "0"}
    return physical(62, tables, base | info, address)


def test_x86_64_pages_of_every_size() -> None:
    """4 KiB, 2 MiB and 1 GiB, with the flags a kernel sets; no-execute and software bits are no address."""
    address = 0xFFFF8881_2345_6788
    top, third, second, last = ((address >> shift & 511) * 8 for shift in (39, 30, 21, 12))
    present, large = 0x8000_0000_0000_0063, 0x8000_0000_0000_00E3
    tables = {0x1000000 + top: 0x2000000 | 0x67}
    gib = tables | {0x2000000 + third: 0x40_0000_0000 | large}
    assert x86_64(gib, address) == 0x40_0000_0000 | address & 0x3FFF_FFFF
    tables |= {0x2000000 + third: 0x3000000 | 0x67}
    mib = tables | {0x3000000 + second: 0x7_FFE0_0000 | 0x1000 | large}  # bit 12 is PAT here
    assert x86_64(mib, address) == 0x7_FFE0_0000 | address & 0x1F_FFFF
    tables |= {0x3000000 + second: 0x4000000 | 0x67, 0x4000000 + last: 0xF_FFFF_FFFF_F000 | 0x80 | present}
    assert x86_64(tables, address) == 0xF_FFFF_FFFF_F000 | address & 0xFFF  # bit 7 is PAT here


def test_x86_64_five_levels_and_encrypted_memory() -> None:
    """The fifth level is walked when the kernel says so, and AMD's C-bit is no address."""
    address = 0xFF11_0001_2345_6788
    sme = 1 << 47
    indices = [(address >> shift & 511) * 8 for shift in (48, 39, 30)]
    tables = {
        0x1000000 + indices[0]: 0x2000000 | sme | 0x67,
        0x2000000 + indices[1]: 0x3000000 | sme | 0x67,
        0x3000000 + indices[2]: 0x40_0000_0000 | sme | 0xE3,
    }
    info = {"NUMBER(pgtable_l5_enabled)": "1", "NUMBER(sme_mask)": str(sme)}
    assert x86_64(tables, address, **info) == 0x40_0000_0000 | address & 0x3FFF_FFFF
    with pytest.raises(BadInput, match="not mapped"):
        x86_64(tables, address, **{"NUMBER(sme_mask)": str(sme)})


def test_x86_64_kernel_image_by_phys_base_alone() -> None:
    """Addresses in the kernel image need no tables; where it ends is what the kernel says."""
    for base in (-0x1760_0000, 0, 0x1000_0000):
        assert x86_64({}, START + 0x21062_2C0, **{"NUMBER(phys_base)": str(base)}) == 0x21062_2C0 + base
    with pytest.raises(BadInput, match="not mapped"):
        x86_64({0x1000000: 0}, START + (1 << 29), **{"NUMBER(KERNEL_IMAGE_SIZE)": str(1 << 29)})
    for address in (0, 0x7FFF_0000_0000, 0x0000_8880_0000_0000):
        with pytest.raises(BadInput, match="not mapped"):
            x86_64({0x1000000: 0x67}, address)


def aarch64(tables: dict[int, int], address: int, page: int, bits: int) -> int:
    root = 0xFFFF_8000_0800_0000
    info = {
        "SYMBOL(swapper_pg_dir)": f"{root:x}",
        "NUMBER(kimage_voffset)": f"{root - 0x4000_0000:#x}",
        "PAGESIZE": str(page),
        "NUMBER(VA_BITS)": str(bits),
    }
    return physical(183, tables, info, address)


def test_aarch64_blocks_and_tags() -> None:
    """Blocks of 1 GiB and 2 MiB (4 KiB pages), 32 MiB (16 KiB), 512 MiB (64 KiB); a tag is no part of the address."""
    address = 0xFFFF_0001_2345_6788
    block, table = 0x0060_0000_0000_0701, 3
    first, second = ((address >> shift & 511) * 8 for shift in (39, 30))
    tables = {0x4000_0000 + first: 0x5000_0000 | table, 0x5000_0000 + second: 0x8000_0000 | block}
    for tagged in (address, address & ~(0xFF << 56) | 0xF4 << 56):
        assert aarch64(tables, tagged, 4096, 48) == 0x8000_0000 | address & 0x3FFF_FFFF
    with pytest.raises(BadInput, match="not mapped"):
        aarch64(tables, address & ~(1 << 55), 4096, 48)
    third = (address >> 21 & 511) * 8
    tables = tables | {0x5000_0000 + second: 0x6000_0000 | table, 0x6000_0000 + third: 0x1_0020_0000 | block}
    assert aarch64(tables, address, 4096, 48) == 0x1_0020_0000 | address & 0x1F_FFFF
    first, second = (address >> 36 & 2047) * 8, (address >> 25 & 2047) * 8
    tables = {0x4000_0000 + first: 0x5000_0000 | table, 0x5000_0000 + second: 0x1_0200_0000 | block}
    assert aarch64(tables, address, 16384, 47) == 0x1_0200_0000 | address & 0x1FF_FFFF
    first = (address >> 29 & 8191) * 8
    assert (
        aarch64({0x4000_0000 + first: 0xE000_0000 | block}, address, 65536, 42) == 0xE000_0000 | address & 0x1FFF_FFFF
    )


def test_aarch64_physical_addresses_of_52_bits() -> None:
    """Bits 48 and up stand in bits 12 to 15 (64 KiB pages), or 8 and 9 (LPA2)."""
    address = 0xFFF0_0001_2345_6788
    first = (address >> 42 & 1023) * 8
    tables = {0x4000_0000 + first: 0x5000_0000 | 3, 0x5000_0000 + (address >> 29 & 8191) * 8: 0xE000_A000 | 0x701}
    assert aarch64(tables, address, 65536, 52) == 0xA << 48 | 0xE000_0000 | address & 0x1FFF_FFFF
    tables = {
        0x4000_0000 + (address >> 48 & 15) * 8: 0x5000_0000 | 3,
        0x5000_0000 + (address >> 39 & 511) * 8: 0x6000_0000 | 3,
        0x6000_0000 + (address >> 30 & 511) * 8: 0x3_0000_8000_0000 | 0x200 | 0x401,
    }
    assert aarch64(tables, address, 4096, 52) == 1 << 51 | 0x3_0000_8000_0000 | address & 0x3FFF_FFFF


def test_aarch64_entries_that_map_nothing() -> None:
    """A reserved last level and an absent table; a kernel that does not say where its tables are."""
    address = 0xFFFF_0001_2345_6788
    indices = [(address >> shift & 511) * 8 for shift in (39, 30, 21, 12)]
    tables = {(i + 4) << 28 | at: (i + 5) << 28 | 3 for i, at in enumerate(indices)}
    assert aarch64(tables, address, 4096, 48) == 0x8000_0788
    tables[7 << 28 | indices[3]] = 0x8000_0001
    with pytest.raises(BadInput, match="not mapped"):
        aarch64(tables, address, 4096, 48)
    for info in ({}, {"NUMBER(kimage_voffset)": "0x0", "PAGESIZE": "4096"}):
        with pytest.raises(BadInput, match="cannot be translated"):
            physical(183, {}, {"OSRELEASE": "4.4"} | info, address)


def test_ppc64_translates_its_linear_map_alone() -> None:
    """0xc000… is physical memory from 0; vmalloc and user space are refused."""
    for machine_info in ({"OSRELEASE": "6.1"}, {"OSRELEASE": "2.6.32"}):
        assert physical(21, {}, machine_info, 0xC000_0000_026A_B1C0) == 0x26AB1C0
        for address in (0xC008_0000_0000_0000, 0xD000_0000_0000_0000, 0x1000, 0xBFFF_FFFF_FFFF_F000):
            with pytest.raises(BadInput, match="not mapped"):
                physical(21, {}, machine_info, address)


def test_what_the_dump_does_not_hold_is_absent() -> None:
    """A table that was left out is named by its physical address."""

    class Nothing:
        def physical(self, address: int, length: int) -> bytes:
            raise Absent(address, "nothing is here")

    text = f"SYMBOL(swapper_pg_dir)={ROOT:x}\nNUMBER(phys_base)=0\n".encode()
    image: Any = Image(62, "little", 64, text, [], Nothing())
    with pytest.raises(Absent) as caught:
        kernel_memory(image).read(0xFFFF_8880_0000_0000, 8)
    assert caught.value.address == 0x1000000 + 0x888 // 8 * 8
