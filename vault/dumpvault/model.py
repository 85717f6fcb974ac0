"""The words of docs/spec/vault.md as types: what every layer may name, and nothing that reads or writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = [
    "BLOCK",
    "CHUNK",
    "FORMAT",
    "FRAME_SIZE",
    "PAGE",
    "REGION_SIZE",
    "VAULT_ID",
    "Codec",
    "Kind",
    "Range",
    "Region",
    "RegionRecord",
    "Sink",
    "Store",
    "TokenHandle",
    "Upload",
    "block_count",
    "body_path",
    "commit_path",
    "event_path",
    "generation_path",
    "is_vault_id",
    "keybag_path",
    "keys_path",
    "vault_prefix",
]

FORMAT = 1
PAGE = 4096
CHUNK = 16384
BLOCK = 262144
FRAME_SIZE = 65536
REGION_SIZE = 64 << 20
#: What the id of a vault looks like.
VAULT_ID = r"[0-9a-f]{32}"

Kind = Literal["headers", "notes", "memory", "flattened", "opaque"]
Codec = Literal["raw", "zstd"]


@dataclass(frozen=True, slots=True)
class Range:
    """``length`` bytes from byte ``offset`` of the source."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Region:
    """A slice of the source that is sealed as one message (spec, section 9); offset and length in bytes."""

    index: int
    offset: int
    length: int
    kind: Kind

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class RegionRecord:
    """What a commit says of one durable region (spec, section 10).

    ``message`` is the length in bytes of the Cobblestone message; ``blocks`` and ``key`` are hexadecimal SHA-256
    digests of the block list and of the wrapped key.
    """

    index: int
    offset: int
    length: int
    kind: Kind
    codec: Codec
    message: int
    blocks: str
    key: str
    unreadable: tuple[Range, ...] = ()

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def object_bytes(self) -> int:
        """Bytes of the whole object: the message and its block list."""
        return self.message + 32 * block_count(self.message)


class Sink(Protocol):
    """Where opened bytes go. Offsets are the source's, in bytes; only authenticated bytes are handed on."""

    def write(self, offset: int, data: bytes | memoryview) -> None: ...

    def zeros(self, offset: int, length: int) -> None: ...


class Upload(Protocol):
    """An object being written; invisible under its name until ``finish`` returns, durable from then on."""

    def write(self, data: bytes | memoryview) -> None: ...

    def finish(self) -> None: ...

    def abort(self) -> None: ...


class Store(Protocol):
    """The contract of a store; ``dumpvault.stages.store.contract`` states it in full."""

    url: str
    volatile: str

    def create(self, name: str) -> Upload: ...

    def put(self, name: str, data: bytes) -> None: ...

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes: ...

    def size(self, name: str) -> int | None: ...

    def children(self, prefix: str) -> Iterator[str]: ...

    def list(self, prefix: str) -> Iterator[str]: ...

    def delete(self, name: str) -> None: ...

    def settle(self, name: str) -> None: ...

    def reserve(self, length: int) -> None: ...

    def unreserve(self) -> None: ...


def block_count(message: int) -> int:
    """Number of 256 KiB blocks in a message of ``message`` bytes."""
    return -(-message // BLOCK)


def is_vault_id(text: str) -> bool:
    return re.fullmatch(VAULT_ID, text) is not None


def vault_prefix(vault: str) -> str:
    return f"vaults/{vault}"


def keybag_path(attempt: int) -> str:
    return f"keybag/{attempt}.json"


def keys_path(attempt: int, commit: int) -> str:
    return f"keys/{attempt}/{commit}.json"


def body_path(attempt: int, index: int) -> str:
    return f"regions/{attempt}/{index}.sealed"


def commit_path(number: int) -> str:
    return f"commits/{number}.dsse.json"


def event_path(number: int) -> str:
    return f"events/{number}.dsse.json"


class TokenHandle(Protocol):
    """A private key that stays in a token, where a private key's bytes stand otherwise. Raises ``VaultError``."""

    @property
    def public(self) -> bytes:
        """The public key's bytes, as the spec's sections 4.1 and 4.3 write them."""
        ...

    def ecdh(self, point: bytes) -> bytes:
        """The x-coordinate of the private key times ``point`` (uncompressed, on the curve): RFC 9180's DH()."""
        ...

    def sign(self, data: bytes) -> bytes:
        """A signature over ``data``.

        RFC 8032's 64 bytes for Ed25519; for P-384, r ‖ s over SHA-384, 96 bytes, s in the lower half.
        """
        ...


def generation_path(name: str, event: int, sha256: str) -> str:
    """The name of what replaces the key object ``name`` from event number ``event`` on; ``sha256`` is its own digest."""
    return f"{name.removesuffix('.json')}.{event}-{sha256[:16]}.json"
