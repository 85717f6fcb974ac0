"""kdump-utils' ``kdump.conf`` (kdump.conf(5)): one directive a line, a word and its value; each at most once.

It belongs to the administrator. Two directives are ours, between marks; what they replace is kept as comments.
"""

from __future__ import annotations

import re

__all__ = ["is_merged", "merge", "settings", "unmerge"]

_BEGIN, _END, _KEPT = "# dumpvault integrate: begin", "# dumpvault integrate: end", "#kept by dumpvault: "
_COLLECTOR = "/usr/sbin/dumpvault-collector"
_MODULE = "--add zz-dumpvault"


def merge(text: str) -> str:
    """``text`` with our two directives. The same again for its own result."""
    kept, arguments = [], ""
    for line in unmerge(text).splitlines(keepends=True):
        word, *rest = line.split(None, 1)[:2] or [""]
        if word == "dracut_args":
            arguments = f"{rest[0].strip()} " if rest else ""
        kept.append(f"{_KEPT}{line}" if word in ("core_collector", "dracut_args") else line)
    body = "".join(kept)
    body += "" if not body or body.endswith("\n") else "\n"
    return f"{body}{_BEGIN}\ncore_collector {_COLLECTOR}\ndracut_args {arguments}{_MODULE}\n{_END}\n"


def unmerge(text: str) -> str:
    """``text`` without our directives, and with what they replaced."""
    text = re.sub(rf"^{_BEGIN}\n(?:.*\n)*?{_END}\n?", "", text, flags=re.MULTILINE)
    return re.sub(rf"^{_KEPT}", "", text, flags=re.MULTILINE)


def is_merged(text: str) -> bool:
    return _BEGIN in text.splitlines()


def settings(text: str) -> dict[str, str]:
    """The administrator's directives and their values."""
    lines = (line.split(None, 1) for line in unmerge(text).splitlines() if not line.lstrip().startswith("#"))
    return {parts[0]: parts[1].strip() for parts in lines if len(parts) == 2}
