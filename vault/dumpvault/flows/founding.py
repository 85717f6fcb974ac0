"""What ``init`` adds to a home beside its directories: the ledger of its store with the log's key, and the actor's key."""

from __future__ import annotations

import getpass
import os
import re
import socket

from dumpvault.errors import Forged
from dumpvault.flows.custody import new_origin, remembers
from dumpvault.flows.keys import new_signer
from dumpvault.flows.site import Site
from dumpvault.formats.allowed_signers import namespace
from dumpvault.formats.sshkey import Signer
from dumpvault.stages.ledger import Ledger

__all__ = ["found_ledger", "make_actor"]


def found_ledger(site: Site) -> list[str]:
    """Begin the ledger of the site's own store, with a key of its own for the checkpoints; a store that has one keeps it.

    Returns what was made. Raises ``VaultError``.
    """
    store = site.store()
    if Ledger.of(store, ()) is not None:
        return []
    if gone := remembers(site).of_store(store.url):
        raise Forged(
            f"ledger {gone[0].origin}: this home has seen it in {store.url}, and it is gone",
            "No other is begun in its place. Find out who changed the store.",
        )
    origin = new_origin()
    # The key first: a ledger whose log's key never was could not be kept by anybody.
    key = new_signer(site, f"log@{origin}", "log", None)
    ledger = Ledger.create(store, origin, ())
    remembers(site).keep(ledger.origin, store.url, None, ledger.check_consistent)
    return [f"key {key.name}", os.path.join(store.url, "ledger")]


def make_actor(site: Site, name: str | None) -> list[str]:
    """The key that signs this home's entries, unless it has one: ``name``, or else made of user and host.

    It is not locked: every command that opens a vault signs with it. Raises ``VaultError``.
    """
    role = namespace("entry-analyst")
    path = site.trust.allowed_signers_path
    trust = site.trust.allowed_signers() if os.path.exists(path) else None
    for key in site.trust.private_keys():
        if key.purpose == "signer" and trust:
            keyid = Signer(key.public, key.algorithm).keyid
            if any(role in line.namespaces for line in trust.by_keyid(keyid)):
                return []
    made = new_signer(site, name or _own_name(), "actor", None)
    return [f"key {made.name}"]


def _own_name() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid{os.getuid()}"
    return re.sub("[^A-Za-z0-9_-]", "-", f"{user}.{socket.gethostname()}".replace(".", "_"))[:64].lstrip("-") or "actor"
