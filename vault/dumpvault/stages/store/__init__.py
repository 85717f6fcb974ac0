"""Places for objects. ``contract`` says what every store promises; one test suite holds them all to it."""

from __future__ import annotations

from dumpvault.errors import Usage
from dumpvault.model import Store

__all__ = ["open_store"]


def open_store(url: str, *, create: bool = False) -> Store:
    """The store that ``url`` names: a directory's path or ``file://`` URL. Raises ``Usage`` or ``StoreFailed``."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "file":
        raise Usage(f"{url}: stores of kind {scheme!r} are not known", "Use a directory, as a path or file:///PATH.")
    from dumpvault.stages.store.local import LocalStore

    return LocalStore(rest if separator else url, create=create)
