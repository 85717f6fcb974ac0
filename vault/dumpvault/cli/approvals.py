"""What the commands of dual control and those that open by approvals share; imported late what most openings do without."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dumpvault.errors import BadInput, Usage
from dumpvault.flows.site import Site
from dumpvault.formats.dsse import LIMIT

if TYPE_CHECKING:
    from dumpvault.flows.combining import Approvals
    from dumpvault.flows.verified import Report
    from dumpvault.formats.policy_facts import Retrieval
    from dumpvault.formats.request import Purpose
    from dumpvault.stages.onetime import OneTimeKeys

__all__ = ["agreed", "approvals_option", "load_approvals", "onetime_keys", "read_envelope"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def approvals_option(command: _Command) -> _Command:
    return click.option(
        "--approvals",
        multiple=True,
        metavar="FILE",
        help="A custodian's approval, under dual control. May be repeated.",
    )(command)


def load_approvals(
    site: Site, paths: tuple[str, ...], keys: tuple[str, ...] = (), purpose: Purpose = "open"
) -> Approvals | None:
    """The files that ``--approvals`` names, beside the requests that they may answer. Raises ``BadInput``, or ``Usage``
    where ``keys`` were named as well."""
    if not paths:
        return None
    if keys:
        raise Usage(
            "--key and --approvals exclude each other",
            "Approvals open a vault under dual control, which no key opens; other vaults open by a key alone.",
        )
    from dumpvault.flows.combining import Approvals

    return Approvals([(path, read_envelope(path, "an approval")) for path in paths], onetime_keys(site), purpose)


def agreed(answers: Approvals | None, granted: bool) -> Callable[[Report], Retrieval]:
    """For a judge: what custodians agreed to of a vault under dual control."""

    def of(report: Report) -> Retrieval:
        from dumpvault.flows.combining import retrieval

        return retrieval(report, answers, granted=granted)

    return of


def onetime_keys(site: Site) -> OneTimeKeys:
    """The requests that this home has open."""
    from dumpvault.stages.onetime import OneTimeKeys

    return OneTimeKeys(site.requests)


def read_envelope(path: str, what: str) -> bytes:
    """The bytes of a file that holds ``what``; ``-`` is standard input. Raises ``BadInput``."""
    try:
        with click.open_file(path, "rb") as file:
            data: bytes = file.read(LIMIT + 1)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", f"It should hold {what}.") from None
    if len(data) > LIMIT:
        raise BadInput(f"{path}: too large for {what}", f"At most {LIMIT} bytes.")
    return data
