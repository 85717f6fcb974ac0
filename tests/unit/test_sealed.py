"""Ranged opening of a Cobblestone-256 message through its block list (spec, section 9)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pytest
from cryptography.cobblestone import Cobblestone256Encryptor
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.errors import Forged
from dumpvault.formats import sealed
from dumpvault.formats.sealed import HEAD, Blocks, Message
from dumpvault.model import BLOCK, CHUNK, RegionRecord, block_count
from kit import VAULT, reader

DEK = bytes(range(32))
CONTEXT = sealed.context(VAULT, 1, 7, "memory", 0x10000, "raw")


def digests_of(message: bytes) -> bytes:
    return b"".join(hashlib.sha256(message[i : i + BLOCK]).digest() for i in range(0, len(message), BLOCK))


def blocks_of(message: bytes) -> Blocks:
    return Blocks(reader(message), digests_of(message), len(message), "object")


def seal(plaintext: bytes, dek: bytes = DEK, context: bytes = CONTEXT) -> bytes:
    encryptor = Cobblestone256Encryptor(dek, context)
    return encryptor.update(plaintext) + encryptor.finalize()


def pattern(length: int) -> bytes:
    return (hashlib.sha512(b"pattern").digest() * (length // 64 + 1))[:length]


EDGES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 16 * CHUNK - 1, 16 * CHUNK, 17 * CHUNK + 5]


@pytest.mark.parametrize("length", EDGES)
def test_lengths_follow_from_the_plaintext(length: int) -> None:
    """Message length, plaintext length and offsets are as section 9 gives them, at every chunk boundary."""
    message = seal(pattern(length))
    assert len(message) == sealed.message_bytes(length)
    assert Message(DEK, CONTEXT, blocks_of(message)).length == length


@pytest.mark.parametrize("length", EDGES)
def test_ranged_reads_agree_at_every_chunk_boundary(length: int) -> None:
    """Reads that begin and end just before, at and after each chunk boundary give the plaintext's bytes."""
    plaintext = pattern(length)
    message = Message(DEK, CONTEXT, blocks_of(seal(plaintext)))
    marks = {0, length} | {k * CHUNK + d for k in (0, 1, 2, 16, 17) for d in (-1, 0, 1)}
    for start in sorted(m for m in marks if 0 <= m <= length):
        for size in (0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, length - start):
            assert message.read(start, size) == plaintext[start : start + size]
    assert message.read(0, length + 1) == plaintext
    assert message.read(length, 1) == b""


PLAIN = pattern(40 * CHUNK + 77)
SEALED = seal(PLAIN)


@given(st.integers(0, len(PLAIN) + 10), st.integers(-1, len(PLAIN)))
def test_any_range_is_the_plaintexts(start: int, length: int) -> None:
    """Any range is what slicing the plaintext gives, and a range past the end is empty."""
    message = Message(DEK, CONTEXT, blocks_of(SEALED))
    assert message.read(start, length) == PLAIN[start : start + max(0, length)]


@pytest.mark.parametrize("change", [
    {"vault": VAULT[::-1]}, {"attempt": 2}, {"index": 8}, {"kind": "notes"}, {"offset": 0x11000}, {"codec": "zstd"},
    {"attempt": 17, "index": 7}, {"attempt": 1, "index": 77},
], ids=str)  # fmt: skip
def test_each_field_of_the_context_changes_the_commitment(change: dict[str, object]) -> None:
    """A message is refused under a context that differs in any one argument, by head alone and by ranged opening."""
    right = {"vault": VAULT, "attempt": 1, "index": 7, "kind": "memory", "offset": 0x10000, "codec": "raw"}
    wrong = sealed.context(**{**right, **change})  # type: ignore[arg-type]
    assert sealed.opens(DEK, sealed.context(**right), SEALED[:HEAD])  # type: ignore[arg-type]
    assert not sealed.opens(DEK, wrong, SEALED[:HEAD])
    with pytest.raises(Forged, match="object: the data key is not the one"):
        Message(DEK, wrong, blocks_of(SEALED))


def test_context_is_the_text_of_the_spec() -> None:
    """The context is byte for byte what section 9 writes."""
    expected = f"dumpvault-region@v1\n{VAULT}\n1\n7\nmemory\n0x10000\nraw\n".encode()
    assert expected == CONTEXT


def test_another_key_is_refused_by_the_commitment() -> None:
    """A wrong key fails at the head, before any chunk; so does a head or key of another length."""
    assert not sealed.opens(DEK[::-1], CONTEXT, SEALED[:HEAD])
    assert not sealed.opens(DEK, CONTEXT, SEALED[: HEAD - 1])
    assert not sealed.opens(DEK, CONTEXT, SEALED[: HEAD + 1])
    assert not sealed.opens(DEK[:31], CONTEXT, SEALED[:HEAD])
    with pytest.raises(Forged, match="data key"):
        Message(DEK[::-1], CONTEXT, blocks_of(SEALED))


@pytest.mark.parametrize("at", range(HEAD))
def test_every_byte_of_the_head_counts(at: int) -> None:
    """One changed byte of salt or commitment is refused, even if the block list vouches for it."""
    changed = bytearray(SEALED)
    changed[at] ^= 1
    with pytest.raises(Forged, match="data key"):
        Message(DEK, CONTEXT, blocks_of(bytes(changed)))


@pytest.mark.parametrize("length", [0, 1, HEAD - 1, HEAD, HEAD + 15, HEAD + 16400, HEAD + 16400 + 15])
def test_lengths_that_no_message_has_are_refused(length: int) -> None:
    """Shorter than a head, or without room for a final chunk's tag: refused before anything is derived."""
    with pytest.raises(Forged, match=f"object: {length} bytes are no whole message"):
        Message(DEK, CONTEXT, blocks_of(SEALED[:length]))


