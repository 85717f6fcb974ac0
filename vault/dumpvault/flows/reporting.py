"""What a report says of a vault, from what verification found: pure, no store is read here and nothing is drawn."""

from __future__ import annotations

from typing import Literal

from dumpvault.errors import VaultError
from dumpvault.flows.memory_map import memory_map
from dumpvault.flows.signers import signer_facts
from dumpvault.flows.verified import Report
from dumpvault.formats import jcs
from dumpvault.formats.commit import Ended, Regions, Takeover
from dumpvault.formats.event import Event, Granted, Released, Rewrap, Shred, expand
from dumpvault.formats.header import Listed
from dumpvault.formats.kem import SUITES
from dumpvault.formats.plain import size
from dumpvault.formats.report_facts import (
    Answer,
    Capture,
    Custody,
    CustodyEntry,
    Finding,
    Key,
    Opener,
    Point,
    PolicyFacts,
    RuleState,
    StepState,
    Timestamps,
    Unchecked,
    VaultFacts,
)
from dumpvault.formats.rules import CARRIED_OUT, RULES

__all__ = ["custody_entries", "vault_facts"]

_VERDICTS = {
    "intact": ("good", "Intact", "Every object is what a trusted key signed, and the policy is obeyed."),
    "incomplete": ("part", "Incomplete", "Nothing that is there was altered, but something is missing."),
    "refused": (
        "bad", "Refused by policy",
        "Nothing was altered, but the vault does not obey the policy that is trusted for its host.",
    ),
    "failed": (
        "bad", "Not intact",
        "Something is not what a trusted key signed. Do not rely on this vault before that is explained.",
    ),
}  # fmt: skip


def vault_facts(report: Report, custody: Custody | None = None) -> VaultFacts:
    """Everything that is to be said of a vault.

    ``custody`` is what the custody log has; without one, the entries are those that the vault itself tells.
    """
    timestamps = _timestamps(report)
    believed = report.header_read
    custody = custody or Custody(custody_entries(report))
    openers = _openers(report) if believed else ()
    policy = _policy(report)
    header = report.examiner.header if believed else None
    return VaultFacts(
        vault=report.vault,
        verdict=report.verdict,
        exit_code=10 if custody.ledger == "failed" else report.exit_code,
        host=header.host if header else None,
        created=header.created if header else None,
        size=report.examiner.totals.size if header else None,
        answers=(_intact(report), _complete(report), _could_open(report, openers), _did_open(custody)),
        described=_described(report) if believed else (),
        custody=custody,
        timestamps=timestamps,
        memory=memory_map(report) if believed else None,
        capture=_capture(report) if believed else None,
        openers=openers,
        signers=tuple(
            Key(f.name, f.keyid, f.algorithm, f.describe().partition(") ")[2]) for f in signer_facts(report.examiner)
        )
        if believed
        else (),
        algorithms=_algorithms(report) if believed else (),
        policy=policy,
        steps=_steps(report),
        foreign=tuple(report.foreign),
        superseded=tuple(report.superseded),
        unchecked=_unchecked(report, custody, timestamps, policy),
    )


def custody_entries(report: Report) -> tuple[CustodyEntry, ...]:
    """What the vault alone tells of who handled it: its collectors' attempts and its officers' events, as signed.

    Nobody who reads a vault leaves a trace in it, so that openings stand in a custody log or nowhere.
    """
    examiner = report.examiner
    if not report.header_read:
        return ()
    told: list[CustodyEntry] = []

    def tell(
        time: str, event: str, signers: tuple[str, ...], role: str, detail: str, purpose: str | None = None
    ) -> None:
        actor = ", ".join(map(examiner.trust.principal, signers))
        told.append(CustodyEntry(time, event, actor, role, purpose, detail, len(told)))

    for commit, signers in zip(examiner.commits, examiner.commit_signers, strict=True):
        if isinstance(commit.body, Takeover):
            tell(commit.time, "collected", signers, "collector", f"attempt {commit.attempt} of the capture begins")
        elif isinstance(commit.body, Ended):
            tell(commit.time, "collected", signers, "collector", f"attempt {commit.attempt} ends: {commit.body.reason}")
    if (manifest := examiner.manifest) is not None:
        what = f"capture ends: {size(manifest.totals.size)} in {manifest.totals.regions} regions"
        tell(manifest.finished, "collected", examiner.manifest_signers, "collector", what)
    elif examiner.commits:
        last = examiner.commits[-1]
        what = f"last commit that is there, number {last.number}; no manifest"
        tell(last.time, "collected", examiner.commit_signers[-1], "collector", what)
    for event, signers in zip(examiner.events, examiner.event_signers, strict=True):
        word, detail, purpose = _event(report, event)
        tell(event.time, word, signers, "collector" if isinstance(event.body, Released) else "officer", detail, purpose)
    return tuple(told)


