"""What the commands that read a vault at random share: their options, and a view opened as those say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import click

from dumpvault.cli import output
from dumpvault.cli.approvals import agreed, approvals_option, load_approvals
from dumpvault.cli.grants import grant_option, load_grant
from dumpvault.cli.recording import load_recording
from dumpvault.cli.site import (
    at_option,
    load_site,
    load_trust,
    passphrase_option,
    retrieval_options,
    store_option,
    unlocker,
)
from dumpvault.flows.judging import Judge
from dumpvault.flows.listing import find_vault
from dumpvault.flows.recording import Opening
from dumpvault.flows.view import View, ViewRequest, open_view
from dumpvault.formats.policy_facts import Retrieval
from dumpvault.stages.secrecy import keep_out_of_swap

__all__ = ["view_options", "viewed"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def view_options(command: _Command) -> _Command:
    """The options that reading commands share: where, with which key, grant or approvals, whom to trust, how much memory."""
    for option in reversed(
        (
            store_option,
            click.option(
                "--key", "keys", multiple=True, metavar="NAME|FILE", help="Private key to use. [default: any of the site's]"
            ),
            passphrase_option,
            approvals_option,
            grant_option,
            click.option("--allowed-signers", metavar="FILE", help="Whom to trust. [default: the site's]"),
            at_option,
            retrieval_options,
            click.option("--partial", is_flag=True, help="Read a damaged vault as far as it is good."),
            click.option(
                "--cache", type=click.IntRange(16, 1 << 20), default=256, show_default=True, metavar="MIB",
                help="The most memory to keep opened data in.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@contextmanager
def viewed(
    command: str,
    vault: str,
    store: str | None,
    keys: tuple[str, ...],
    passphrase_file: str | None,
    approvals: tuple[str, ...],
    grant: str | None,
    allowed_signers: str | None,
    policy: str | None,
    reason: str,
    ticket: str,
    partial: bool,
    cache: int,
    ahead: int = 0,
    shared: bool = False,
    at: datetime | None = None,
) -> Iterator[View]:
    """The view of ``vault`` that the options ask for; what is missing from it is told.

    ``command`` is what the ledger says of how it was opened; ``shared`` says that other programs will be given what is opened.
    """
    site = load_site()
    trust = load_trust(site, allowed_signers, at)
    held = [site.trust.private_key(name) for name in keys] if keys else site.trust.private_keys()
    answers = load_approvals(site, approvals, keys)
    place = site.store(store)
    for name in keep_out_of_swap(shared=shared):
        whose = "what other programs read here" if shared else "what is opened"
        output.say(f"warning: {whose} may reach the swap at {name}; turn it off, or encrypt it")
    given = load_grant(grant)
    recording = load_recording(site, place, trust)
    said = Retrieval(reason, ticket)
    judge = Judge(site, policy, said, agreed(answers, granted=given is not None), recording.custody)
    request = ViewRequest(
        find_vault(place, vault), held, cache << 20, partial, ahead, answers, judge, given, Opening(recording, command)
    )
    view = open_view(place, request, trust, unlocker(passphrase_file))
    try:
        output.say_notes(view.report)
        for finding in [*view.report.findings, *filter(None, [view.report.closed])]:
            output.say(f"note: {finding.message}")
        yield view
    finally:
        view.close()
