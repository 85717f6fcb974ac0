"""A disk that can lose power: what is durable, what is only visible, and every state that a crash may legally leave.

Nodes never change once made, so a copy of a disk is a copy of one dictionary. Files hold the bytes that were synced and
the writes since; directories the entries that were synced and the changes since. Nothing is durable for its own sake: a
file without a durable entry on the whole path to it is gone.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import prod

__all__ = ["SECTOR", "Disk", "File", "Folder"]

SECTOR = 512
ROOT = 0


@dataclass(frozen=True, slots=True)
class File:
    """``seen`` is what a read gives; ``durable`` what is safe; ``writes`` (offset, bytes) led from one to the other."""

    durable: bytes = b""
    seen: bytes = b""
    writes: tuple[tuple[int, bytes], ...] = ()

    def variants(self) -> list[bytes]:
        """What a crash may make of the bytes, nothing kept first, all kept last, each once.

        Prefixes of the writes; each one alone lost, each one alone kept; each one torn between sectors, its head kept or
        its tail (at every sector of a short write, at four of a long one); the length kept and the bytes lost.
        """
        found = [_apply(self.durable, self.writes[:i]) for i in range(len(self.writes))]
        for i, (offset, data) in enumerate(self.writes):
            before, after = self.writes[:i], self.writes[i + 1 :]
            found += [_apply(self.durable, before + after), _apply(self.durable, self.writes[i : i + 1])]
            sectors = -(-len(data) // SECTOR)
            for cut in range(1, sectors) if sectors <= 4 else (1, sectors // 2, sectors - 2, sectors - 1):
                head = (offset, data[: cut * SECTOR])
                tail = (offset + cut * SECTOR, data[cut * SECTOR :])
                found += [_apply(self.durable, (*before, piece)) for piece in (head, tail)]
        found.append(self.durable + bytes(max(0, len(self.seen) - len(self.durable))))
        return list(dict.fromkeys([piece for piece in found if piece != self.seen] + [self.seen]))


@dataclass(frozen=True, slots=True)
class Folder:
    """Entries by name, as node numbers; ``changes`` (name, node or None) since the last sync."""

    durable: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    changes: tuple[tuple[str, int | None], ...] = ()

    def changed(self, name: str, node: int | None) -> Folder:
        seen = {k: v for k, v in self.seen.items() if k != name} | ({name: node} if node is not None else {})
        return Folder(self.durable, seen, (*self.changes, (name, node)))

    def choices(self) -> dict[str, list[int | None]]:
        """For each entry that was changed, what may be there after a crash: the durable one first, the seen one last."""
        found: dict[str, list[int | None]] = {}
        for name, node in self.changes:
            values = found.setdefault(name, [self.durable.get(name)])
            if node in values:
                values.remove(node)
            values.append(node)
        return {name: values for name, values in found.items() if len(values) > 1}


class Disk:
    """One file system. Every call below is what a system call does to it; errors are ``OSError``, as from the kernel."""

    def __init__(self) -> None:
        self.nodes: dict[int, File | Folder] = {ROOT: Folder()}

    def copy(self) -> Disk:
        twin = Disk()
        twin.nodes = dict(self.nodes)
        return twin

    # System calls

    def folder(self, node: int) -> Folder:
        found = self.nodes[node]
        if not isinstance(found, Folder):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return found

    def file(self, node: int) -> File:
        found = self.nodes[node]
        if not isinstance(found, File):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        return found

    def find(self, path: str) -> int:
        """The node at a path below the root."""
        node = ROOT
        for name in filter(None, path.split("/")):
            entries = self.folder(node).seen
            if name not in entries:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            node = entries[name]
        return node

    def make(self, folder: int, name: str, node: File | Folder) -> int:
        self._must_be_free(folder, name)
        number = len(self.nodes)
        self.nodes[number] = node
        self.nodes[folder] = self.folder(folder).changed(name, number)
        return number

    def write(self, node: int, offset: int, data: bytes) -> None:
        old = self.file(node)
        self.nodes[node] = File(old.durable, _apply(old.seen, [(offset, data)]), (*old.writes, (offset, data)))

    def sync(self, node: int) -> None:
        old = self.nodes[node]
        if isinstance(old, File):
            self.nodes[node] = File(old.seen, old.seen)
        else:
            self.nodes[node] = Folder(old.seen, old.seen)

    def link(self, node: int, folder: int, name: str) -> None:
        self._must_be_free(folder, name)
        self.nodes[folder] = self.folder(folder).changed(name, node)

    def unlink(self, folder: int, name: str) -> None:
        if name not in self.folder(folder).seen:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        self.nodes[folder] = self.folder(folder).changed(name, None)

    def _must_be_free(self, folder: int, name: str) -> None:
        if name in self.folder(folder).seen:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)

    # What a proof asks

    def tree(self, node: int = ROOT, at: str = "") -> dict[str, bytes]:
        """Every file that can be reached by a path, and every empty directory (with a slash at the end)."""
        found: dict[str, bytes] = {}
        entries = self.folder(node).seen
        for name, inner in entries.items():
            below = self.nodes[inner]
            if isinstance(below, File):
                found[at + name] = below.seen
            else:
                found |= self.tree(inner, f"{at}{name}/")
        return found or {at: b""}

    def settled(self) -> Disk:
        """As it is seen now, all of it durable: what a copy of the store holds that was taken at this moment."""
        twin = Disk()
        for number, node in self.nodes.items():
            twin.nodes[number] = File(node.seen, node.seen) if isinstance(node, File) else Folder(node.seen, node.seen)
        return twin

    def unsynced(self) -> Disk:
        """As it is seen now, none of it durable: a copy of the store that nobody has synced."""
        twin = Disk()
        for number, node in self.nodes.items():
            twin.nodes[number] = (
                File(b"", node.seen, ((0, node.seen),))
                if isinstance(node, File)
                else Folder({}, node.seen, tuple(node.seen.items()))
            )
        return twin

    def power_lost(self) -> Disk:
        """The barest legal state: nothing but what was synced."""
        twin = Disk()
        for number, node in self.nodes.items():
            kept = node.durable
            twin.nodes[number] = File(kept, kept) if isinstance(kept, bytes) else Folder(kept, kept)
        return twin

    def crash_states(self, rng: random.Random, bound: int) -> Iterator[Disk]:
        """Distinct legal states after a crash at this moment: all of them if that takes no more than ``bound`` tries.

        Otherwise those with everything lost, everything kept, each one thing lost, each one thing kept, and seeded random
        ones up to ``bound``.
        """
        undecided = self._undecided()
        lengths = [len(values) for values in undecided.values()]
        seen = set()
        for picks in _picks(lengths, rng, bound):
            state = self.power_lost()
            for (place, values), pick in zip(undecided.items(), picks, strict=True):
                state._put(place, values[pick])
            key = frozenset(state.tree().items())
            if key not in seen:
                seen.add(key)
                yield state

    def tries(self) -> int:
        """How many combinations a crash may leave now, some of which look the same."""
        return prod(map(len, self._undecided().values()))

    def _undecided(self) -> dict[tuple[int, str | None], list[bytes] | list[int | None]]:
        """What may be one way or another after a crash: entries of directories by name, and the bytes of files."""
        found: dict[tuple[int, str | None], list[bytes] | list[int | None]] = {}
        for number in sorted(self._within_reach()):
            node = self.nodes[number]
            if isinstance(node, Folder):
                found |= {(number, name): values for name, values in node.choices().items()}
            elif node.writes:
                found[number, None] = node.variants()
        return found

    def _put(self, place: tuple[int, str | None], value: bytes | int | None) -> None:
        number, name = place
        if isinstance(value, bytes):
            self.nodes[number] = File(value, value)
            return
        assert name is not None
        kept = {k: v for k, v in self.folder(number).durable.items() if k != name}
        kept |= {name: value} if value is not None else {}
        self.nodes[number] = Folder(kept, kept)

    def _within_reach(self) -> set[int]:
        """Nodes that some legal state can reach by a path."""
        found, todo = {ROOT}, [ROOT]
        while todo:
            node = self.nodes[todo.pop()]
            if isinstance(node, Folder):
                entries = {*node.durable.values(), *(n for _, n in node.changes if n is not None)}
                todo += entries - found
                found |= entries
        return found


def _apply(data: bytes, writes: tuple[tuple[int, bytes], ...] | list[tuple[int, bytes]]) -> bytes:
    for offset, piece in writes:
        if piece:
            data = data[:offset].ljust(offset, b"\0") + piece + data[offset + len(piece) :]
    return data


def _picks(lengths: list[int], rng: random.Random, bound: int) -> Iterator[tuple[int, ...]]:
    if prod(lengths) <= bound:
        yield from product(*map(range, lengths))
        return
    lost, kept = [0] * len(lengths), [n - 1 for n in lengths]
    special = [lost, kept]
    for i, n in enumerate(lengths):
        special += [[*lost[:i], pick, *lost[i + 1 :]] for pick in range(1, n)]
        special += [[*kept[:i], pick, *kept[i + 1 :]] for pick in range(n - 1)]
    yield from map(tuple, special)
    for _ in range(bound - len(special)):
        yield tuple(rng.randrange(n) for n in lengths)