def _event(report: Report, event: Event) -> tuple[str, str, str | None]:
    """An event of the vault as custody has it: its word, what was done, and why."""
    body = event.body
    if isinstance(body, Shred):
        gone = [region for region, number in report.examiner.current.shredded.items() if number == event.number]
        return "shredded", f"keys of {len(gone)} regions destroyed", body.reason
    if isinstance(body, Rewrap):
        keys = ", with new vault keys" if body.keys else ""
        return "rewrapped", f"sealed to {', '.join(r.name for r in body.recipients)}{keys}", None
    if isinstance(body, Granted):
        count = len(expand(body.regions))
        return "granted", f"keys of {count} regions to {body.recipient.name}, file {body.file[:16]}", None
    if isinstance(body, Released):
        return "collected", f"memory handed back by {body.method}: {body.result}", None
    return event.body.kind, "", None


def _intact(report: Report) -> Answer:
    grade, short, text = _VERDICTS[report.verdict]
    if (worst := report.worst()) is not None:
        text += f" First: {worst.message}."
    return Answer("Is it what was signed?", grade, short, text)  # type: ignore[arg-type]


def _complete(report: Report) -> Answer:
    question, examiner = "Is all of it there?", report.examiner
    if not report.header_read or not examiner.commits:
        return Answer(
            question, "unknown", "Not known", "Nothing that says what belongs to this vault could be believed."
        )
    total = size(examiner.totals.size)
    if report.steps[2].state != "held" or report.steps[3].state == "failed":
        text = f"The chain of commits could be read up to number {len(examiner.commits) - 1}, which makes {total}."
        return Answer(question, "unknown", "Not known", text)
    if examiner.manifest is None:
        text = f"There is no manifest: at least {total}, up to commit {len(examiner.commits) - 1}. "
        text += " Whether there was more is not known."
        return Answer(question, "part", "At least in part", text)
    short = [f"{len(report.bad_regions)} regions are missing or damaged"] if report.bad_regions else []
    if report.steps[5].state in ("missing", "failed"):
        short.append("keys are missing or damaged")
    if report.steps[7].state != "held":
        short.append(
            "the source ended early" if examiner.manifest.truncated else "parts of the source are in no region"
        )
    if short:
        return Answer(question, "part", "Not complete", f"Of {total}: {'; '.join(short)}.")
    text = f"All {total} of the source, up to the end that its collector signed."
    if examiner.totals.unreadable:
        text += f" {size(examiner.totals.unreadable)} could not be read when it was captured, and stand as zeros."
    return Answer(question, "good", "Complete", text)


def _could_open(report: Report, openers: tuple[Opener, ...]) -> Answer:
    question, examiner = "Who could open it?", report.examiner
    if not report.header_read:
        return Answer(question, "unknown", "Not known", "The header, which names the recipients, is not good.")
    shredded, total = len(examiner.current.shredded), examiner.totals.regions
    now = [o.name for o in openers if o.state == "now"]
    others = [f"{o.name} ({o.text})" for o in openers if o.state != "now"]
    if total and shredded == total:
        short = "Nobody, by this copy"
        text = (
            f"The keys of all regions were shredded. Before that: {', '.join(now)}, who may have kept what they opened."
        )
    else:
        quorum = examiner.header.quorum
        short = (
            f"Any {quorum} of {', '.join(now)}"
            if quorum
            else ", ".join(now[:4]) + (" and others" if len(now) > 4 else "")
        )
        text = (
            "Together, never one alone."
            if quorum
            else "Alone, by a private key."
            if len(now) == 1
            else "Each alone, by a private key."
        )
        if shredded:
            text += f" {shredded} of {total} regions were shredded and open to nobody, by this copy."
    if others:
        text += f" Also: {'; '.join(others)}."
    if report.steps.get(5) and report.steps[5].state in ("missing", "failed"):
        text += " Key objects are missing or damaged (step 5), so less may open."
    return Answer(question, "fact", short, text)


def _did_open(custody: Custody) -> Answer:
    question = "Who did open it?"
    if custody.ledger == "not given":
        return Answer(
            question, "unknown", "Not known", "No custody log was looked at, and opening leaves no trace in a vault."
        )
    who = sorted({entry.actor for entry in custody.openings})
    count = len(custody.openings)
    often = "not opened" if not count else "opened once" if count == 1 else f"opened {count} times"
    text = f"By the custody log, {custody.ledger} up to a checkpoint of {custody.size or 0} entries, {often}."
    if not who:
        text += " Whoever opened it with a key and without dumpvault left no entry."
    grade = {"verified": "fact", "incomplete": "unknown"}.get(custody.ledger, "bad")
    return Answer(question, grade, ", ".join(who) or "Nobody who said so", text)  # type: ignore[arg-type]


