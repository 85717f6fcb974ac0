"""Numbers and foreign text as people are shown them."""

from __future__ import annotations

__all__ = ["printable", "size"]


def printable(text: str) -> str:
    """Control characters replaced, those that turn the direction of text included."""
    return "".join(c if c.isprintable() else "?" for c in text)


def size(count: int) -> str:
    """Bytes for people: ``512 B``, ``1.5 MiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
