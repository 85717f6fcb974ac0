"""Roots and proofs against RFC 6962's own definitions, for every size and index up to 40."""

from __future__ import annotations

from dumpvault.formats import merkle

LEAVES = [merkle.leaf_hash(bytes([i])) for i in range(40)]


def plain(leaves: list[bytes]) -> bytes:
    """MTH as the RFC writes it, over leaf hashes."""
    if not leaves:
        return merkle.EMPTY
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return merkle.node_hash(plain(leaves[:k]), plain(leaves[k:]))


def nodes(height: int, index: int) -> bytes:
    return plain(LEAVES[index << height : (index + 1) << height])


def test_every_inclusion_and_no_other() -> None:
    for size in range(1, 41):
        expected = plain(LEAVES[:size])
        assert merkle.root(nodes, size) == expected
        for index in range(size):
            proof = merkle.prove_inclusion(nodes, index, size)
            assert merkle.included(LEAVES[index], index, size, proof, expected)
            assert not merkle.included(LEAVES[index - 1], index, size, proof, expected) or size == 1
            assert not merkle.included(LEAVES[index], index + size, size, proof, expected)
            assert not merkle.included(LEAVES[index], index, size, [*proof, bytes(32)], expected)
            assert not proof or not merkle.included(LEAVES[index], index, size, proof[:-1], expected)


def test_every_consistency_and_no_other() -> None:
    for size in range(1, 41):
        for old in range(size + 1):
            proof = merkle.prove_consistency(nodes, old, size)
            roots = plain(LEAVES[:old]), plain(LEAVES[:size])
            assert merkle.consistent(old, roots[0], size, roots[1], proof)
            assert not merkle.consistent(old, bytes(32), size, roots[1], proof)
            assert not merkle.consistent(old, roots[0], size, roots[1], [*proof, bytes(32)])
            assert not old > 0 or not merkle.consistent(old, roots[0], size, bytes(32), proof)
