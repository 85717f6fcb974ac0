"""The one table of a policy's rules: what each may say, what it means, and what enforces it at capture and at opening.

Parsing, checking, messages and docs/reference/policies/rules.md all come from it. A rule cannot stand here without
saying for both sides either how it is checked, or in words why it cannot be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from dumpvault.formats import policy_checks as checks
from dumpvault.formats.kem import SUITES
from dumpvault.formats.rule_kinds import Choice, Flag, Groups, Kind, Names, Or, Some, Text, Whole, parse_compress

__all__ = ["CARRIED_OUT", "RULES", "SIGNATURES", "Rule", "rules_of"]

SIGNATURES = ("ed25519", "p384", "mldsa65", "mldsa87")

#: What is wrong, in words that follow the rule's name; empty if nothing is.
Check: TypeAlias = Callable[[checks.Demands, Any], str]


@dataclass(frozen=True, slots=True)
class Rule:
    """``capture`` and ``opening``: how it is checked, or why it is not. ``advice`` is what to do where it is broken.

    ``before`` is what a policy that is older than the rule is taken to say; None for the rules that all policies have.
    """

    name: str
    kind: Kind
    meaning: str
    capture: Check | str
    opening: Check | str
    advice: str = ""
    before: tuple[Any] | None = None

    @property
    def table(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def key(self) -> str:
        return self.name.rpartition(".")[2]


def _compresses(text: str) -> bool:
    try:
        parse_compress(text)
    except ValueError:
        return False
    return True


def _both(name: str, kind: Kind, meaning: str, check: Check, advice: str, before: tuple[Any] | None = None) -> Rule:
    """A rule that the same check enforces on both sides."""
    return Rule(name, kind, meaning, check, check, advice, before)


_UUID = Text("a file system's UUID", lambda text: bool(re.fullmatch(r"[0-9A-Fa-f-]{4,36}", text)))
_PATH = Text("an absolute path", lambda text: text.startswith("/"))
_PATTERN = Text('a shell pattern, such as "INC-[0-9]*"', lambda text: 0 < len(text.strip()) <= 128)
_COMPRESS = Text('"auto", "none", or "zstd:LEVEL" with a level from 1 to 19', _compresses)
_STORES = ("directory", "sftp", "s3")

CARRIED_OUT = "carried out: the collector works by it, and no flag overrides it"
_ASKED = "asked at opening"
_COPY = "not visible: a vault is the same wherever a copy of it stands"
_TIMES = "not visible: times are the collector's word"
_READ_BACK = "not visible: nothing in a vault tells whether it was read back"
_STAMPED = "made later, by 'dumpvault timestamp': a crash kernel has no network"
_DECLARED = "declared: it binds whoever destroys, later"
_DESTROYING = "not when opening: destroying a vault asks it"
_LATER = "not at capture, which no ledger may hinder: opening asks it"

_KEYS = "Name other recipients, or make keys that the policy allows with 'dumpvault keys new'."
_GROUP = "Name a recipient of each group; the judging site must hold its public key under that name."
_QUORUM = "Share the vault key among custodians; where that cannot be done, no capture can obey this policy."
_SIGNERS = "Sign with keys of the kinds and number that the policy asks for."
_MOUNT = "Mount the right file system, or name another --store."

RULES: tuple[Rule, ...] = (
    Rule("format", Choice(()), "version of these rules: 1 or 2", "read first", "read first"),
    Rule("description", Text("text, not blank", lambda t: bool(t.strip())), "for people", "for people", "for people"),
    _both("recipients.kems", Some(tuple(SUITES)), "kinds of recipient", checks.kems, _KEYS),
    _both("recipients.minimum", Whole(1, 128), "recipients, at least", checks.minimum, "Name more recipients."),
    _both(
        "recipients.mix_classical", Flag(), "may a classical recipient stand beside a post-quantum one",
        checks.mixed, _KEYS,
    ),
    _both(
        "recipients.groups", Or(Groups()), "at least one recipient of each group, by the names of the site's keys",
        checks.groups, _GROUP, (None,),
    ),
    _both("quorum.needed", Or(Whole(2, 128)), "custodians that must agree, at least", checks.needed, _QUORUM, (None,)),
    _both("quorum.of", Or(Whole(2, 128)), "custodians that hold a share, at most", checks.of, _QUORUM, (None,)),
    _both(
        "quorum.custodians", Or(Names(), "any"), "who alone may hold a share, by the names of the site's keys",
        checks.custodians, _QUORUM, (None,),
    ),
    _both(
        "signatures.kinds", Some(SIGNATURES), "kinds of key that may sign a vault",
        checks.signature_kinds, _SIGNERS, (SIGNATURES,),
    ),
    _both(
        "signatures.minimum", Whole(1, 8), "keys that sign header, commits and manifest, at least",
        checks.signature_count, _SIGNERS, (1,),
    ),
    _both(
        "signatures.demanded", Or(Some(SIGNATURES)), "kinds of which each must be among those signatures",
        checks.signatures_demanded, _SIGNERS, (None,),
    ),
    _both("regions.mib", Whole(1, 256), "the most memory in one region, MiB", checks.region_size, "Leave --region-size out."),
    Rule(
        "regions.compress", _COMPRESS, "compression; with none, sizes tell nothing of the content",
        checks.compress_planned, checks.compress_found, "Leave --compress out.",
    ),
    Rule(
        "commits.mib", Whole(1, 65536), "a signed commit at the latest after this much memory, in MiB",
        CARRIED_OUT, checks.commit_size,
    ),
    Rule("commits.seconds", Whole(1, 3600), "a signed commit at the latest after this long", CARRIED_OUT, _TIMES),
    Rule(
        "commits.read_back", Choice(("all", "sample", "none")), "read sealed regions back from the medium before the commit",
        CARRIED_OUT, _READ_BACK, before=("none",),
    ),
    Rule(
        "release.mode", Choice(("auto", "none", "phyp", "fadump")), "how memory is handed back",
        checks.release_planned, checks.release_found, "Leave --release out.", before=("auto",),
    ),
    Rule(
        "release.undescribed", Choice(("release", "hold")), "pages that no program header describes",
        CARRIED_OUT, checks.undescribed, before=("release",),
    ),
    Rule(
        "release.unreadable", Choice(("release", "hold")), "pages that could not be read",
        CARRIED_OUT, checks.unreadable, before=("hold",),
    ),
    Rule("store.kinds", Some(_STORES), "kinds of store", checks.store_kind, _COPY, "Name another --store.", (_STORES,)),
    Rule(
        "store.mount_point", Or(_PATH), "where the store's file system is mounted",
        checks.mount_point, _COPY, _MOUNT, (None,),
    ),
    Rule("store.filesystem", Or(_UUID), "UUID of the store's file system", checks.filesystem, _COPY, _MOUNT, (None,)),
    Rule(
        "retrieval.reason", Flag(), "must a reason be given to open",
        _ASKED, checks.reason, "Say why, with --reason.", (False,),
    ),
    Rule(
        "retrieval.ticket", Or(_PATTERN), "must a ticket be named to open, and of what form",
        _ASKED, checks.ticket, "Name it, with --ticket.", (None,),
    ),
    Rule(
        "retrieval.approvals", Or(Whole(1, 128)), "custodians' approvals that opening needs",
        checks.approvals_possible, checks.approvals, "Have custodians approve.", (None,),
    ),
    Rule(
        "retention.keep_days", Or(Whole(1, 36500)), "days before which a vault must not be destroyed",
        _DECLARED, _DESTROYING, "", (None,),
    ),
    Rule(
        "retention.destroy_days", Or(Whole(1, 36500)), "days after which a vault must be gone",
        "declared: it binds from then on", checks.overdue, "Destroy it, or have the policy's owners change it.", (None,),
    ),
    Rule(
        "retention.lock", Or(Choice(("governance", "compliance"))), "object lock that the store must hold",
        checks.lock, _COPY, "Choose a policy without a lock.", (None,),
    ),
    Rule(
        "timestamps.demanded", Or(Choice(("rfc3161",))), "timestamps by an independent authority", _STAMPED,
        checks.timestamps, "Run 'dumpvault timestamp ID --tsa URL', with its root in keys/tsa/.", (None,),
    ),
    Rule(
        "custody.required", Flag(), "must the store's ledger hold what is about to be done, before anything is decrypted",
        _LATER, checks.recorded, "Begin a ledger in the store, or mend what stands in its way.", (False,),
    ),
    Rule(
        "custody.anchor", Or(Choice(("checkpoint", "witness", "timestamp"))),
        "what must prove that the manifest was there before the first opening",
        _LATER, checks.anchored, "Have the ledger signed, and witnessed or timestamped as the policy says, before opening.",
        (None,),
    ),
)  # fmt: skip

#: What format 1 got while it was young. The first texts in vaults' headers have none of these; later ones have all.
_SOON = ("commits.read_back", "release.mode", "release.undescribed", "release.unreadable")

#: What format 2 got while it was young: a text without any of a table's rules is older than the table.
_YOUNG = ("custody",)


def rules_of(version: int, text: Mapping[str, Any]) -> list[Rule]:
    """The rules that a policy of this format has; ``text`` is the parsed TOML, for what a format's first texts had not."""
    if version > 1:
        return [rule for rule in RULES if rule.table not in _YOUNG or rule.table in text]
    soon = "release" in text or "read_back" in (text["commits"] if isinstance(text.get("commits"), dict) else ())
    return [rule for rule in RULES if rule.before is None or (soon and rule.name in _SOON)]
