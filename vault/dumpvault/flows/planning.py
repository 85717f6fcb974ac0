"""The facts of a capture that is about to begin, for its policy to judge before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

from dumpvault.flows.site import Site
from dumpvault.formats.policy import Policy
from dumpvault.formats.policy_facts import Party, Place, Planned, signature_kind
from dumpvault.formats.recipient import Recipient
from dumpvault.formats.sshkey import Signer
from dumpvault.stages.store.place import place_of

__all__ = ["KEYS", "STORES", "plan"]

#: The tables whose rules speak of keys, and those that speak of where a vault is kept and what is done with it.
KEYS = ("recipients", "quorum", "signatures")
STORES = ("store", "retrieval", "retention", "timestamps")


def plan(
    site: Site,
    policy: Policy,
    *,
    recipients: Sequence[Recipient] = (),
    quorum: int | None = None,
    signers: Sequence[Signer] = (),
    region_size: int | None = None,
    compress: str | None = None,
    release: str | None = None,
    store: str | None = None,
) -> Planned:
    """What a capture with these keys, overrides (None: the policy's own) and store would be.

    ``quorum`` is how many of ``recipients`` must agree under dual control, ``region_size`` is in bytes.
    """
    kinds = [signature_kind(signer) for signer in signers]
    return Planned(
        recipients=[Party(r.name, r.suite.name, r.digest) for r in recipients],
        # Reading all keys of a site costs time in a crash kernel.
        known=site.trust.known() if policy["recipients.groups"] or policy["quorum.custodians"] else {},
        signers=kinds,
        signed=[("the capture", kinds)],
        quorum=quorum,
        region_size=region_size or policy.region_size,
        compress=compress or policy.compress,
        release=release or policy.release,
        place=_place(policy, store or site.store_url),
    )


def _place(policy: Policy, url: str) -> Place:
    """Where a store is; its file system is looked up only if the policy asks."""
    if policy["store.mount_point"] or policy["store.filesystem"]:
        return place_of(url)
    scheme, separator, _ = url.partition("://")
    return Place(scheme if separator and scheme != "file" else "directory", None, None)
