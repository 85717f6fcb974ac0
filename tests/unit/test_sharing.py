"""Replicated additive sharing: every quorum opens, one fewer lacks a component (spec, section 7.1)."""

from __future__ import annotations

import hashlib
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.errors import Forged, Usage
from dumpvault.formats import jcs, sharing
from dumpvault.formats.keybag import check_share
from dumpvault.formats.sharing import Commitments, Quorum, combine, component_count, held_by, split
from kit import VAULT

ALL = [(k, n) for n in range(2, 129) for k in range(2, n + 1) if comb(n, k - 1) <= 128]
SMALL = [(k, n) for k, n in ALL if n <= 16]
VK = bytes(range(32))


@given(st.sampled_from(SMALL), st.binary(min_size=32, max_size=32), st.data())
def test_every_quorum_combines_and_one_fewer_lacks_a_component(
    shape: tuple[int, int], vk: bytes, data: st.DataObject
) -> None:
    """Any k custodians hold all components and get VK; of any k - 1 all lack one and the same, which is random."""
    k, n = shape
    components = split(vk, k, n)
    assert len(components) == component_count(k, n)
    order = data.draw(st.permutations(range(n)))
    together = {number: components[number] for c in order[:k] for number in held_by(c, k, n)}
    assert combine(together, k, n) == vk
    fewer = {number: components[number] for c in order[: k - 1] for number in held_by(c, k, n)}
    missing = set(range(len(components))) - set(fewer)
    assert missing
    assert not any(missing & set(held_by(c, k, n)) for c in order[: k - 1])
    with pytest.raises(ValueError, match=r"component \d+ of \d+ is missing"):
        combine(fewer, k, n)


@pytest.mark.parametrize(("k", "n"), [(k, n) for k, n in ALL if n <= 7])
def test_all_subsets_of_small_quorums(k: int, n: int) -> None:
    """Not a sample: each set of k custodians has all components, each set of k - 1 lacks exactly one."""
    everything = set(range(component_count(k, n)))
    for together in combinations(range(n), k):
        assert {number for c in together for number in held_by(c, k, n)} == everything
    for fewer in combinations(range(n), k - 1):
        assert len(everything - {number for c in fewer for number in held_by(c, k, n)}) == 1


@pytest.mark.parametrize(("k", "n"), ALL)
def test_every_quorum_that_fits(k: int, n: int) -> None:
    """Each custodian of each shape up to 128 holds as many components as the spec says."""
    assert len(held_by(0, k, n)) == len(held_by(n - 1, k, n)) == comb(n - 1, k - 1)


def test_a_missing_component_hides_everything() -> None:
    """With all components but one, every vault key is as likely as another: each fits some value of the missing one."""
    components = split(VK, 2, 3)
    for lost in range(3):
        known = dict(enumerate(components))
        del known[lost]
        rest = bytes(a ^ b for a, b in zip(*known.values(), strict=True))
        for other in (bytes(32), b"\xff" * 32, VK):
            fits = bytes(a ^ b for a, b in zip(rest, other, strict=True))
            assert combine(known | {lost: fits}, 2, 3) == other


def test_the_numbering_of_the_spec() -> None:
    """Section 7.1's example: of 2 of 3, custodian 1 holds components 0 and 2."""
    assert [held_by(c, 2, 3) for c in range(3)] == [[0, 1], [0, 2], [1, 2]]
    assert [held_by(c, 3, 3) for c in range(3)] == [[0], [1], [2]]


def test_splits_differ() -> None:
    """Fresh components each time, and none is the key."""
    first, second = split(VK, 2, 3), split(VK, 2, 3)
    assert not set(first) & set(second)
    assert VK not in first


def test_commitments_are_the_digests_of_the_spec() -> None:
    """Section 7.1, byte for byte."""
    components = split(VK, 2, 3)
    made = Commitments.to(VK, components, VAULT, 4)
    assert made.vault_key == hashlib.sha256(f"dumpvault-vault-key@v1\n{VAULT}\n4\n".encode() + VK).hexdigest()
    for j, component in enumerate(components):
        text = f"dumpvault-component@v1\n{VAULT}\n4\n{j}\n".encode()
        assert made.components[j] == hashlib.sha256(text + component).hexdigest()
    assert Commitments.read(jcs.Fields(made.encode(), "x")) == made


