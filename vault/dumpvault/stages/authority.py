"""Ask a timestamp authority over HTTP (RFC 3161, section 3.4): bounded in size and time, no proxies, no redirects."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from dumpvault.errors import Usage, VaultError
from dumpvault.formats.timestamp import LIMIT

__all__ = ["ask"]

_UNCHANGED = "Nothing was stored. Try again later, or name another authority with --tsa."


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def ask(url: str, query: bytes, seconds: float = 30) -> bytes:
    """The authority's reply to ``query``, unchecked. Raises ``Usage`` for a bad URL, ``VaultError`` where none comes."""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise Usage(f"--tsa: {url!r} is no http or https URL", "Such as https://tsa.example/tsr.")
    headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
    end = time.monotonic() + seconds
    try:
        asked = urllib.request.Request(url, query, headers)  # noqa: S310 - the scheme was checked
        with opener.open(asked, timeout=seconds) as response:
            kind = response.headers.get_content_type()
            if kind != "application/timestamp-reply":
                raise VaultError(f"{url}: answered with {kind}, not with a timestamp", _UNCHANGED)
            reply = b""
            while part := response.read1(LIMIT):
                reply += part
                if len(reply) > LIMIT:
                    raise VaultError(f"{url}: more than {LIMIT} bytes, which is no timestamp", _UNCHANGED)
                if time.monotonic() > end:
                    raise VaultError(f"{url}: no whole answer within {seconds:g} seconds", _UNCHANGED)
            return reply
    except urllib.error.HTTPError as error:
        moved = " to another address, which is not followed" if 300 <= error.code < 400 else ""
        raise VaultError(f"{url}: HTTP {error.code}{moved}", _UNCHANGED) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise VaultError(f"{url}: no answer: {getattr(error, 'reason', None) or error}", _UNCHANGED) from None
