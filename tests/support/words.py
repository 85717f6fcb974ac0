"""What every message must be, whatever went wrong."""

from __future__ import annotations

from support.command import Ran


def clean(ran: Ran) -> str:
    """All that was printed, which never holds a traceback or an internal error."""
    text = f"{ran.out}\n{ran.err}"
    assert "Traceback" not in text, text
    assert "internal error" not in text, text
    return text
