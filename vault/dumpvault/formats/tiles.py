"""Tiles of a log (C2SP tlog-tiles): where hashes and entries stand, and the right edge of a tree as it grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from dumpvault.formats import merkle

__all__ = ["WIDTH", "Edge", "bundle", "bundle_path", "entries_of", "nodes_over", "path", "tile_path", "widths"]

#: Hashes of a full tile, and entries of a full bundle.
WIDTH = 256


def path(number: int) -> str:
    """A tile's index as path elements of three digits: 1234067 is ``x001/x234/067``."""
    parts = [f"{number % 1000:03}"]
    while number := number // 1000:
        parts.append(f"x{number % 1000:03}")
    return "/".join(reversed(parts))


def tile_path(level: int, number: int, width: int = WIDTH) -> str:
    return f"tile/{level}/{path(number)}" + (f".p/{width}" if width < WIDTH else "")


def bundle_path(number: int, width: int = WIDTH) -> str:
    return f"tile/entries/{path(number)}" + (f".p/{width}" if width < WIDTH else "")


def bundle(entries: Sequence[bytes]) -> bytes:
    """A bundle of entries, each of at most 65 535 bytes."""
    return b"".join(len(entry).to_bytes(2) + entry for entry in entries)


def entries_of(data: bytes) -> list[bytes]:
    """The entries of a bundle; raises ``ValueError`` where it ends inside one."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2])
        if end > len(data) or at + 2 > len(data):
            raise ValueError(f"cut off inside entry {len(found)}")
        found.append(data[at + 2 : end])
        at = end
    return found


def widths(size: int) -> list[int]:
    """Hashes in the partial tile of each level, from level 0 up, of a tree of ``size`` entries."""
    found: list[int] = []
    while size:
        found.append(size % WIDTH)
        size //= WIDTH
    return found


def nodes_over(tile: Callable[[int, int, int], bytes], size: int) -> merkle.Nodes:
    """Hashes of perfect subtrees of a tree of ``size`` entries; ``tile(level, number, width)`` gives tiles' bytes."""

    def nodes(height: int, index: int) -> bytes:
        level, within = divmod(height, 8)
        first = index << within
        number, at = divmod(first, WIDTH)
        there = (size >> 8 * level) - number * WIDTH
        data = tile(level, number, min(WIDTH, there))
        return merkle.subtree([data[32 * i : 32 * i + 32] for i in range(at, at + (1 << within))])

    return nodes


@dataclass(slots=True)
class Edge:
    """The right edge of a tree: the hashes of its partial tiles, by level. Grows by ``add``; nothing else is needed."""

    size: int = 0
    levels: list[list[bytes]] = field(default_factory=list)

    @classmethod
    def read(cls, size: int, tile: Callable[[int, int, int], bytes]) -> Edge:
        """The edge of a tree of ``size`` entries from its partial tiles; raises ``ValueError`` where one has another length."""
        levels = []
        for level, width in enumerate(widths(size)):
            data = tile(level, (size >> 8 * level) // WIDTH, width) if width else b""
            if len(data) != 32 * width:
                raise ValueError(f"the tile of level {level} has {len(data)} bytes, not {32 * width}")
            levels.append([data[i : i + 32] for i in range(0, len(data), 32)])
        return cls(size, levels)

    def add(self, leaf: bytes) -> Iterator[tuple[str, bytes]]:
        """One more leaf hash; yields the full tiles that it completes, as names and bytes."""
        self.size += 1
        level, carry = 0, leaf
        while True:
            if level == len(self.levels):
                self.levels.append([])
            self.levels[level].append(carry)
            if len(self.levels[level]) < WIDTH:
                return
            yield tile_path(level, (self.size >> 8 * (level + 1)) - 1), b"".join(self.levels[level])
            hashes, self.levels[level] = self.levels[level], []
            level, carry = level + 1, merkle.subtree(hashes)

    def partial(self) -> Iterator[tuple[str, bytes]]:
        """The partial tiles of this size, as names and bytes."""
        for level, hashes in enumerate(self.levels):
            if hashes:
                yield tile_path(level, (self.size >> 8 * level) // WIDTH, len(hashes)), b"".join(hashes)

    @property
    def root(self) -> bytes:
        """The tree's root, folded from the right: a partial tile holds the perfect subtrees of eight of the size's bits."""
        right: bytes | None = None
        for hashes in self.levels:
            peaks, at = [], 0
            for bit in (128, 64, 32, 16, 8, 4, 2, 1):
                if len(hashes) & bit:
                    peaks.append(merkle.subtree(hashes[at : at + bit]))
                    at += bit
            for peak in reversed(peaks):
                right = peak if right is None else merkle.node_hash(peak, right)
        return merkle.EMPTY if right is None else right
