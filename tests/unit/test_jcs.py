"""JSON of the spec's section 2: what is written, what is refused, and the exact types of fields."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.errors import Forged
from dumpvault.formats import jcs
from kit import limited

LIMIT = 1 << 20


def decode(data: bytes) -> object:
    return jcs.decode(data, "object", LIMIT)


def test_keys_are_sorted_and_nothing_is_padded() -> None:
    """Keys come sorted at every level, without white space."""
    value = {"b": [1, {"z": None, "a": True}], "a": False, "B": ""}
    assert jcs.encode(value) == b'{"B":"","a":false,"b":[1,{"a":true,"z":null}]}'


def test_escapes_are_the_minimal_ones_of_rfc_8785() -> None:
    """RFC 8785 section 3.2.2.2: two-character escapes where they exist, lower-case hex for other controls, no more."""
    text = "".join(map(chr, range(0x20))) + '"\\/\x7f\u20ac\u2028'
    expected = (
        '"\\u0000\\u0001\\u0002\\u0003\\u0004\\u0005\\u0006\\u0007\\b\\t\\n\\u000b\\f\\r\\u000e\\u000f'
        "\\u0010\\u0011\\u0012\\u0013\\u0014\\u0015\\u0016\\u0017\\u0018\\u0019\\u001a\\u001b\\u001c\\u001d\\u001e\\u001f"
        '\\"\\\\/\x7f\u20ac\u2028"'
    )
    assert jcs.encode(text) == expected.encode()


def test_characters_beyond_the_bmp_are_written_as_utf8() -> None:
    """A character outside the BMP is four bytes, not two escaped surrogates; both spellings read as the same text."""
    assert jcs.encode("\U0001f512") == b'"\xf0\x9f\x94\x92"'
    assert decode(b'"\\ud83d\\udd12"') == decode(b'"\xf0\x9f\x94\x92"') == "\U0001f512"


def test_rfc_8785_sample() -> None:
    """The string and literals of RFC 8785 section 3.2.2 come out as its section 3.2.3 gives them."""
    value = {"string": '\u20ac$\u000f\nA\'B"\\\\"/', "literals": [None, True, False]}
    expected = '{"literals":[null,true,false],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    assert jcs.encode(value) == expected.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_number_that_json_lacks_is_written(value: float) -> None:
    """NaN and the infinities are never written."""
    with pytest.raises(ValueError, match="JSON"):
        jcs.encode(value)


values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**31 - 1) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="ascii"), max_size=5), inner),
    max_leaves=12,
)  # fmt: skip


@given(values)
def test_what_is_written_is_read_back(value: object) -> None:
    """decode(encode(x)) == x, and the form is stable: encoding it again gives the same bytes."""
    data = jcs.encode(value)
    assert decode(data) == value
    assert jcs.encode(decode(data)) == data


@given(st.binary(max_size=64) | st.text('{}[]",:0eE.-+ntf\\u', max_size=24).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Whatever the bytes, decode returns a value that can be written, or raises Forged naming the object."""
    try:
        value = decode(data)
    except Forged as error:
        assert error.message.startswith("object: ")
    else:
        jcs.encode(value)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'{"x":{"b":0,"b":0}}',
        b"1.0",
        b"0.5",
        b"1e3",
        b"1E3",
        b"1e400",
        b"0e0",
        b"-1",
        b"-0",
        b"-1.5",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"2147483648",
        b"99999999999999999999",
        b"9" * 5000,
        b"01",
        b"+1",
        b"0x10",
        b"'a'",
        b"[1,]",
        b'{"a":1,}',
        b"{} {}",
        b"{}x",
        b"",
        b" ",
        b"tru",
        b'"a\nb"',
        b'"\\x41"',
        b'"\\u12"',
        b'"open',
        b"\xef\xbb\xbf{}",
        b'"\xff"',
        b'"\xc0\x80"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'{"\\udfff":1}',
        b"{}\x00",
    ],
    ids=repr,
)
def test_loose_json_is_refused(data: bytes) -> None:
    """Section 2: duplicate keys, fractions, exponents, signs, big numbers, bad UTF-8, lone surrogates: all refused."""
    with pytest.raises(Forged, match=r"^object: "):
        decode(data)


@pytest.mark.parametrize(("data", "value"), [(b"0", 0), (b"2147483647", 2**31 - 1), (b" [ 1 , 2 ]\n", [1, 2])])
def test_the_greatest_number_and_white_space_are_read(data: bytes, value: object) -> None:
    """Numbers up to 2^31 - 1 are read, and readers of signed objects do not ask for the canonical form."""
    assert decode(data) == value


@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting_ends_at_sixteen(left: str, right: str) -> None:
    """16 levels are read, 17 and 200 are refused, whatever they are made of."""
    fits = 16 // (left.count("[") + left.count("{"))
    inner = "1" if ":" in left else ""
    decode((left * fits + inner + right * fits).encode())
    for levels in (fits + 1, 200, 100_000):
        with pytest.raises(Forged, match="nested deeper than 16"):
            decode((left * levels + inner + right * levels).encode())


