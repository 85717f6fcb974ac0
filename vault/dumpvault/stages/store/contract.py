"""What every store promises. The order of durability (docs/spec/vault.md and DESIGN) rests on these sentences alone.

``create(name)``
    Begins an object. Nothing is visible under ``name`` until ``Upload.finish`` returns; from then on the whole object
    is there, *durable*: it survives the loss of power, its name included, on the whole path to it. ``finish`` raises
    ``ObjectExists`` if another object with *other* bytes has the name; with identical bytes it returns as if it had
    written them, having made them durable. A failed or aborted upload leaves nothing under ``name``, and a failed
    upload is never retried by the store.
``put(name, data)``
    The same in one call.
``get(name, offset, length)``
    Bytes of an object: fewer than ``length`` only at its end. Raises ``ObjectMissing``.
``size(name)``
    Bytes of an object, or None if there is none. The only way to ask whether something exists.
``children(prefix)``
    Names directly below ``prefix``, each once, in no order: objects and the first components of deeper names.
``list(prefix)``
    Full names of all objects below ``prefix``, in no order. May lag behind ``create``; nothing decides by it.
``delete(name)``
    For key objects (``…/keybag/…``, ``…/keys/…``) only; anything else is refused with ``ValueError``. Gone, durably,
    on return; no error if it was not there.
``settle(name)``
    For objects that another writer may have left visible but not durable: on return the object and its name are
    durable, and the next ``get`` asks the medium, not a cache, as far as that can be had. Raises ``ObjectMissing``.
``reserve(length)``, ``unreserve()``
    Keep ``length`` bytes free for later puts, and give them up; a store that cannot, does nothing.
``volatile``
    Why what is durable here would not survive the loss of power (a tmpfs, say); empty if it would.

All raise ``StoreFailed`` when the medium or the connection fails. Names are components of
``[A-Za-z0-9_][A-Za-z0-9._-]*`` joined by ``/``; others are refused with ``ValueError``.
"""

from __future__ import annotations

import re

from dumpvault.errors import Incomplete, StoreFailed

__all__ = ["ObjectExists", "ObjectMissing", "StoreFull", "check_deletable", "check_name"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_DELETABLE = re.compile(r"(.*/)?(keybag|keys/\d+)/[^/]+")


class ObjectExists(StoreFailed):
    """The name is taken by other bytes."""


class StoreFull(StoreFailed):
    """No room. Unlike any other failure it leaves the medium sound: what is there can still be signed off."""


class ObjectMissing(Incomplete):
    """There is no such object."""


def check_name(name: str) -> None:
    """Raise ``ValueError`` unless ``name`` is an object's name."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no object name")


def check_deletable(name: str) -> None:
    """Raise ``ValueError`` unless ``name`` is that of a key object."""
    check_name(name)
    if not _DELETABLE.fullmatch(name):
        raise ValueError(f"{name!r} is no key object; nothing else is ever deleted")
