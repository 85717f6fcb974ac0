"""A small dump of a machine that crashed with a kernel log in its memory, and pages around it that hold ``MARKER``."""

from __future__ import annotations

from dumpvault.formats.elf import PT_LOAD, PT_NOTE, write_headers

from .crashed import Crashed, crash, for_makedumpfile, note
from .printk_writer import LocklessWriter, Message
from .vmcore import MARKER, memory

__all__ = ["LINES", "LOG", "logged_core", "logged_machine"]

LINES = [
    b"Linux version 6.1.0-test",
    b"something happened",
    MARKER + b" in the log",
    b"Kernel panic - not syncing: test",
]
#: What ``dmesg`` prints of it.
LOG = b"".join(b"[    %d.000000] %b\n" % (i, line) for i, line in enumerate(LINES, 1))
_PAGE = 4096


def logged_machine() -> Crashed:
    writer = LocklessWriter(5, 10)
    for i, line in enumerate(LINES, 1):
        writer.log(Message(line, i * 1_000_000_000))
    crashed = crash(writer.structures())
    for_makedumpfile(crashed, "6.1.0-test")
    return crashed


def logged_core(pages: int = 512, *, info: bytes | None = None, machine: int = 62, tail: bytes = b"") -> bytes:
    """As ``/proc/vmcore`` lays it out: padded headers, one PT_NOTE, ``pages`` pages of other memory, then the kernel's.

    ``info`` replaces VMCOREINFO; empty leaves it out. ``tail`` is memory that comes last.
    """
    crashed = logged_machine()
    text = crashed.vmcoreinfo() if info is None else info
    notes = note(b"CORE", b"x" * 336, "little", 1) + (note(b"VMCOREINFO", text, "little") if text else b"")
    virtual, physical, length = crashed.loads[0]
    kernel = range(physical // _PAGE, (physical + length) // _PAGE)
    runs = [(0, 0x10000000, memory(pages))]
    runs += [(0, n * _PAGE, bytes(data)) for n, data in sorted(crashed.pages.items()) if n not in kernel]
    runs.append((virtual, physical, b"".join(bytes(crashed.pages.get(n, bytes(_PAGE))) for n in kernel)))
    runs += [(0, 0x40000000, tail)] if tail else []
    table = [(PT_NOTE, 0, 0, 0)] + [(PT_LOAD, 0, 0, 0)] * len(runs)
    at = -(-len(write_headers(table)) // _PAGE) * _PAGE
    segments, body = [(PT_NOTE, at, 0, len(notes))], notes.ljust(-(-len(notes) // _PAGE) * _PAGE, b"\0")
    first = at
    for _, where, data in runs:
        segments.append((PT_LOAD, first + len(body), where, len(data)))
        body += data
    head = write_headers(segments, machine=machine, virtual=[0, *(run[0] for run in runs)])
    return head.ljust(first, b"\0") + body
