"""Judge a vault by the policy that the verifier's own site trusts for its host (spec, section 13, step 10).

The policy in a vault's header is the collector's word, and a stolen collector key may write any. What a vault must obey
is what this site's configuration names for the host that the header states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dumpvault.errors import BadInput, PolicyRefused
from dumpvault.flows.site import Site
from dumpvault.flows.verified import Judgement, Report
from dumpvault.formats import jcs
from dumpvault.formats.commit import Regions
from dumpvault.formats.event import Released
from dumpvault.formats.header import Header
from dumpvault.formats.policy import Policy
from dumpvault.formats.policy_facts import CommitFacts, Custody, Found, Party, Retrieval, signature_kind
from dumpvault.ranges import Ranges

__all__ = ["Judge"]


@dataclass(frozen=True, slots=True)
class Judge:
    """``policy`` overrides the configuration; ``retrieval`` is None where nothing is to be opened.

    ``agree`` gives what custodians agreed to, for a vault under dual control: those count, and their request says why.
    ``custody`` gives what the store's ledger says of the vault.
    """

    site: Site
    policy: str | None = None
    retrieval: Retrieval | None = None
    agree: Callable[[Report], Retrieval] | None = None
    custody: Callable[[Report], Custody] | None = None

    def chosen(self, header: Header) -> tuple[Policy, bool]:
        """The policy that a vault with this header must obey, and whether this site names it. Raises as ``judge`` does."""
        name = self.policy or self.site.policy_for(header.host)
        if name is not None:
            return self.site.policy(name), True
        try:
            return Policy.parse(header.policy.name, header.policy.text, "in vault.dsse.json"), False
        except BadInput as error:
            raise PolicyRefused(
                f"vault.dsse.json: its own policy cannot be read: {error.message}",
                "Name the policy that it must obey: [policies] in config.toml, or --policy.",
            ) from None

    def bound_by(self, header: Header) -> list[Policy]:
        """The policies that a change of the vault's keys must obey: its own, and what this site trusts for it."""
        own = Policy.parse(header.policy.name, header.policy.text, "in vault.dsse.json")
        policy, trusted = self.chosen(header)
        return [own, policy] if trusted else [own]

    def judge(self, report: Report) -> Judgement:
        """What ``report``'s vault breaks. Raises ``BadInput`` where the trusted policy cannot be read, ``PolicyRefused``
        where there is none and the vault's own cannot, and what speaks against the approvals."""
        header = report.examiner.header
        own = header.policy
        policy, trusted = self.chosen(header)
        if trusted:
            note = f"{policy.name}, which this site trusts for host {header.host}"
            if own.text != policy.text:
                note += f"; captured under {own.name}, which differs"
        else:
            note = f"{policy.name}, by the vault's own word: this site names no policy for host {header.host}"
        found = facts(report, self.site.trust.known(), self._agreed(report))
        if self.custody and found.retrieval is not None and (policy["custody.required"] or policy["custody.anchor"]):
            found = replace(found, custody=self.custody(report))
        return Judgement(policy, trusted, own.text != policy.text, tuple(policy.broken(found)), note, found)

    def _agreed(self, report: Report) -> Retrieval | None:
        """What is said for the opening; under dual control with what its request says, and how many custodians agreed."""
        asked = self.retrieval
        if asked is None or self.agree is None or report.examiner.header.quorum is None or report.verdict == "failed":
            return asked
        said = self.agree(report)
        return Retrieval(asked.reason or said.reason, asked.ticket or said.ticket, said.approvals)


def facts(report: Report, known: Mapping[str, frozenset[str]], retrieval: Retrieval | None) -> Found:
    """What a policy asks of a vault, from what verification believed of it. Pure."""
    examiner = report.examiner
    header = examiner.header
    kinds = {signer.keyid: signature_kind(signer) for signer in header.signers}
    signed = [("vault.dsse.json", examiner.header_signers)]
    signed += [(f"commits/{n}.dsse.json", keyids) for n, keyids in enumerate(examiner.commit_signers)]
    if examiner.manifest:
        signed.append(("manifest.dsse.json", examiner.manifest_signers))
    bodies = [(commit.number, commit.body) for commit in examiner.commits if isinstance(commit.body, Regions)]
    releases = [release for _, body in bodies for release in body.releases]
    holes = [(hole.offset, hole.end) for _, record in examiner.records() for hole in record.unreadable]
    addresses = Ranges()
    for load in header.source.memory if holes else ():
        within = Ranges(holes) & Ranges([(load.offset, load.offset + load.length)])
        addresses |= within.shifted(load.address - load.offset)
    return Found(
        recipients=[Party(r.name, r.suite, r.digest) for r in examiner.header_now.recipients],
        known=known,
        signers=list(kinds.values()),
        signed=[(name, [kinds[keyid] for keyid in keyids]) for name, keyids in signed],
        quorum=examiner.header_now.quorum,
        region_size=header.region_size,
        created=jcs.from_time(header.created),
        now=report.moment,
        codecs=frozenset(record.codec for _, record in examiner.records()),
        commits=[
            CommitFacts(number, sum(r.length for r in body.regions), max(r.length for r in body.regions))
            for number, body in bodies
            if body.regions
        ],
        methods=frozenset(
            [r.method for r in releases]
            + [event.body.method for event in examiner.events if isinstance(event.body, Released)]
        ),
        released=Ranges((r.start, r.start + r.length) for r in releases),
        unreadable=addresses,
        unreadable_bytes=examiner.totals.unreadable,
        retrieval=retrieval,
        anchors=tuple(report.anchors.values()),
    )
