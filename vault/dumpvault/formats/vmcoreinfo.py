"""VMCOREINFO: the text note in which a kernel says where its own structures are (kernel kernel/vmcore_info.c)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Literal

from dumpvault.errors import BadInput

__all__ = ["find", "locate", "notes", "number", "parse", "required", "symbol"]

_HEADER = 12
_MAX_NOTES = 1 << 16
_MAX_TEXT = 1 << 20


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
            return parse(content)
    return {}


def parse(text: bytes) -> dict[str, str]:
    """The key=value lines of a VMCOREINFO text."""
    lines = text.decode("ascii", errors="replace").rstrip("\0").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def locate(
    read: Callable[[int, int], bytes], start: int, length: int, endian: Literal["little", "big"]
) -> bytes | None:
    """The text of the VMCOREINFO note among the notes in file bytes ``start`` to ``start + length``; None without one.

    Reads the heads of the notes and this one's content, not the rest: notes may hold whole device dumps.
    """
    at, end = start, start + length
    for _ in range(_MAX_NOTES):
        head = read(at, min(_HEADER + 12, end - at)) if at + _HEADER < end else b""
        if len(head) < _HEADER:
            return None
        name_size, size, _ = struct.unpack_from("<III" if endian == "little" else ">III", head)
        content_at = at + _HEADER + (name_size + 3) // 4 * 4
        if name_size == 0 or content_at + size > end:
            return None
        if name_size in (10, 11) and head[_HEADER : _HEADER + 10] == b"VMCOREINFO":
            return read(content_at, min(size, _MAX_TEXT)).rstrip(b"\0")
        at = content_at + (size + 3) // 4 * 4
    return None


def symbol(info: dict[str, str], name: str) -> int | None:
    """The virtual address of a kernel symbol."""
    try:
        return int(info[f"SYMBOL({name})"], 16)
    except (KeyError, ValueError):
        return None


def number(info: dict[str, str], key: str) -> int | None:
    """The value of ``NUMBER(…)``, ``OFFSET(…)``, ``SIZE(…)`` or ``LENGTH(…)``: decimal, or hexadecimal after ``0x``."""
    text = info.get(key, "")
    try:
        return int(text, 16 if text.lower().startswith(("0x", "-0x")) else 10)
    except ValueError:
        return None


def required(info: dict[str, str], key: str) -> int:
    """The value of any entry, or ``BadInput`` that names it."""
    value = symbol(info, key[7:-1]) if key.startswith("SYMBOL(") else number(info, key)
    if value is None:
        raise BadInput(
            f"VMCOREINFO has no usable {key}",
            "The kernel log cannot be found without it. Use crash with the kernel's debug symbols.",
        )
    return value
