"""The unsigned key objects: keybag and wrapped keys, each with one spelling (spec, sections 7 and 8)."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dumpvault.errors import Forged
from dumpvault.formats import jcs, keybag
from dumpvault.formats.kem import SUITES
from dumpvault.formats.keybag import Entry, Keybag, WrappedKeys
from dumpvault.formats.recipient import Recipient
from dumpvault.formats.sharing import combine
from kit import VAULT, get, parent_of, paths, wrong_values

A, B, C = "aa" * 32, "bb" * 32, "cc" * 32
BAG = Keybag(VAULT, 2, (Entry(A, "xwing", b"sealed"), Entry(B, "p384", b"other")))
SHARES = replace(BAG, mode="shares")
KEYS = WrappedKeys(VAULT, 2, 5, ((3, bytes(40)), (4, b"\x01" * 40)))

# name: (bytes, how to read them, what they read as)
OBJECTS: dict[str, tuple[bytes, Callable[[bytes], Any], Any]] = {
    "keybag": (BAG.encode(), lambda d: Keybag.read(d, VAULT, 2, "the object"), BAG),
    "shares": (SHARES.encode(), lambda d: Keybag.read(d, VAULT, 2, "the object"), SHARES),
    "keys": (KEYS.encode(), lambda d: WrappedKeys.read(d, VAULT, 2, 5, "the object"), KEYS),
}
OBJECT_CASES = [(n, p) for n, (d, _, _) in OBJECTS.items() for p in paths(jcs.decode(d, n, 1 << 20))]


@pytest.mark.parametrize("name", OBJECTS)
def test_key_objects_are_read_as_they_were_written(name: str) -> None:
    """Keybag and wrapped keys are read back equal."""
    data, read, value = OBJECTS[name]
    assert read(data) == value


@pytest.mark.parametrize(("name", "path"), OBJECT_CASES, ids=str)
def test_fields_of_key_objects_are_held_to_their_types(name: str, path: tuple[Any, ...]) -> None:
    """Each field of a key object missing, of another type, or joined by one more is refused by the object's name."""
    data, read, _ = OBJECTS[name]
    whole = jcs.decode(data, name, 1 << 20)
    attempts: list[Any] = []
    for wrong in wrong_values(get(whole, path)):
        attempts.append(copy.deepcopy(whole))
        parent_of(attempts[-1], path)[path[-1]] = wrong
    if isinstance(path[-1], str):
        attempts.append(copy.deepcopy(whole))
        del parent_of(attempts[-1], path)[path[-1]]
        attempts.append(copy.deepcopy(whole))
        parent_of(attempts[-1], path)["zz"] = 1
    for attempt in attempts:
        with pytest.raises(Forged, match=r"^the object"):
            read(jcs.encode(attempt))


@pytest.mark.parametrize("name", OBJECTS)
def test_unsigned_objects_have_one_spelling(name: str) -> None:
    """Section 2: white space, other escapes or another key order in an unsigned object are refused."""
    data, read, _ = OBJECTS[name]
    for other in (
        data + b"\n",
        b" " + data,
        data.replace(b":", b": ", 1),
        data.replace(b'"format"', b'"\\u0066ormat"'),
    ):
        with pytest.raises(Forged, match="RFC 8785"):
            read(other)


@pytest.mark.parametrize("change", [
    {"attempt": 3}, {"vault": C[:32]}, {"format": 2}, {"mode": "split"}, {"entries": []},
    {"entries": [{"recipient": B, "sealed": "", "suite": "p384"}, {"recipient": A, "sealed": "", "suite": "p384"}]},
    {"entries": [{"recipient": A, "sealed": "", "suite": "p384"}] * 2},
    {"entries": [{"recipient": A, "sealed": "", "suite": "rsa"}]},
    {"entries": [{"recipient": A, "sealed": "AB==", "suite": "p384"}]},
], ids=str)  # fmt: skip
def test_keybags_of_another_form_are_refused(change: dict[str, Any]) -> None:
    """Another attempt, vault, format or mode, unsorted or doubled recipients and unknown suites are refused."""
    value = jcs.decode(BAG.encode(), "x", 1 << 20)
    with pytest.raises(Forged, match=r"^the object"):
        Keybag.read(jcs.encode(value | change), VAULT, 2, "the object")


@pytest.mark.parametrize("length", [0, 39, 41, 48])
def test_a_wrapped_key_has_40_bytes(length: int) -> None:
    """Section 8: wrapped is base64 of 40 bytes."""
    with pytest.raises(Forged):
        WrappedKeys.read(replace(KEYS, keys=((3, bytes(length)),)).encode(), VAULT, 2, 5, "the object")


