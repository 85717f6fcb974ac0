"""The Merkle tree of RFC 6962, section 2.1, with SHA-256: roots, proofs of inclusion and of consistency."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

__all__ = [
    "EMPTY",
    "consistent",
    "included",
    "leaf_hash",
    "node_hash",
    "prove_consistency",
    "prove_inclusion",
    "root",
    "subtree",
]

#: The root of the tree without leaves.
EMPTY = hashlib.sha256().digest()
#: ``node(height, index)``: the hash of the perfect subtree over leaves index·2^height up to (index + 1)·2^height.
Nodes = Callable[[int, int], bytes]


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def subtree(hashes: Sequence[bytes]) -> bytes:
    """The root over a power of two of hashes."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[i], hashes[i + 1]) for i in range(0, len(hashes), 2)]
    return hashes[0]


def _split(length: int) -> int:
    """The largest power of two below ``length``, which is at least 2."""
    return 1 << ((length - 1).bit_length() - 1)


def root(nodes: Nodes, size: int, start: int = 0) -> bytes:
    """MTH(D[start:start + size])."""
    if size == 0:
        return EMPTY
    if size & (size - 1) == 0:
        height = size.bit_length() - 1
        return nodes(height, start >> height)
    k = _split(size)
    return node_hash(root(nodes, k, start), root(nodes, size - k, start + k))


def prove_inclusion(nodes: Nodes, index: int, size: int, start: int = 0) -> list[bytes]:
    """PATH(index, D[start:start + size]), the leaf's sibling first."""
    if size == 1:
        return []
    k = _split(size)
    if index < k:
        return [*prove_inclusion(nodes, index, k, start), root(nodes, size - k, start + k)]
    return [*prove_inclusion(nodes, index - k, size - k, start + k), root(nodes, k, start)]


def prove_consistency(nodes: Nodes, old: int, size: int) -> list[bytes]:
    """PROOF(old, D[size]); empty where either is all that there is to say (0, or the same size)."""
    return _subproof(nodes, old, size, 0, True) if 0 < old < size else []


def _subproof(nodes: Nodes, old: int, size: int, start: int, whole: bool) -> list[bytes]:
    if old == size:
        return [] if whole else [root(nodes, size, start)]
    k = _split(size)
    if old <= k:
        return [*_subproof(nodes, old, k, start, whole), root(nodes, size - k, start + k)]
    return [*_subproof(nodes, old - k, size - k, start + k, False), root(nodes, k, start)]


def included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> bool:
    """RFC 9162, section 2.1.3.2."""
    if not 0 <= index < size:
        return False
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == expected


def consistent(old: int, old_root: bytes, size: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """RFC 9162, section 2.1.4.2."""
    if not 0 <= old <= size:
        return False
    if old in (0, size):
        return not proof and old_root == (EMPTY if old == 0 else new_root)
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        return False
    fn, sn = old - 1, size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == old_root and sr == new_root
