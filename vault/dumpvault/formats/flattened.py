"""makedumpfile's flattened streams (``makedumpfile -F``): recognised, and known whole only by their end record."""

from __future__ import annotations

import struct

__all__ = ["END_RECORD", "is_flattened"]

_SIGNATURE = b"makedumpfile\0\0\0\0"
#: The last record: offset and size −1, both big-endian (makedumpfile's makedumpfile.h, END_FLAG_FLAT_HEADER).
END_RECORD = struct.pack(">qq", -1, -1)


def is_flattened(start: bytes) -> bool:
    """Whether a stream that begins with ``start`` carries the flattened header (signature, type 1)."""
    return start[:16] == _SIGNATURE and start[16:24] in (struct.pack(">q", 1), b"")