def test_nesting_is_refused_before_it_is_parsed() -> None:
    """Depth is checked over unbalanced brackets too, so no recursion is ever entered."""
    with pytest.raises(Forged, match="nested deeper than 16 levels at byte 16"):
        decode(b"[" * 500_000)


@pytest.mark.parametrize("text", ["[" * 200, '"' + "{" * 200, "\\" + "[" * 40, '\\"' + "[" * 40, "]" * 40 + "[" * 40])
def test_brackets_inside_strings_are_not_nesting(text: str) -> None:
    """Brackets in a string do not count, however its quotes and backslashes are escaped."""
    assert decode(jcs.encode([text, {text.strip("[]{}") or "k": text}])) is not None


def test_a_string_that_ends_early_hides_no_nesting() -> None:
    """Brackets between two strings count even if the strings hold escaped quotes."""
    with pytest.raises(Forged, match="nested deeper"):
        decode(b'["\\\\",' + b"[" * 40 + b'"\\""' + b"]" * 41)


def test_size_limit_is_exact() -> None:
    """An object of exactly the limit is read, one byte more is refused before it is parsed."""
    data = b'"' + b"a" * 98 + b'"'
    assert jcs.decode(data, "object", 100) == "a" * 98
    with pytest.raises(Forged, match="101 bytes are more than the 100"):
        jcs.decode(data + b"\xff", "object", 100)


def test_a_long_string_needs_no_more_than_a_few_times_its_size() -> None:
    """An object of the greatest size, one long string, is read in far less memory than a crash kernel has."""
    done = limited(
        "from dumpvault.formats import jcs\n"
        "data = b'\"' + b'a' * ((8 << 20) - 2) + b'\"'\n"
        "assert len(jcs.decode(data, 'object', 8 << 20)) == (8 << 20) - 2"
    )
    assert done.returncode == 0, done.stderr[-300:]


def test_reading_takes_steps_in_proportion_to_the_size() -> None:
    """An unsigned object of 256 KiB that never closes its string is refused within the CPU time of a linear scan."""
    done = limited(
        "from dumpvault.formats import jcs\n"
        "from dumpvault.errors import Forged\n"
        "for end in (b'', b'\\\\'):\n"
        "    try: jcs.decode(b'\"' + b'\\\\\"' * (1 << 17) + end, 'object', 8 << 20)\n"
        "    except Forged: continue\n"
        "    raise SystemExit(1)\n"
        "raise SystemExit(7)",
        cpu=2,
        memory=4 << 30,
    )
    assert done.returncode == 7, done.returncode


def fields(**value: object) -> jcs.Fields:
    return jcs.Fields(value, "object")


def test_fields_are_each_read_once() -> None:
    """A missing field, a field read twice and a field nobody asked for are refused by name."""
    with pytest.raises(Forged, match="object lacks the field 'b'"):
        fields(a=1).number("b")
    taken = fields(a=1)
    taken.number("a")
    taken.done()
    with pytest.raises(Forged, match="lacks the field 'a'"):
        taken.number("a")
    with pytest.raises(Forged, match="does not know: 'a'"):
        fields(a=1, b=2).done()


@pytest.mark.parametrize("value", [None, 1, True, "x", [], [{}]], ids=repr)
def test_only_an_object_has_fields(value: object) -> None:
    """Anything but a JSON object is refused where one must stand."""
    with pytest.raises(Forged, match="is not a JSON object"):
        jcs.Fields(value, "object")
    with pytest.raises(Forged, match="object: f is not a JSON object"):
        fields(f=value).object("f")


