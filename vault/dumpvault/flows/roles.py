"""Which signer of a home may sign a statement: what people sign with, as against a collector in a crash kernel."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from dumpvault.errors import NoKey
from dumpvault.flows.site import Site
from dumpvault.formats.allowed_signers import ROLES, AllowedSigners, namespace
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.formats.sshkey import Signer, SigningKey

__all__ = ["signer_with_role"]


def signer_with_role(
    site: Site,
    trust: AllowedSigners,
    statement: str,
    host: str,
    wanted: str | None,
    unlock: Callable[[LockedKey], PrivateKey],
) -> SigningKey:
    """The signer ``wanted``, or the home's only one that may sign ``statement`` about ``host`` now. Raises ``NoKey``."""
    role, now = namespace(statement), datetime.now(UTC)
    title = next(name for name, spaces in ROLES.items() if role in spaces)

    def objections(key: PrivateKey | LockedKey) -> list[str]:
        entries = trust.by_keyid(Signer(key.public).keyid)
        return [entry.objection(role, host, now) for entry in entries] or [f"is not in {trust.name}"]

    if wanted:
        key = site.trust.private_key(wanted)
        if key.purpose != "signer":
            raise NoKey(f"{wanted} is a recipient key, not a signer", "Name a signer with --signer.")
        if all(found := objections(key)):
            raise NoKey(
                f"signer {wanted} {found[0]}", f"'dumpvault keys new signer NAME --role {title}' makes one that may."
            )
    else:
        able = [k for k in site.trust.private_keys() if k.purpose == "signer" and not all(objections(k))]
        if len(able) != 1:
            names = ", ".join(k.name for k in able) or "none"
            raise NoKey(
                f"no signer was named, and of this home's {names} may sign {role}",
                f"Name one with --signer; 'dumpvault keys new signer NAME --role {title}' makes one.",
            )
        key = able[0]
    return SigningKey((unlock(key) if isinstance(key, LockedKey) else key).secret)