def _described(report: Report) -> tuple[tuple[str, str], ...]:
    examiner = report.examiner
    header, manifest, source = examiner.header, examiner.manifest, examiner.header.source
    elf = f", ELF {source.elf.bits}-bit, {source.elf.endian}-endian" if source.elf else ""
    return (
        ("Vault", report.vault),
        ("Host", header.host),
        ("Source", f"{source.name} ({source.kind}{elf})"),
        ("Captured from", header.created),
        ("Captured until", manifest.finished if manifest else "no manifest"),
        ("Boot", header.boot_id or "not given"),
        ("Collector", header.tool),
        ("Memory sealed", f"{size(examiner.totals.size)} in {examiner.totals.regions} regions"),
        ("Commits", str(len(examiner.commits))),
        ("Stored", size(examiner.totals.sealed)),
        ("Unreadable", size(examiner.totals.unreadable)),
        ("Attempts", str(len(examiner.attempts))),
        ("Policy at capture", header.policy.name),
    )  # fmt: skip


def _capture(report: Report) -> Capture | None:
    """The commits as a course of the capture; they carry times, sizes, releases and their outcomes, and nothing else of it."""
    examiner = report.examiner
    if not examiner.commits:
        return None
    durable = unreadable = authorised = released = 0
    lengths: dict[tuple[int, int], int] = {}
    points = []
    for commit in examiner.commits:
        if isinstance(body := commit.body, Regions):
            durable += sum(record.length for record in body.regions)
            unreadable += sum(hole.length for record in body.regions for hole in record.unreadable)
            for number, release in enumerate(body.releases):
                lengths[commit.number, number] = release.length
                authorised += release.length
            released += sum(lengths[o.commit, o.release] for o in body.outcomes if o.result == "released")
        points.append(
            Point(
                commit.number,
                commit.time,
                commit.attempt,
                body.kind,
                durable,
                durable - unreadable,
                authorised,
                released,
            )
        )
    ends = [event.body for event in examiner.events if isinstance(event.body, Released)]
    manifest = examiner.manifest
    return Capture(
        points=tuple(points),
        finished=manifest.finished if manifest else None,
        source=manifest.totals.size if manifest else examiner.header.source.size,
        at_end="; ".join(f"after the manifest, all memory by {end.method}: {end.result}" for end in ends),
    )


def _openers(report: Report) -> tuple[Opener, ...]:
    examiner = report.examiner
    known: dict[str, tuple[Listed, str]] = {r.digest: (r, "since the capture") for r in examiner.header.recipients}
    found: list[Opener] = []
    for event in examiner.events:
        if isinstance(event.body, Rewrap):
            after = {r.digest: r for r in event.body.recipients}
            for digest in [digest for digest in known if digest not in after]:
                gone, since = known.pop(digest)
                text = f"{since}, removed by event {event.number} on {event.time}; keeps what was opened before"
                found.append(Opener(gone.name, gone.suite, gone.digest, "removed", text))
            for digest, new in after.items():
                known.setdefault(digest, (new, f"since event {event.number} on {event.time}"))
        elif isinstance(event.body, Granted):
            who, regions = event.body.recipient, set(expand(event.body.regions))
            lost = len(regions & set(examiner.current.shredded))
            text = (
                f"{len(regions)} of {examiner.totals.regions} regions, granted by event {event.number} on {event.time}"
            )
            text += f", of which {lost} were shredded since" if lost else ""
            found.append(Opener(who.name, who.suite, who.digest, "granted", text))
    now = [Opener(r.name, r.suite, r.digest, "now", since) for r, since in known.values()]
    return (*now, *found)


def _algorithms(report: Report) -> tuple[tuple[str, str], ...]:
    header = report.examiner.header_now
    codecs: dict[str, int] = {}
    for _, record in report.examiner.records():
        codecs[record.codec] = codecs.get(record.codec, 0) + 1
    suites = {r.suite for r in header.recipients}
    kinds = [f"{suite} ({'post-quantum' if SUITES[suite].post_quantum else 'classical'})" for suite in sorted(suites)]
    return (
        ("Regions", "Cobblestone-256: AES-256-GCM with HKDF-SHA-512 and a key commitment"),
        ("Block lists, objects", "SHA-256"),
        ("Data keys", "random, one a region, wrapped with AES-256-KW"),
        ("Vault keys", f"HPKE (RFC 9180), base mode: {', '.join(kinds)}"),
        ("Shared among custodians", f"any {header.quorum} of {len(header.recipients)}" if header.quorum else "no"),
        ("Signatures", ", ".join(sorted({signer.algorithm.name for signer in header.signers}))),
        (
            "Compression",
            ", ".join(f"{name}: {count} regions" for name, count in sorted(codecs.items())) or "no regions",
        ),
    )


