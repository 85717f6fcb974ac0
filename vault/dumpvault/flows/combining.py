"""The requester's side of dual control: from custodians' approvals to an attempt's keys (spec, section 14.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from dumpvault.errors import Forged, NoKey, PolicyRefused
from dumpvault.flows.verified import Report
from dumpvault.formats import dsse
from dumpvault.formats.header import Header
from dumpvault.formats.kem import SUITES
from dumpvault.formats.policy_facts import Retrieval
from dumpvault.formats.request import Approval, Purpose, Request, share_info
from dumpvault.stages.onetime import OneTimeKeys
from dumpvault.stages.unlock import combine_shares, custodian_name

__all__ = ["Agreement", "Approvals", "agree", "retrieval"]

_ASK = "Ask the custodians with 'dumpvault request ID --reason WHY', and give what they answer with --approvals."


@dataclass(frozen=True, slots=True)
class Approvals:
    """``files`` are the approvals' names and bytes; ``onetime`` the requests that this home has open."""

    files: Sequence[tuple[str, bytes]]
    onetime: OneTimeKeys
    #: What the custodians must have been asked for.
    purpose: Purpose = "open"


@dataclass(frozen=True, slots=True)
class _Answer:
    """An approval whose signatures, by ``keyids``, are good."""

    name: str
    approval: Approval
    keyids: frozenset[str]
    custodian: str


class Agreement:
    """As many approvals as the quorum asks for, each good, all of one request that is still open."""

    def __init__(self, report: Report, onetime: OneTimeKeys, request: Request, answers: Sequence[_Answer]) -> None:
        self._report = report
        self._onetime = onetime
        self._answers = answers
        #: Who asked, why, and where that is recorded.
        self.request = request
        #: The names of those who approved.
        self.custodians = tuple(answer.custodian for answer in answers)

    def open(self) -> dict[int, bytes]:
        """KEK of each attempt that holds regions. The request is used up when this returns. Raises ``Forged`` or ``NoKey``."""
        keks = self.combine()
        self.use_up()
        return keks

    def combine(self) -> dict[int, bytes]:
        """The same, with the request still open: for what can be cut off and must be possible again."""
        examiner = self._report.examiner
        header = examiner.header_now
        opened = [(answer, _shares(answer, header, self._onetime)) for answer in self._answers]
        keks = {}
        for attempt, bag in self._report.keybags.items():
            parts = {answer.approval.custodian: (answer.name, shares[attempt]) for answer, shares in opened}
            keks[attempt] = combine_shares(bag, parts, header, examiner.committed_shares(attempt))
        return keks

    def use_up(self) -> None:
        """Delete the request's one-time keys. Raises ``NoKey`` where somebody else has used them."""
        if not self._onetime.use_up(self.digest):
            _gone(self._answers[0].name)

    @property
    def digest(self) -> str:
        """The request's."""
        return self._answers[0].approval.request


def retrieval(report: Report, approvals: Approvals | None, *, granted: bool = False) -> Retrieval:
    """What ``agree`` comes to, in the words of a policy: why, where that is recorded, and how many agreed.

    ``granted`` keys came out of the vault by a quorum's agreement: there was no other way to them.
    """
    if granted:
        return Retrieval("", "", report.examiner.header_now.quorum or 0)
    agreement = agree(report, approvals)
    return Retrieval(agreement.request.reason, agreement.request.ticket or "", len(agreement.custodians))


def agree(report: Report, approvals: Approvals | None) -> Agreement:
    """What custodians agreed to of the vault that ``report`` is of. No key is touched and nothing is used up.

    Raises ``NoKey`` for what is missing, expired or used, ``PolicyRefused`` for what was approved for something else,
    ``Forged`` for what is not genuine, each naming the file or the custodian.
    """
    header, moment = report.examiner.header_now, report.moment
    if approvals is None or not approvals.files:
        _too_few(header, [])
    answers = [_read(report, name, data) for name, data in approvals.files]
    digest = answers[0].approval.request
    for answer in answers:
        if answer.approval.request != digest:
            _refuse(answer.name, f"answers another request than {answers[0].name} does")
    request, requesters = _request(report, approvals.onetime, digest, answers[0].name)
    if request.purpose != approvals.purpose:
        _refuse(answers[0].name, f"was asked for and given to {request.purpose}, not to {approvals.purpose}")
    for answer in answers:
        if answer.keyids & requesters:
            _refuse(answer.name, "is signed with a key that made the request")
        _check(answer, request, moment)
    _check_custodians(answers, header)
    return Agreement(report, approvals.onetime, request, answers)


def _read(report: Report, name: str, data: bytes) -> _Answer:
    """One approval: signed by a custodian, and for this vault."""
    examiner = report.examiner
    envelope = dsse.parse(data, name)
    approval = Approval.read(envelope)
    keyids = envelope.check("approval", examiner.trust, report.moment, host=examiner.header.host)
    if approval.vault != report.vault:
        _refuse(name, f"is for vault {approval.vault}, not for {report.vault}")
    if approval.header != examiner.header_digest:
        _refuse(name, f"is for another header of vault {report.vault}")
    custodian = custodian_name(examiner.header_now, approval.custodian)
    if custodian is None:
        _refuse(name, f"is by {approval.custodian[:16]}…, who is no custodian of vault {report.vault}")
    return _Answer(name, approval, frozenset(keyids), custodian)