def test_a_changed_chunk_is_refused_where_it_stands() -> None:
    """With a block list made over the change, the chunk's own tag refuses it and other chunks still open."""
    at = HEAD + 3 * 16400 + 100
    changed = bytearray(SEALED)
    changed[at] ^= 0x80
    message = Message(DEK, CONTEXT, blocks_of(bytes(changed)))
    assert message.read(0, 3 * CHUNK) == PLAIN[: 3 * CHUNK]
    assert message.read(4 * CHUNK, 10) == PLAIN[4 * CHUNK : 4 * CHUNK + 10]
    with pytest.raises(Forged, match=f"object: the chunk at byte {HEAD + 3 * 16400:#x} fails"):
        message.read(3 * CHUNK, 1)


def reencrypt(message: bytes, k: int, plaintext: bytes) -> bytes:
    """What a holder of the data key can do: chunk ``k`` made anew under the same key, nonce and commitment."""
    key, nonce, _ = sealed._derive(DEK, CONTEXT, message[:24])
    chunk = AESGCM(key).encrypt((int.from_bytes(nonce) ^ k).to_bytes(12), plaintext, None)
    at = HEAD + k * 16400
    return message[:at] + chunk + message[at + len(chunk) :]


def test_a_chunk_made_anew_under_the_known_key_is_caught_by_the_block_list() -> None:
    """The cipher alone accepts such a chunk, as section 14 says; the signed block list does not."""
    lie = reencrypt(SEALED, 20, b"\xee" * CHUNK)
    assert len(lie) == len(SEALED)
    assert Message(DEK, CONTEXT, blocks_of(lie)).read(20 * CHUNK, CHUNK) == b"\xee" * CHUNK
    honest_list = Blocks(reader(lie), digests_of(SEALED), len(SEALED), "object")
    message = Message(DEK, CONTEXT, honest_list)
    assert message.read(0, CHUNK) == PLAIN[:CHUNK]
    with pytest.raises(Forged, match=f"object: the block at byte {BLOCK:#x} is not the one"):
        message.read(20 * CHUNK, 1)


@dataclass
class Counting:
    data: bytes
    longest: int = 0

    def __call__(self, offset: int, length: int) -> bytes:
        self.longest = max(self.longest, length)
        return self.data[offset : offset + length]


def test_blocks_return_checked_bytes_of_any_range() -> None:
    """Reads through the block list are the message's bytes, and only the blocks they touch are fetched."""
    get = Counting(SEALED)
    blocks = Blocks(get, digests_of(SEALED), len(SEALED), "object")
    for offset, length in ((0, 1), (BLOCK - 1, 2), (BLOCK, BLOCK), (len(SEALED) - 1, 1), (0, len(SEALED)), (5, 0)):
        assert blocks.read(offset, length) == SEALED[offset : offset + length]
    get.longest = 0
    blocks.read(BLOCK, 1)
    assert get.longest == BLOCK


@pytest.mark.parametrize("cut", [1, 100, len(SEALED) - 2 * BLOCK, len(SEALED) - 2 * BLOCK + 1])
def test_a_message_cut_off_is_refused(cut: int) -> None:
    """An object shorter than its record says is refused where it ends, or where its last block differs."""
    blocks = Blocks(reader(SEALED[:-cut]), digests_of(SEALED), len(SEALED), "object")
    with pytest.raises(Forged, match=f"object: cut off at byte {len(SEALED) - cut:#x}"):
        blocks.read(0, len(SEALED))


def test_a_block_list_cut_off_or_stretched_is_refused() -> None:
    """A list that lacks a digest, or a message longer than its list, is refused."""
    short = Blocks(reader(SEALED), digests_of(SEALED)[:-32], len(SEALED), "object")
    with pytest.raises(Forged, match="object: the block at byte"):
        short.read(0, len(SEALED))
    longer = Blocks(reader(SEALED + bytes(BLOCK)), digests_of(SEALED), len(SEALED) + BLOCK, "object")
    with pytest.raises(Forged, match="object: the block at byte"):
        longer.read(2 * BLOCK, 1)


def test_the_list_is_held_to_the_commits_digest() -> None:
    """A block list with a changed, missing, added or swapped digest is not the signed one."""
    good = digests_of(SEALED)
    assert block_count(len(SEALED)) == len(good) // 32 == 3
    record = RegionRecord(
        7, 0x10000, len(PLAIN), "memory", "raw", len(SEALED), hashlib.sha256(good).hexdigest(), "0" * 64
    )
    assert Blocks.signed(reader(SEALED + good), record, "object").read(0, len(SEALED)) == SEALED
    for lie in (good[:-1], good[:-32], good + bytes(32), good[32:64] + good[:32] + good[64:], b"", b"\0" + good[1:]):
        with pytest.raises(Forged, match="object: the list of block digests"):
            Blocks.signed(reader(SEALED + lie), record, "object")


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_any_changed_byte_is_caught_by_its_block(at: int, change: int) -> None:
    """Whatever byte of a message changes, reading it through the signed list is refused, and other blocks are not."""
    changed = bytearray(SEALED)
    changed[at] ^= change
    blocks = Blocks(reader(bytes(changed)), digests_of(SEALED), len(SEALED), "object")
    with pytest.raises(Forged, match=f"the block at byte {at // BLOCK * BLOCK:#x} "):
        blocks.read(at, 1)
    other = 0 if at >= BLOCK else BLOCK
    assert blocks.read(other, 10) == SEALED[other : other + 10]