def _policy(report: Report) -> PolicyFacts | None:
    judged = report.judgement
    if judged is None:
        return None
    broken = {one.rule: one for one in judged.broken}
    states = []
    for rule in RULES:
        value = judged.policy[rule.name]
        shown = _shown(value, "any" if rule.name == "quorum.custodians" else "none")
        state, why = "held", ""
        if rule.name in broken:
            state, why = "broken", " ".join(filter(None, (f"{broken[rule.name].why}.", rule.advice)))
        elif value is None or (value is False and rule.name.startswith("retrieval.")):
            state = "asks nothing"
        elif isinstance(rule.opening, str):
            state, why = "not judged", rule.opening
        elif rule.name.startswith("retrieval.") and judged.found.retrieval is None:
            state, why = "not judged", "asked of whoever opens, and nobody does here"
        if state == "not judged" and rule.capture == CARRIED_OUT:
            why += "; the collector works by it"
        states.append(RuleState(rule.name, rule.meaning, shown, state, why))  # type: ignore[arg-type]
    return PolicyFacts(judged.policy.name, judged.note, judged.trusted, tuple(states))


def _shown(value: object, nothing: str) -> str:
    if value is None:
        return nothing
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return "; ".join(f"{group}: {' or '.join(names)}" for group, names in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)


def _steps(report: Report) -> tuple[StepState, ...]:
    return tuple(
        StepState(number, step.title, step.state, step.note, tuple(map(_finding, report.of_steps(number))))
        for number, step in sorted(report.steps.items())
    )


def _timestamps(report: Report) -> Timestamps:
    """What independent authorities say of the manifest, and what is there and could not be checked."""
    held = [
        f"the manifest existed by {jcs.to_time(anchor.time)}, says {anchor.source}"
        for anchor in (*report.anchors.values(), report.witnessed)
        if anchor
    ]
    failed = [f"{name} proves nothing here: {error.message}" for name, error in report.unproved.items()]
    state: Literal["verified", "failed", "not given"] = "verified" if held else "failed" if failed else "not given"
    return Timestamps(state, (*held, *failed))


def _finding(error: VaultError) -> Finding:
    return Finding(error.kind, error.message, error.hint, error.exit_code)


def _unchecked(
    report: Report, custody: Custody, timestamps: Timestamps, policy: PolicyFacts | None
) -> tuple[Unchecked, ...]:
    """What this report does not show, so that nobody takes silence for a yes."""
    found = []

    def say(what: str, why: str) -> None:
        found.append(Unchecked(what, why))

    for step in report.steps.values():
        if step.state == "skipped":
            say(f"Step {step.number}, {step.title}", "something it needs was not there or not good")
        elif step.state == "partly":
            say(f"Step {step.number}, {step.title}, in part", step.note)
    if 10 not in report.steps:
        say("Step 10, policy", "no policy was asked for")
    if 11 not in report.steps:
        say("That the regions open", "it takes a private key: 'dumpvault verify ID --with-key NAME'")
    if custody.ledger == "not given":
        say(
            "Custody: who received, opened or copied it",
            "no custody log was given; what the vault itself tells is shown",
        )
    if timestamps.state == "not given":
        say(
            "When things happened", "times are the signers' claims, by their clocks; no independent timestamp was given"
        )
    if policy and not policy.trusted:
        say("The site's own policy", "this site names none for that host, so the vault was held to its own word")
    unjudged = [rule.name for rule in policy.rules if rule.state == "not judged"] if policy else []
    if rules := [name for name in unjudged if "." in name]:
        say(f"{len(rules)} rules of the policy", f"a vault alone does not show them: {', '.join(rules)}")
    if report.foreign:
        say(f"{len(report.foreign)} foreign objects", "nobody signed for them; they were listed and not read")
    if report.header_read and report.examiner.current.superseded:
        say("Copies of replaced key objects", "whoever kept one opens what it opened")
    if report.examiner.manifest is not None:
        say("That no newer event was taken away", "nothing in a vault signs the end of its events")
    say("That the memory is what the machine held", "a signature says who signed which bytes, not that they are true")
    return tuple(found)