def _request(report: Report, onetime: OneTimeKeys, digest: str, name: str) -> tuple[Request, frozenset[str]]:
    """The request that was answered, which this home must have made and not used, and the key ids that signed it."""
    data = onetime.request(digest)
    if data is None:
        _gone(name)
    examiner = report.examiner
    envelope = dsse.parse(data, "the request")
    request = Request.read(envelope)
    keyids = envelope.check("request", examiner.trust, report.moment, host=examiner.header.host)
    if request.requester not in keyids:
        raise Forged("the request: not signed by the requester that it names", "Make a new one; nothing was opened.")
    if (request.vault, request.header) != (report.vault, examiner.header_digest):
        _refuse(name, f"answers a request for vault {request.vault}, not for {report.vault}")
    if request.rewrap != examiner.last_rewrap:
        raise NoKey(
            f"{name}: the vault key was shared anew after this was asked for, or this copy of the vault is older",
            f"Shares of before do not open what is there now. Nothing was used up. {_ASK}",
        )
    if request.expired(report.moment):
        onetime.use_up(digest)
        raise NoKey(f"{name}: the request expired at {request.expires}", f"Its one-time keys are deleted. {_ASK}")
    if lacking := sorted(set(report.keybags) - set(request.attempts)):
        raise NoKey(
            f"{name}: attempt {lacking[0]} of the vault began after the request was made",
            f"Nothing was used up. {_ASK}",
        )
    return request, frozenset(keyids)


def _check(answer: _Answer, request: Request, moment: datetime) -> None:
    """One approval against the request that it answers."""
    name, approval = answer.name, answer.approval
    if approval.requester != request.requester:
        _refuse(name, f"is for requester {approval.requester}; the request is by {request.requester}")
    if approval.expires > request.expires:
        _refuse(name, f"is to last until {approval.expires}, longer than the request, {request.expires}")
    if approval.expired(moment):
        raise NoKey(
            f"{name}: the approval of {answer.custodian} expired at {approval.expires}",
            "Ask for another one, or for a longer one. (Compared with this machine's clock.)",
        )
    if [attempt for attempt, _ in approval.shares] != list(request.attempts):
        _refuse(name, "does not hold a share for each attempt that was asked for")


def _check_custodians(answers: Sequence[_Answer], header: Header) -> None:
    """As many different custodians as the quorum asks for, each signing with a key of their own."""
    seen: dict[str, _Answer] = {}
    for answer in answers:
        for before in seen.values():
            if before.approval.custodian == answer.approval.custodian:
                _refuse(answer.name, f"is by {answer.custodian}, as {before.name} is: one custodian counts once")
            if before.keyids & answer.keyids:
                _refuse(answer.name, f"is signed with the same key as {before.name}: one person counts once")
        seen[answer.name] = answer
    assert header.quorum is not None
    if len(seen) < header.quorum:
        _too_few(header, [answer.custodian for answer in answers])


def _shares(answer: _Answer, header: Header, onetime: OneTimeKeys) -> dict[int, bytes]:
    """What one custodian sealed to the one-time key, by attempt."""
    approval = answer.approval
    suite = next(r.suite for r in header.recipients if r.digest == approval.custodian)
    key = onetime.key(approval.request, suite)
    if key is None:
        _gone(answer.name)
    shares = {}
    for attempt, sealed in approval.shares:
        try:
            shares[attempt] = SUITES[suite].open(key.secret, sealed, share_info(suite, attempt, approval))
        except ValueError as error:
            raise Forged(
                f"{answer.name}: the share of {answer.custodian} for attempt {attempt} cannot be opened: {error}",
                "It was sealed for something else than it says. Nothing was opened; ask another custodian.",
            ) from None
    return shares


def _too_few(header: Header, have: Sequence[str]) -> NoReturn:
    missing = [r.name for r in header.recipients if r.name not in have]
    got = f"approved by {', '.join(have)} only" if have else "approved by nobody"
    raise NoKey(
        f"vault {header.vault} is under dual control, any {header.quorum} of {len(header.recipients)}: {got}; "
        f"missing: {(header.quorum or 0) - len(have)} of {', '.join(missing)}",
        _ASK if not have else "Give all approvals at once, each with --approvals. The request is still open.",
    )


def _gone(name: str) -> NoReturn:
    raise NoKey(
        f"{name}: the one-time key that it answers is not here",
        f"The request was used, has expired, or was made in another home. {_ASK}",
    )


def _refuse(name: str, why: str) -> NoReturn:
    raise PolicyRefused(f"{name} {why}", "Nothing was opened, and the request is still open. Leave this file out.")