@pytest.mark.parametrize("wrong", [
    {}, {"vault_key": "aa" * 32}, {"vault_key": "aa" * 32, "components": []},
    {"vault_key": "aa" * 32, "components": ["aa" * 32] * 129}, {"vault_key": "aa" * 32, "components": ["aa" * 32, "AA"]},
    {"vault_key": "aa" * 32, "components": ["aa" * 32, 7]}, {"vault_key": None, "components": ["aa" * 32] * 2},
    {"vault_key": "aa" * 32, "components": ["aa" * 32] * 2, "more": 1},
], ids=str)  # fmt: skip
def test_commitments_of_another_form_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(Forged, match=r"^the commit"):
        Commitments.read(jcs.Fields(wrong, "the commit"))


@given(st.sampled_from([(2, 2), (2, 3), (3, 5)]), st.data())
def test_a_changed_share_is_noticed(shape: tuple[int, int], data: st.DataObject) -> None:
    """Any changed bit, a byte more or fewer, and another custodian's, attempt's or vault's share."""
    k, n = shape
    components = split(VK, k, n)
    signed = Commitments.to(VK, components, VAULT, 1)
    share = b"".join(components[number] for number in held_by(0, k, n))
    assert check_share(share, signed, 0, k, n, VAULT, 1) == {j: components[j] for j in held_by(0, k, n)}
    at, bit = data.draw(st.integers(0, len(share) - 1)), data.draw(st.integers(0, 7))
    changed = bytearray(share)
    changed[at] ^= 1 << bit
    for wrong, args in (
        (bytes(changed), (0, k, n, VAULT, 1)), (share[:-1], (0, k, n, VAULT, 1)), (share + b"\0", (0, k, n, VAULT, 1)),
        (b"", (0, k, n, VAULT, 1)), (share, (1, k, n, VAULT, 1)), (share, (0, k, n, VAULT, 2)),
        (share, (0, k, n, VAULT[::-1], 1)),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            check_share(wrong, signed, *args)


@pytest.mark.parametrize(("text", "told"), [
    ("", "is no quorum"), ("2of3", "is no quorum"), ("2of3:", "is no quorum"), ("2of2:a,,b", "is no quorum"),
    ("two of three:a,b,c", "is no quorum"), ("-1of3:a,b,c", "is no quorum"), ("2of3:a,b,", "is no quorum"),
    ("1of3:a,b,c", "1 of 3 is no dual control"), ("0of1:a", "0 of 1 is no dual control"),
    ("1of1:a", "is no dual control"), ("4of3:a,b,c", "4 of 3 can never be reached"),
    ("2of3:a,b", "names 2 custodians, not 3"), ("2of2:a,b,c", "names 3 custodians, not 2"),
    ("2of3:a,b,a", "custodian a is named twice"), ("2of2:a,a ", "custodian a is named twice"),
    (f"3of17:{','.join(map(str, range(17)))}", "3 of 17 takes 136 components; at most 128 fit"),
    (f"2of129:{','.join(map(str, range(129)))}", "2 of 129 takes 129 components"),
])  # fmt: skip
def test_quorums_that_are_refused(text: str, told: str) -> None:
    """1 of n, n + 1 of n, too many, duplicates, and what is no quorum: each named."""
    with pytest.raises(Usage, match=r"^--quorum: ") as refused:
        Quorum.parse(text, "--quorum")
    assert told in refused.value.message


def test_quorums_that_are_read() -> None:
    assert Quorum.parse("2of3:alice, bob,keys/carol.pub", "x") == Quorum(2, ("alice", "bob", "keys/carol.pub"))
    assert Quorum.parse("2of2:a,b", "x").threshold == 2
    assert sharing.MAX_COMPONENTS == 128
