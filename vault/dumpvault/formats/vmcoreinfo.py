"""VMCOREINFO: the text note in which a kernel says where its own structures are (kernel kernel/vmcore_info.c)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Literal

__all__ = ["find", "notes", "symbol"]


def notes(data: bytes, endian: Literal["little", "big"]) -> Iterator[tuple[bytes, int, bytes]]:
    """The ELF notes in ``data`` as (name, type, content); ends where they stop making sense."""
    header = struct.Struct("<III" if endian == "little" else ">III")
    at = 0
    while at + header.size <= len(data):
        name_size, size, kind = header.unpack_from(data, at)
        name_at = at + header.size
        content_at = name_at + (name_size + 3) // 4 * 4
        end = content_at + (size + 3) // 4 * 4
        if name_size == 0 or content_at + size > len(data):
            return
        yield data[name_at : name_at + name_size].rstrip(b"\0"), kind, data[content_at : content_at + size]
        at = end


def find(data: bytes, endian: Literal["little", "big"]) -> dict[str, str]:
    """The key=value lines of the VMCOREINFO note; empty if there is none."""
    for name, _, content in notes(data, endian):
        if name == b"VMCOREINFO":
            lines = content.decode("ascii", errors="replace").rstrip("\0").splitlines()
            return dict(line.split("=", 1) for line in lines if "=" in line)
    return {}


def symbol(info: dict[str, str], name: str) -> int | None:
    """The virtual address of a kernel symbol."""
    try:
        return int(info[f"SYMBOL({name})"], 16)
    except (KeyError, ValueError):
        return None
