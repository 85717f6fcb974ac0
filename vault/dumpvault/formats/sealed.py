"""A sealed region's bytes: context, block list, and ranged opening of its Cobblestone-256 message (spec, section 9).

Whole messages go through ``cryptography.cobblestone``; ranged opening joins HKDF-Expand and AES-GCM as C2SP's
chunked-encryption document says, because the library opens from the start only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from hmac import compare_digest
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from dumpvault.errors import Forged
from dumpvault.model import BLOCK, CHUNK, Codec, Kind, RegionRecord, block_count

__all__ = ["HEAD", "Blocks", "Message", "context", "message_bytes", "opens"]

HEAD = 56
_SALT = 24
_TAG = 16
_SEALED_CHUNK = CHUNK + _TAG
_LABEL = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00"


def context(vault: str, attempt: int, index: int, kind: Kind, offset: int, codec: Codec) -> bytes:
    """What a message is bound to: change any of it and the key commitment fails."""
    return f"dumpvault-region@v1\n{vault}\n{attempt}\n{index}\n{kind}\n{offset:#x}\n{codec}\n".encode()


def message_bytes(plaintext: int) -> int:
    """Bytes of the message that holds ``plaintext`` bytes."""
    return HEAD + plaintext + _TAG * (plaintext // CHUNK + 1)


def _derive(dek: bytes, context: bytes, salt: bytes) -> tuple[bytes, bytes, bytes]:
    """(key, base nonce, commitment) of C2SP chunked-encryption, "Key derivation"."""
    out = HKDFExpand(SHA512(), 76, _LABEL + salt + context).derive(dek)
    return out[:32], out[32:44], out[44:]


def opens(dek: bytes, context: bytes, head: bytes) -> bool:
    """Whether ``dek`` is the key that the first 56 bytes of a message commit to."""
    return len(dek) == 32 and len(head) == HEAD and compare_digest(_derive(dek, context, head[:_SALT])[2], head[_SALT:])


class Blocks:
    """A message read only through its signed block list.

    ``get(offset, length)`` reads the object; ``digests`` is the list, already checked against the commit; ``name`` is
    the object's. No byte is returned before its whole 256 KiB block has matched its digest.
    """

    def __init__(self, get: Callable[[int, int], bytes], digests: bytes, message: int, name: str) -> None:
        self._get = get
        self._digests = digests
        self.message = message
        self.name = name

    @classmethod
    def signed(cls, get: Callable[[int, int], bytes], record: RegionRecord, name: str) -> Self:
        """The blocks of the object that ``record`` speaks of. Raises ``Forged`` unless their list is the one it signed."""
        digests = get(record.message, 32 * block_count(record.message) + 1)  # an object that goes on is refused, too
        if hashlib.sha256(digests).hexdigest() != record.blocks:
            raise Forged(
                f"{name}: the list of block digests is not the one that was signed",
                "The object was changed, cut off or belongs elsewhere. Restore it from a copy.",
            )
        return cls(get, digests, record.message, name)

    def check(self, first: int, data: bytes | memoryview) -> None:
        """Raise ``Forged`` unless ``data``, which begins at block ``first``, is what was signed."""
        view = memoryview(data)
        for i in range(block_count(len(view))):
            at = 32 * (first + i)
            if hashlib.sha256(view[i * BLOCK : (i + 1) * BLOCK]).digest() != self._digests[at : at + 32]:
                raise Forged(
                    f"{self.name}: the block at byte {(first + i) * BLOCK:#x} is not the one that was signed",
                    "The object was changed or damaged after sealing. Restore it from a copy; other regions are unharmed.",
                )

    def blocks(self, first: int, count: int) -> bytes:
        """``count`` checked blocks from block ``first`` on (the last of a message is shorter)."""
        start = first * BLOCK
        length = min(count * BLOCK, self.message - start)
        data = self._get(start, length)
        if len(data) != length:
            raise Forged(f"{self.name}: cut off at byte {start + len(data):#x}", "Restore the object from a copy.")
        self.check(first, data)
        return data

    def head(self) -> bytes:
        """The message's salt and commitment. Not checked: under another salt the commitment fails, and so do all chunks."""
        return self._get(0, HEAD)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` checked bytes from ``offset`` of the message."""
        first = offset // BLOCK
        last = block_count(offset + length)
        data = self.blocks(first, last - first)
        return data[offset - first * BLOCK :][:length]


class Message:
    """A Cobblestone-256 message opened by range. Raises ``Forged`` if the key or any chunk is not right."""

    def __init__(self, dek: bytes, context: bytes, blocks: Blocks) -> None:
        self._blocks = blocks
        if len(dek) != 32:
            raise Forged(f"{blocks.name}: its data key has {len(dek)} bytes", "No dumpvault writes this.")
        # C2SP: the final chunk is always there and always shorter than a whole one.
        full, rest = divmod(blocks.message - HEAD, _SEALED_CHUNK)
        if blocks.message < HEAD or rest < _TAG:
            raise Forged(f"{blocks.name}: {blocks.message} bytes are no whole message", "Restore it from a copy.")
        self.length = full * CHUNK + rest - _TAG
        head = blocks.head()
        key, nonce, commitment = _derive(dek, context, head[:_SALT])
        if not compare_digest(commitment, head[_SALT:]):
            blocks.read(0, HEAD)  # if the head was changed, this says so
            raise Forged(
                f"{blocks.name}: the data key is not the one this region was sealed with",
                "The wrapped key or the region belongs to another vault, attempt or region.",
            )
        self._aead = AESGCM(key)
        self._nonce = int.from_bytes(nonce)

    def read(self, start: int, length: int) -> bytes:
        """``length`` bytes of plaintext from ``start``; less at the end."""
        length = max(0, min(length, self.length - start))
        if length == 0:
            return b""
        # Whoever reads up to the end is told that it is the end: by the final chunk, which may be empty.
        at_end = start + length == self.length
        first, last = start // CHUNK, self.length // CHUNK if at_end else (start + length - 1) // CHUNK
        begin = HEAD + first * _SEALED_CHUNK
        end = min(HEAD + (last + 1) * _SEALED_CHUNK, self._blocks.message)
        sealed = memoryview(self._blocks.read(begin, end - begin))
        out = b"".join(
            self._chunk(k, sealed[(k - first) * _SEALED_CHUNK : (k - first + 1) * _SEALED_CHUNK])
            for k in range(first, last + 1)
        )
        return out[start - first * CHUNK :][:length]

    def _chunk(self, k: int, sealed: memoryview) -> bytes:
        try:
            return self._aead.decrypt((self._nonce ^ k).to_bytes(12), sealed, None)
        except InvalidTag:
            raise Forged(
                f"{self._blocks.name}: the chunk at byte {HEAD + k * _SEALED_CHUNK:#x} fails authentication",
                "Restore the object from a copy.",
            ) from None
