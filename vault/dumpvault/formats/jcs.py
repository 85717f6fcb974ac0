"""JSON as the spec's section 2 has it: RFC 8785 when written, strict when read, exact types for every field."""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import UTC, datetime
from functools import cache
from typing import Any, NoReturn

from dumpvault.errors import Forged

__all__ = ["Fields", "b64decode", "b64encode", "decode", "encode", "from_time", "quantity", "to_time"]

MAX_DEPTH = 16
MAX_NUMBER = 2**31 - 1

_QUANTITY = re.compile(r"0x(0|[1-9a-f][0-9a-f]{0,15})")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
# Strings are skipped whole, so that brackets inside them do not count as nesting.
# Possessive, so that hostile strings cost neither memory nor a second scan.
_NESTING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)


def encode(value: Any) -> bytes:
    """The RFC 8785 form of ``value`` (objects with ASCII keys, arrays, strings, booleans, null, small integers)."""
    return _ENCODER.encode(value).encode()


def decode(data: bytes, name: str, limit: int) -> Any:
    """Parse one JSON object strictly (spec, section 2).

    ``name`` is the object's name for messages; ``limit`` its greatest size in bytes. Raises ``Forged``.
    """

    def refuse(why: str) -> NoReturn:
        raise Forged(f"{name}: {why}", "The object is not as any dumpvault writes it; restore it from a copy.")

    if len(data) > limit:
        refuse(f"{len(data)} bytes are more than the {limit} that the format allows")
    depth = 0
    # With no more brackets than levels, wherever they are, there is nothing to count.
    for token in _NESTING.finditer(data) if data.count(b"[") + data.count(b"{") > MAX_DEPTH else ():
        first = token.group()[0]
        depth += (first in b"[{") - (first in b"]}")
        if depth > MAX_DEPTH:
            refuse(f"nested deeper than {MAX_DEPTH} levels at byte {token.start()}")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                refuse(f"field {key!r} stands twice")
            found[key] = value
        return found

    def integer(text: str) -> int:
        if not text.isdigit() or len(text) > 10 or int(text) > MAX_NUMBER:
            refuse(f"{text[:24]} is not a number that the format knows")
        return int(text)

    def no_float(text: str) -> NoReturn:
        refuse(f"{text[:24]} is a fraction, an exponent or not a number")

    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_int=integer,
            parse_float=no_float,
            parse_constant=no_float,
        )
        if b"\\u" in data:
            # json accepts "\ud800"; a lone surrogate is no Unicode text and cannot be written back.
            encode(value)
    except UnicodeError:
        refuse("not UTF-8 text, or text with a lone surrogate")
    except json.JSONDecodeError as error:
        refuse(f"not JSON at character {error.pos}: {error.msg}")
    return value


def quantity(value: int) -> str:
    """An unsigned 64-bit integer as the spec writes it, so that no JSON reader rounds it."""
    if not 0 <= value < 2**64:
        raise ValueError(f"{value} does not fit 64 bits")
    return hex(value)


def b64encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def b64decode(text: str) -> bytes:
    """RFC 4648 base64 in its one canonical spelling; raises ``ValueError`` for any other."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if b64encode(data) != text:
        raise ValueError("not canonical base64")
    return data


def to_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_time(text: str) -> datetime:
    """A time as ``to_time`` writes it. Raises ``ValueError`` for no moment of the calendar."""
    return datetime.fromisoformat(text)


class Fields:
    """Reads the fields of one JSON object, each once and by its exact type, and refuses what is left over.

    Every reading method raises ``Forged`` naming the object and the field.
    """

    def __init__(self, value: Any, name: str) -> None:
        self.name = name
        if not isinstance(value, dict):
            self.refuse("is not a JSON object")
        self._left: dict[str, Any] = dict(value)

    def refuse(self, why: str) -> NoReturn:
        raise Forged(f"{self.name} {why}", "The object is not as any dumpvault writes it; restore it from a copy.")

    def take(self, field: str) -> Any:
        if field not in self._left:
            self.refuse(f"lacks the field {field!r}")
        return self._left.pop(field)

    def text(self, field: str, pattern: str = r".*", longest: int = 1 << 20) -> str:
        value = self.take(field)
        if not isinstance(value, str) or len(value) > longest or not _compiled(pattern).fullmatch(value):
            self.refuse(f"has a bad {field!r}: {str(value)[:60]!r}")
        return value

    def text_or_null(self, field: str) -> str | None:
        return None if self.is_null(field) else self.text(field)

    def number(self, field: str) -> int:
        value = self.take(field)
        if not isinstance(value, int) or isinstance(value, bool):
            self.refuse(f"has a bad {field!r}: {str(value)[:60]!r} is not a number")
        return value

    def exactly(self, field: str, expected: Any) -> None:
        value = self.take(field)
        if type(value) is not type(expected) or value != expected:
            self.refuse(f"has {field!r} {str(value)[:60]!r} where {expected!r} must stand")

    def format(self, known: int) -> None:
        version = self.number("format")
        if version != known:
            raise Forged(
                f"{self.name} has format {version}; this program reads format {known}",
                "Nothing was changed. Use a dumpvault that knows this format.",
            )

    def boolean(self, field: str) -> bool:
        value = self.take(field)
        if not isinstance(value, bool):
            self.refuse(f"has a bad {field!r}: not true or false")
        return value

    def quantity(self, field: str) -> int:
        return int(self.text(field, _QUANTITY.pattern), 16)

    def quantity_or_null(self, field: str) -> int | None:
        return None if self.is_null(field) else self.quantity(field)

    def digest(self, field: str) -> str:
        return self.text(field, _DIGEST.pattern)

    def digests(self, field: str, longest: int, shortest: int = 0) -> tuple[str, ...]:
        values = self.array(field, longest, shortest)
        if not all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in values):
            self.refuse(f"has a bad {field!r}: not an array of digests")
        return tuple(values)

    def digest_or_null(self, field: str) -> str | None:
        return None if self.is_null(field) else self.digest(field)

    def time(self, field: str) -> str:
        value = self.text(field, _TIME.pattern)
        try:
            from_time(value)
        except ValueError:
            self.refuse(f"has a bad {field!r}: {value} is no moment of the calendar")
        return value

    def base64(self, field: str) -> bytes:
        try:
            return b64decode(self.text(field))
        except ValueError:
            self.refuse(f"has a bad {field!r}: not base64 in its canonical form")

    def object(self, field: str) -> Fields:
        return Fields(self.take(field), f"{self.name}: {field}")

    def array(self, field: str, longest: int, shortest: int = 0) -> list[Any]:
        value = self.take(field)
        if not isinstance(value, list) or not shortest <= len(value) <= longest:
            self.refuse(f"has a bad {field!r}: not an array of {shortest} to {longest}")
        return value

    def objects(self, field: str, longest: int, shortest: int = 0) -> list[Fields]:
        items = self.array(field, longest, shortest)
        return [Fields(item, f"{self.name}: {field}[{i}]") for i, item in enumerate(items)]

    def has(self, field: str) -> bool:
        """Whether a field is there that the spec allows to be absent."""
        return field in self._left

    def objects_or_null(self, field: str, longest: int, shortest: int = 0) -> list[Fields] | None:
        return None if self.is_null(field) else self.objects(field, longest, shortest)

    def done(self) -> None:
        """Refuse fields that nobody asked for."""
        if self._left:
            self.refuse(f"has a field that the format does not know: {sorted(self._left)[0]!r}")

    def is_null(self, field: str) -> bool:
        """Whether the field is null, which then is read."""
        if field in self._left and self._left[field] is None:
            del self._left[field]
            return True
        return False