def test_wrapped_keys_are_those_that_the_commit_signed() -> None:
    """Another key, order, index or number of keys is refused."""
    signed = [(i, hashlib.sha256(k).hexdigest()) for i, k in KEYS.keys]
    KEYS.check(signed, "the object")
    for other in (signed[::-1], signed[:1], [*signed, (5, A)], [signed[0], (4, A)], []):
        with pytest.raises(Forged, match=r"^the object: key \d is not the one that commit 5 signed"):
            KEYS.check(other, "the object")


def test_a_keybag_opens_for_its_recipients_only() -> None:
    """A sealed vault key opens with each listed key, bound to vault, attempt, header and recipient."""
    pairs = {name: suite.generate() for name, suite in SUITES.items()}
    recipients = [Recipient(name, SUITES[name], public) for name, (_, public) in pairs.items()]
    bag = Keybag.seal(bytes(32), recipients, VAULT, 1, A)
    assert [e.recipient for e in bag.entries] == sorted(r.digest for r in recipients)
    assert Keybag.read(bag.encode(), VAULT, 1, "the object") == bag
    for r in recipients:
        private = pairs[r.name][0]
        assert bag.open(r.digest, private, A, "the object") == bytes(32)
        for other, header in ((replace(bag, vault=C[:32]), A), (replace(bag, attempt=2), A), (bag, B)):
            with pytest.raises(Forged, match=r"^the object: "):
                other.open(r.digest, private, header, "the object")
        with pytest.raises(KeyError):
            bag.open(C, private, A, "the object")


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_vault_key_has_32_bytes(length: int) -> None:
    """A keybag that seals something else than 32 bytes is refused."""
    suite = SUITES["x25519"]
    private, public = suite.generate()
    bag = Keybag.seal(bytes(length), [Recipient("r", suite, public)], VAULT, 1, A)
    with pytest.raises(Forged, match=f"a vault key of {length} bytes"):
        bag.open(bag.entries[0].recipient, private, A, "the object")


def test_the_info_of_a_keybag_is_the_text_of_the_spec() -> None:
    """The HPKE info is byte for byte what section 7 writes."""
    assert keybag.info("xwing", VAULT, 3, A, B) == f"dumpvault-keybag@v1\nxwing\n{VAULT}\n3\n{A}\n{B}\n".encode()
    assert keybag.info("p384", VAULT, 3, A, B, "shares") == f"dumpvault-share@v1\np384\n{VAULT}\n3\n{A}\n{B}\n".encode()


def test_a_share_opens_for_its_custodian_only() -> None:
    """Each custodian gets a share that the commitments confirm, any two of them VK; a share is never taken for VK."""
    pairs = {name: SUITES[name].generate() for name in ("x25519", "p384", "xwing")}
    custodians = [Recipient(name, SUITES[name], public) for name, (_, public) in pairs.items()]
    bag, signed = Keybag.seal_shares(bytes(32), custodians, 2, VAULT, 1, A)
    assert Keybag.read(bag.encode(), VAULT, 1, "the object") == bag
    parts: list[dict[int, bytes]] = []
    for i, entry in enumerate(bag.entries):
        private = pairs[entry.suite][0]
        share = bag.open_entry(entry.recipient, private, A, "the object")
        parts.append(keybag.check_share(share, signed, i, 2, 3, VAULT, 1))
        for other, header in ((replace(bag, mode="direct"), A), (replace(bag, attempt=2), A), (bag, B)):
            with pytest.raises(Forged, match=r"^the object: "):
                other.open_entry(entry.recipient, private, header, "the object")
        with pytest.raises(Forged, match="a vault key of 64 bytes"):
            bag.open(entry.recipient, private, A, "the object")
    for i in range(3):
        assert combine(parts[i] | parts[i - 1], 2, 3) == bytes(32)
        with pytest.raises(ValueError, match="missing"):
            combine(parts[i], 2, 3)


def test_the_largest_keybags_fit() -> None:
    """128 custodians with the longest messages stay below a keybag's limit (spec, section 15)."""
    suite = SUITES["mlkem1024-p384"]
    public = suite.generate()[1]
    sealed = suite.seal(public, bytes(32 * 127), b"")
    bag = Keybag(VAULT, 1, tuple(Entry(f"{i:064x}", suite.name, sealed) for i in range(128)), "shares")
    assert Keybag.read(bag.encode(), VAULT, 1, "the object") == bag