READERS = {
    "text": "abc",
    "number": 7,
    "boolean": False,
    "quantity": "0x10",
    "digest": "0f" * 32,
    "time": "2026-11-23T14:41:00Z",
    "base64": "AAE=",
    "object": {"a": 1},
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("wrong", [None, 1, True, 0, "~", [], ["a"], {}, "", {"x": []}], ids=repr)
def test_each_reader_takes_its_own_type_only(reader: str, wrong: object) -> None:
    """A value of another JSON type, or a string of another form, is refused; its own is read."""
    getattr(fields(f=READERS[reader]), reader)("f")
    fits = type(wrong) is type(READERS[reader])
    if isinstance(wrong, str):  # of the strings here, "" is text and base64, "~" is text
        fits = reader == "text" or (reader == "base64" and wrong == "")
    if fits:
        getattr(fields(f=wrong), reader)("f")
        return
    with pytest.raises(Forged, match=r"^object"):
        getattr(fields(f=wrong), reader)("f")


@pytest.mark.parametrize("reader", ["text_or_null", "quantity_or_null", "digest_or_null"])
def test_null_is_read_where_it_may_stand(reader: str) -> None:
    """Nullable fields read null as None, still must be there, and take no other type."""
    taken = fields(f=None)
    assert getattr(taken, reader)("f") is None
    taken.done()
    for wrong in (fields(), fields(f=0), fields(f=False)):
        with pytest.raises(Forged):
            getattr(wrong, reader)("f")


@pytest.mark.parametrize("number", [0, 1, 10, 4096, 2**63, 2**64 - 1])
def test_quantities_are_read_as_written(number: int) -> None:
    """Quantities up to 2^64 - 1 pass through their one spelling."""
    assert fields(f=jcs.quantity(number)).quantity("f") == number


@pytest.mark.parametrize("number", [-1, 2**64])
def test_no_quantity_beyond_64_bits_is_written(number: int) -> None:
    """What does not fit 64 bits is an error of the writer."""
    with pytest.raises(ValueError, match="64 bits"):
        jcs.quantity(number)


@pytest.mark.parametrize(
    "text",
    ["0x", "0x00", "0x01", "0X1", "0xA", "0xg", "10", "x1", "-0x1", " 0x1", "0x1 ", "0x1\n", "0x1_0", "0x" + "1" * 17, "0x１"],
)  # fmt: skip
def test_other_spellings_of_a_quantity_are_refused(text: str) -> None:
    """Only 0x and lower-case digits without leading zeros, 16 at most."""
    with pytest.raises(Forged):
        fields(f=text).quantity("f")


@pytest.mark.parametrize("text", ["0f" * 31, "0f" * 33, "0F" * 32, "0g" * 32, "0f" * 32 + "\n", ""])
def test_other_spellings_of_a_digest_are_refused(text: str) -> None:
    """A digest is 64 lower-case hexadecimal digits and nothing else."""
    with pytest.raises(Forged):
        fields(f=text).digest("f")


@pytest.mark.parametrize(
    "text",
    [
        "2026-13-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:60Z",
        "0000-01-01T00:00:00Z",
        "2026-1-1T00:00:00Z",
        "2026-01-01 00:00:00Z",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00+00:00",
        "2026-01-01T00:00:00.0Z",
        "2026-01-01T00:00:00Z\n",
        "2026-01-01T00:00:00z",
        "٢٠٢٦-01-01T00:00:00Z",
        "2026-01-0１T00:00:00Z",
    ],
)
def test_other_spellings_of_a_time_are_refused(text: str) -> None:
    """A time is YYYY-MM-DDThh:mm:ssZ in ASCII digits, and a moment of the calendar."""
    with pytest.raises(Forged):
        fields(f=text).time("f")


def test_times_are_written_in_utc() -> None:
    """A moment of any zone is written in UTC, and read back as the same moment."""
    moment = datetime(2026, 11, 23, 1, 2, 3, tzinfo=timezone(timedelta(hours=5)))
    assert jcs.to_time(moment) == "2026-11-22T20:02:03Z"
    assert jcs.from_time(jcs.to_time(moment)) == moment
    assert jcs.from_time("2026-11-22T20:02:03Z").tzinfo is UTC


@given(st.binary(max_size=40))
def test_base64_is_read_back(data: bytes) -> None:
    """What is written as base64 is read back."""
    assert fields(f=jcs.b64encode(data)).base64("f") == data


@pytest.mark.parametrize(
    "text", ["A", "AA", "AAE", "AAF=", "AB==", "AAE=\n", "AA E=", "AAE==", "A-_=", "=", "AAE=AAE=", "é", "AAA=A"]
)
def test_other_spellings_of_base64_are_refused(text: str) -> None:
    """No missing padding, no set unused bits, no white space, no other alphabet, nothing after the padding."""
    with pytest.raises(Forged):
        fields(f=text).base64("f")


def test_exactly_compares_type_and_value() -> None:
    """True is not 1 and 1 is not "1" where an exact value must stand."""
    fields(f=1).exactly("f", 1)
    fields(f=None).exactly("f", None)
    for value in (True, "1", 2, None, [1]):
        with pytest.raises(Forged):
            fields(f=value).exactly("f", 1)


def test_an_unknown_format_is_refused_with_its_number() -> None:
    """Section 16: a reader refuses a number it does not know, and says which."""
    fields(format=1).format(1)
    with pytest.raises(Forged, match="has format 2; this program reads format 1"):
        fields(format=2).format(1)
    with pytest.raises(Forged):
        fields(format=True).format(1)


def test_arrays_keep_to_their_bounds() -> None:
    """Too few and too many entries are refused, and an entry's name says where it stands."""
    assert fields(f=[1, 2]).array("f", 2, 2) == [1, 2]
    for value in ([], [1, 2, 3], "ab", {"0": 1}):
        with pytest.raises(Forged):
            fields(f=value).array("f", 2, 1)
    with pytest.raises(Forged, match=r"object: f\[1\] lacks the field 'a'"):
        fields(f=[{"a": 1}, {}]).objects("f", 2)[1].number("a")


def test_text_keeps_to_pattern_and_length() -> None:
    """A pattern must match the whole string, line ends included."""
    assert fields(f="elf").text("f", "elf|opaque") == "elf"
    for value in ("elf\n", "elfopaque", "self", "x" * ((1 << 20) + 1)):
        with pytest.raises(Forged):
            fields(f=value).text("f", "elf|opaque" if len(value) < 20 else ".*")


def test_json_module_agrees_on_what_is_written() -> None:
    """Another reader sees the same value in what is written."""
    value = {"a": ["\u2028", "\x00", 0, None, True, {"b": "\U0001f512"}]}
    assert json.loads(jcs.encode(value)) == value
