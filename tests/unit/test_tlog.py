"""Notes, checkpoints and tiles: C2SP's own words, Go's published example, and trees held against RFC 6962's recursion."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.errors import Forged
from dumpvault.formats import merkle, tiles
from dumpvault.formats.checkpoint import Checkpoint
from dumpvault.formats.note import Note, cosign, key_id
from dumpvault.formats.sshkey import Signer
from kit import KEY, OTHER

# golang.org/x/mod/sumdb/note: the example of its documentation.
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
NAME, ID, KEY64 = "PeterNeumann", "c74f20a3", "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SIGNED = (
    f"{TEXT}\n— {NAME} x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
PETER = Signer(base64.b64decode(KEY64)[1:])


def test_gos_example() -> None:
    note = Note.parse(SIGNED.encode(), "note")
    assert key_id(NAME, 1, PETER.public).hex() == ID
    assert note.text == TEXT
    assert note.signed_by(NAME, PETER, "note")
    assert not note.signed_by("another", PETER, "note")
    assert not note.signed_by(NAME, KEY.signer, "note")
    assert note.encode() == SIGNED.encode()


@pytest.mark.parametrize(
    "wrong",
    ["", "text\n", "text\n\n", "\n\n— a AAAAAAA=\n", "t\n\n- a AAAAAAA=\n", "t\n\n— a AAAA\n", "t\n\n— a b AAAAAAA=\n",
     "t\r\n\n— a AAAAAAA=\n", "t\n\n— a AAAAAAA=", "t\n\n— a+b AAAAAAA=\n", "t\n\n— a AAAAAAB=\n",
     "t\n\n" + "— a AAAAAAA=\n" * 17,
     "t" * 17000 + "\n\n— a AAAAAAA=\n"],
)  # fmt: skip
def test_what_is_no_note(wrong: str) -> None:
    with pytest.raises(Forged):
        Note.parse(wrong.encode(), "note")


def test_a_changed_note_is_refused() -> None:
    with pytest.raises(Forged, match="does not verify"):
        Note.parse(SIGNED.replace("answer", "answen").encode(), "note").signed_by(NAME, PETER, "note")


ORIGIN = "dumpvault-ledger/" + "0" * 32


def test_checkpoints() -> None:
    made = Checkpoint(ORIGIN, 7, hashlib.sha256(b"root").digest())
    data = made.sign(KEY)
    assert Checkpoint.verified(data, ORIGIN, [OTHER.signer, KEY.signer], "c")[0] == made
    for logs, origin in (([OTHER.signer], ORIGIN), ([KEY.signer], "another")):
        with pytest.raises(Forged, match="no trusted log"):
            Checkpoint.verified(data, origin, logs, "c")
    for text in (f"{ORIGIN}\n07\n{'A' * 43}=\n", f"{ORIGIN}\n7\nAAAA\n", f"{ORIGIN}\n7\n", f"{ORIGIN}\n7\n{'A' * 43}=\nmore\n",
                 f"{ORIGIN}\n-7\n{'A' * 43}=\n", f"a b\n7\n{'A' * 43}=\n"):  # fmt: skip
        with pytest.raises(Forged):
            Checkpoint.read(Note(text, ()), "c")


def test_cosignatures() -> None:
    """A witness's line says when; it is not the log's, and a changed time does not verify."""
    made = Checkpoint(ORIGIN, 7, bytes(32))
    line = cosign(made.text, "witness.example", OTHER, 1679315147)
    note = Note(made.text, (*Note.parse(made.sign(KEY), "c").lines, line))
    again = Note.parse(note.encode(), "c")
    assert again.cosigned_by("witness.example", OTHER.signer, "c") == 1679315147
    assert again.cosigned_by("witness.example", KEY.signer, "c") is None
    assert not again.signed_by("witness.example", OTHER.signer, "c")
    late = type(line)(line.name, line.id, (1679315148).to_bytes(8) + line.signature[8:])
    with pytest.raises(Forged):
        Note(made.text, (late,)).cosigned_by("witness.example", OTHER.signer, "c")


def test_paths_of_the_document() -> None:
    assert tiles.path(1234067) == "x001/x234/067"
    assert [tiles.path(n) for n in (0, 999, 1000)] == ["000", "999", "x001/000"]
    assert tiles.widths(70000) == [112, 17, 1]
    assert tiles.widths(256) == [0, 1]
    assert tiles.tile_path(0, 273, 112) == "tile/0/273.p/112"


def leaf(i: int) -> bytes:
    return merkle.leaf_hash(b"%d" % i)


def slow_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it is written."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else hashlib.sha256().digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + slow_root(leaves[:k]) + slow_root(leaves[k:])).digest()


def test_an_edge_grows_into_the_tree() -> None:
    """Over two levels of tiles: roots at many sizes, the edge read back from its tiles, proofs over stored tiles."""
    store: dict[str, bytes] = {}
    edge, leaves = tiles.Edge(), [leaf(i) for i in range(700)]
    get = lambda level, number, width: store[tiles.tile_path(level, number, width)]  # noqa: E731
    for i, one in enumerate(leaves):
        store |= dict(edge.add(one))
        store |= dict(edge.partial())
        size = i + 1
        if size in (1, 2, 3, 7, 8, 255, 256, 257, 300, 511, 512, 513, 700):
            assert edge.root == slow_root(leaves[:size])
            assert tiles.Edge.read(size, get) == edge
            nodes = tiles.nodes_over(get, size)
            assert merkle.root(nodes, size) == edge.root
            for index in {0, size // 2, size - 1}:
                proof = merkle.prove_inclusion(nodes, index, size)
                assert merkle.included(leaves[index], index, size, proof, edge.root)
            for old in {1, size // 2 or 1, size}:
                proof = merkle.prove_consistency(nodes, old, size)
                assert merkle.consistent(old, slow_root(leaves[:old]), size, edge.root, proof)
    assert {name for name in store if ".p" not in name} == {"tile/0/000", "tile/0/001"}
    store["tile/0/002.p/188"] = store["tile/0/002.p/188"][:-1]
    with pytest.raises(ValueError, match="level 0"):
        tiles.Edge.read(700, get)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_bundles(entries: list[bytes]) -> None:
    data = tiles.bundle(entries)
    assert tiles.entries_of(data) == entries
    if entries:
        with pytest.raises(ValueError, match="cut off"):
            tiles.entries_of(data[:-1])
