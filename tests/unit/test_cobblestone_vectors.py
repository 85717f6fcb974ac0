"""Published vectors of C2SP chunked-encryption on both paths that open a region: in sequence, and by range."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import InvalidTag

from dumpvault.errors import Forged
from dumpvault.formats.sealed import Blocks, Message
from dumpvault.model import BLOCK, CHUNK
from kit import reader, wycheproof

pytestmark = pytest.mark.shared

FILE = "c2sp_chunked_encryption_aes_256_gcm_test.json"
# Vectors 23 and 24 are messages under keys of 31 and 33 bytes, which the format does not have.
KEY_SIZE = "InvalidKeySize"
EMPTY_FINAL = 14


def vectors(shared: Path) -> list[tuple[dict[str, Any], bytes, bytes, bytes]]:
    found = [
        (t, bytes.fromhex(t["key"]), zlib.decompress(bytes.fromhex(t["ct"])), bytes.fromhex(t["ctx"]))
        for _, t in wycheproof(shared, FILE)
    ]
    assert len(found) == 35
    return found


def in_sequence(key: bytes, message: bytes, context: bytes, step: int) -> bytes:
    decryptor = Cobblestone256Decryptor(key, context)
    out = b"".join(decryptor.update(message[i : i + step]) for i in range(0, len(message), step))
    return out + decryptor.finalize()


def by_range(key: bytes, message: bytes, context: bytes) -> Message:
    digests = b"".join(hashlib.sha256(message[i : i + BLOCK]).digest() for i in range(0, len(message), BLOCK))
    return Message(key, context, Blocks(reader(message), digests, len(message), "object"))


def is_message(test: dict[str, Any], plaintext: bytes) -> bool:
    return len(plaintext) == test["msgLength"] and hashlib.sha512(plaintext).hexdigest() == test["msgSha512"]


def test_valid_messages_open_in_sequence_and_by_range(shared: Path) -> None:
    """Every valid vector gives its message on both paths, by range at every chunk boundary and one beside it."""
    seen = 0
    for test, key, message, context in vectors(shared):
        if test["result"] != "valid":
            continue
        seen += 1
        plaintext = in_sequence(key, message, context, 1 << 20)
        assert is_message(test, plaintext), test["comment"]
        ranged = by_range(key, message, context)
        assert ranged.length == test["msgLength"]
        assert is_message(test, ranged.read(0, ranged.length)), test["comment"]
        for boundary in range(0, ranged.length + 1, CHUNK):
            for start in (boundary - 1, boundary, boundary + 1):
                if 0 <= start <= ranged.length:
                    assert ranged.read(start, 2) == plaintext[start : start + 2]
    assert seen == 10


def test_invalid_messages_are_refused_in_sequence(shared: Path) -> None:
    """Every invalid vector is refused by the sequential path, and what came out before is the valid prefix at most."""
    for test, key, message, context in vectors(shared):
        if test["result"] == "valid":
            continue
        if KEY_SIZE in test["flags"]:
            with pytest.raises(ValueError, match="key"):
                Cobblestone256Decryptor(key, context)
            continue
        decryptor, out = Cobblestone256Decryptor(key, context), b""
        with pytest.raises(InvalidTag):
            for i in range(0, len(message), 16400):
                out += decryptor.update(message[i : i + 16400])
            out += decryptor.finalize()
        if "PartialPlaintext" in test["flags"]:
            assert len(out) <= test["msgLength"]
            assert len(out) < test["msgLength"] or is_message(test, out)
        else:
            assert out == b"", test["comment"]


def test_invalid_messages_are_refused_by_range(shared: Path) -> None:
    """Every invalid vector is refused by range at the latest when all of it is read; its valid prefix may open."""
    seen = 0
    for test, key, message, context in vectors(shared):
        if test["result"] == "valid" or KEY_SIZE in test["flags"]:
            continue
        seen += 1
        flags = test["flags"]
        try:
            ranged = by_range(key, message, context)
        except Forged:
            # By length or commitment. A valid final chunk means that both were right.
            assert "ValidFinalChunk" not in flags, test["comment"]
            continue
        assert "HeaderFailure" not in flags, test["comment"]
        if ranged.length % CHUNK == 0 and test["tcId"] == EMPTY_FINAL:
            continue  # test_an_empty_final_chunk_is_authenticated
        with pytest.raises(Forged, match=r"object: the chunk at byte .* fails authentication"):
            ranged.read(0, ranged.length)
        final = ranged.length // CHUNK * CHUNK
        if "ValidFinalChunk" in flags:
            assert len(ranged.read(final, CHUNK)) == ranged.length - final
        elif final < ranged.length:
            with pytest.raises(Forged):
                ranged.read(final, CHUNK)
        if "PartialPlaintext" in flags:
            assert is_message(test, ranged.read(0, test["msgLength"])), test["comment"]
        else:
            with pytest.raises(Forged):
                ranged.read(0, 1)
    assert seen == 23


def test_an_empty_final_chunk_is_authenticated(shared: Path) -> None:
    """Vector 14, a whole chunk and then an empty final one with a changed tag: reading everything by range fails."""
    ((_, key, message, context),) = [v for v in vectors(shared) if v[0]["tcId"] == EMPTY_FINAL]
    with pytest.raises(Forged):
        ranged = by_range(key, message, context)
        ranged.read(0, ranged.length)


def test_keys_of_another_length_are_refused_by_range(shared: Path) -> None:
    """Messages under keys of 31 and 33 bytes are refused by the ranged path as by the sequential one."""
    seen = 0
    for test, key, message, context in vectors(shared):
        if KEY_SIZE in test["flags"]:
            seen += 1
            with pytest.raises(Forged):
                by_range(key, message, context)
    assert seen == 2
