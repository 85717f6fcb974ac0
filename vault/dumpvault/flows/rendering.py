"""A report's facts as one HTML page: no network, no script, every word of a vault escaped.

The templates are data of the package. An undefined name is an error, and what a control character would do on a page is
undone, for hosts, reasons and names are whatever somebody signed.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from contextlib import suppress
from typing import Any

from dumpvault.errors import BadInput
from dumpvault.formats import report_pictures
from dumpvault.formats.plain import printable, size
from dumpvault.formats.report_facts import Answer, ReportFacts

__all__ = ["place_report", "render", "write_report"]


def render(facts: ReportFacts) -> str:
    """The page. The policy in its head lets it load nothing, and run nothing."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def safe(value: Any) -> Any:
        return printable(value) if type(value) is str else value

    loader = PackageLoader("dumpvault", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, finalize=safe)
    environment.filters |= {
        "attr_short": _short, "course": report_pictures.course, "cut": _cut, "hex": hex, "moment": _moment,
        "rows": lambda vault: report_pictures.rows(vault.custody), "sampled": report_pictures.sampled, "size": size,
        "strips": report_pictures.strips,
    }  # fmt: skip
    style = loader.get_source(environment, "report.css")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = environment.get_template("report.html.j2")
    return page.render(facts=facts, style=Markup(style), style_hash=f"sha256-{digest}").lstrip()  # noqa: S704


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _moment(time: str) -> str:
    """A time of the spec's form for people; other text as it is."""
    return f"{time[:10]} {time[11:19]} UTC" if len(time) == 20 and time[10] == "T" and time.endswith("Z") else time


def _short(answers: tuple[Answer, ...], number: int) -> str:
    return answers[number].short


def place_report(path: str, *, force: bool) -> None:
    """Refuse a place for a report before anything is verified. Raises ``BadInput``."""
    if os.path.isdir(path):
        raise BadInput(f"{path}: is a directory", "Name a file with -o.")
    if not force and os.path.lexists(path):
        raise BadInput(f"{path}: exists and is kept", "Nothing is overwritten. --force replaces it.")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise BadInput(f"{path}: its directory does not exist", "Name another file with -o.")


def write_report(path: str, page: str, *, force: bool) -> None:
    """The whole page under its name, durable, or nothing. Raises ``BadInput``."""
    folder = os.path.dirname(path) or "."
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        if force:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # never over what came there meanwhile
            os.unlink(temporary)
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise BadInput(
            f"{path}: {error.strerror or 'cannot be written'}", "No report was left. Name another file with -o."
        ) from None
    finally:
        with suppress(OSError):
            os.unlink(temporary)
