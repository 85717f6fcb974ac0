"""From private keys to data keys: keybag, or shares, to VK to KEK to DEK (spec, sections 4.2, 7.1 and 14)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dumpvault.errors import Forged, NoKey
from dumpvault.formats.header import Header
from dumpvault.formats.kem import recipient_digest
from dumpvault.formats.keybag import Keybag, check_share, derive_kek, unwrap
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.formats.sharing import Commitments, combine
from dumpvault.model import keybag_path

__all__ = ["choose_key", "combine_shares", "custodian_name", "unlock_attempt", "unlock_share", "unwrap_key"]


def choose_key(header: Header, held: Sequence[PrivateKey | LockedKey]) -> PrivateKey | LockedKey:
    """The first of ``held`` that is a recipient of the vault. Raises ``NoKey`` naming who could open it."""
    digests = {r.digest for r in header.recipients}
    for key in held:
        if key.purpose == "recipient" and recipient_digest(key.public) in digests:
            return key
    who = ", ".join(f"{r.name} ({r.suite})" for r in header.recipients)
    shared = header.quorum is not None
    have = ", ".join(key.name for key in held if key.purpose == "recipient") or "none"
    raise NoKey(
        f"vault {header.vault}: none of the private keys at hand {'holds a share of' if shared else 'opens'} it; "
        f"its {'custodians' if shared else 'recipients'} are {who}",
        f"Recipient keys held: {have}. Name another with --key, or ask {'the custodians' if shared else 'a recipient'}.",
    )


def unlock_attempt(bag: Keybag, key: PrivateKey, header_digest: str) -> bytes:
    """KEK of the keybag's attempt. Raises ``NoKey`` or ``Forged``."""
    name = keybag_path(bag.attempt)
    try:
        vk = bag.open(recipient_digest(key.public), key.secret, header_digest, name)
    except KeyError:
        raise NoKey(f"{name}: not sealed to {key.name}", "Name another key with --key.") from None
    return derive_kek(vk, bag.vault, bag.attempt)


def custodian_name(header: Header, digest: str) -> str | None:
    """The name that the header gives the custodian of ``digest``, if it is one."""
    return next((r.name for r in header.recipients if r.digest == digest), None)


def unlock_share(bag: Keybag, key: PrivateKey, header: Header, header_digest: str, commitments: Commitments) -> bytes:
    """The share that is sealed to ``key``, checked against what the takeover committed to. Raises ``NoKey`` or ``Forged``."""
    name, me = keybag_path(bag.attempt), recipient_digest(key.public)
    try:
        share = bag.open_entry(me, key.secret, header_digest, name)
    except KeyError:
        raise NoKey(f"{name}: {key.name} is no custodian", "Name another key with --key.") from None
    _components(bag, me, share, header, commitments, name)
    return share


def combine_shares(
    bag: Keybag, shares: Mapping[str, tuple[str, bytes]], header: Header, commitments: Commitments
) -> bytes:
    """KEK of the keybag's attempt from the shares of a quorum: by recipient digest, where each came from and its bytes.

    Raises ``Forged`` naming the custodian whose share is not the one that was committed to.
    """
    name = keybag_path(bag.attempt)
    components: dict[int, bytes] = {}
    for custodian, (where, share) in shares.items():
        components |= _components(bag, custodian, share, header, commitments, where)
    assert header.quorum is not None
    vk = combine(components, header.quorum, len(bag.entries))
    if not commitments.holds_vault_key(vk, bag.vault, bag.attempt):
        raise Forged(
            f"{name}: its shares do not make the vault key that attempt {bag.attempt} committed to",
            "Every share is as it was signed, so the collector made them wrongly. It cannot be opened.",
        )
    return derive_kek(vk, bag.vault, bag.attempt)


def _components(
    bag: Keybag, custodian: str, share: bytes, header: Header, commitments: Commitments, name: str
) -> dict[int, bytes]:
    index = [entry.recipient for entry in bag.entries].index(custodian)
    assert header.quorum is not None
    try:
        return check_share(share, commitments, index, header.quorum, len(bag.entries), bag.vault, bag.attempt)
    except ValueError as error:
        raise Forged(
            f"{name}: the share of custodian {custodian_name(header, custodian)} is wrong: {error}",
            "Nothing was opened. Ask another custodian, and find out what happened to this share.",
        ) from None


def unwrap_key(kek: bytes, wrapped: bytes, name: str) -> bytes:
    """The data key of one region; ``name`` is the key object's. Raises ``Forged``."""
    dek = unwrap(kek, wrapped, name)
    if len(dek) != 32:
        raise Forged(f"{name}: a data key of {len(dek)} bytes", "No dumpvault writes this.")
    return dek
