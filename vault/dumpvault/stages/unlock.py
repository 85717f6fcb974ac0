"""From a private key to data keys: keybag to VK to KEK to DEK (spec, sections 4.2 and 14)."""

from __future__ import annotations

from collections.abc import Sequence

from dumpvault.errors import Forged, NoKey
from dumpvault.formats.header import Header
from dumpvault.formats.kem import recipient_digest
from dumpvault.formats.keybag import Keybag, derive_kek, unwrap
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.model import keybag_path

__all__ = ["choose_key", "unlock_attempt", "unwrap_key"]


def choose_key(header: Header, held: Sequence[PrivateKey | LockedKey]) -> PrivateKey | LockedKey:
    """The first of ``held`` that is a recipient of the vault. Raises ``NoKey`` naming who could open it."""
    digests = {r.digest for r in header.recipients}
    for key in held:
        if key.purpose == "recipient" and recipient_digest(key.public) in digests:
            return key
    who = ", ".join(f"{r.name} ({r.suite})" for r in header.recipients)
    have = ", ".join(key.name for key in held if key.purpose == "recipient") or "none"
    raise NoKey(
        f"vault {header.vault}: none of the private keys at hand opens it; its recipients are {who}",
        f"Recipient keys held: {have}. Name another with --key, or ask a recipient.",
    )


def unlock_attempt(bag: Keybag, key: PrivateKey, header_digest: str) -> bytes:
    """KEK of the keybag's attempt. Raises ``NoKey`` or ``Forged``."""
    name = keybag_path(bag.attempt)
    try:
        vk = bag.open(recipient_digest(key.public), key.secret, header_digest, name)
    except KeyError:
        raise NoKey(f"{name}: not sealed to {key.name}", "Name another key with --key.") from None
    return derive_kek(vk, bag.vault, bag.attempt)


def unwrap_key(kek: bytes, wrapped: bytes, name: str) -> bytes:
    """The data key of one region; ``name`` is the key object's. Raises ``Forged``."""
    dek = unwrap(kek, wrapped, name)
    if len(dek) != 32:
        raise Forged(f"{name}: a data key of {len(dek)} bytes", "No dumpvault writes this.")
    return dek
