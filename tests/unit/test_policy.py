"""Policy files: what is read, and how what is not good is named: file, line, rule and what is allowed."""

from __future__ import annotations

import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.errors import BadInput
from dumpvault.formats.policy import Policy
from dumpvault.formats.rules import RULES
from support.enforcement import ROOT, SHIPPED, changed, everything, shipped_text

BASELINE = shipped_text("baseline")
#: The first shipped policy in format 1, as it stands in vaults' headers.
FORMAT_1 = (ROOT / "tests" / "support" / "baseline-format-1.toml").read_text()
RULE_NAMES = [rule.name for rule in RULES if rule.table]
KEYS = [
    (number, line.partition(" = ")[0])
    for number, line in enumerate(BASELINE.split("\n"), 1)
    if re.match(r"\w+ = ", line)
]


def refused(text: str) -> BadInput:
    with pytest.raises(BadInput) as error:
        Policy.parse("ours", text, "policies/ours.toml")
    assert error.value.message.startswith("policy ours (policies/ours.toml)")
    assert error.value.hint
    return error.value


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_policies(name: str) -> None:
    """They parse, say every rule in the table's order, and name themselves."""
    text = shipped_text(name)
    policy = Policy.parse(name, text)
    assert policy.format == 2
    written = [
        f"{table}.{key}" for table, rules in tomllib.loads(text).items() if isinstance(rules, dict) for key in rules
    ]
    assert written == RULE_NAMES
    assert text.startswith(f"# {name}:")


def test_format_1_stays_readable() -> None:
    """It says what it said; what it did not know demands nothing, and none of its rules is lost."""
    policy = Policy.parse("baseline", FORMAT_1)
    now = Policy.parse("baseline", BASELINE)
    assert policy.format == 1
    assert {r: policy[r] for r in RULE_NAMES} == {r: now[r] for r in RULE_NAMES}
    assert "quorum" in refused(FORMAT_1 + "[quorum]\nneeded = 2\n").message
    refused(FORMAT_1.replace("format = 1", "format = 2"))


@pytest.mark.parametrize(("number", "key"), KEYS, ids=[f"{n}-{k}" for n, k in KEYS])
def test_the_line_of_every_rule(number: int, key: str) -> None:
    """A bad value, an unknown key in its place, and a rule that is missing are named with file, line and rule."""
    lines = BASELINE.split("\n")
    value = lines[number - 1].partition(" = ")[2]
    bad = "2.5" if key != "description" else '" "'
    assert (
        f", line {number}: "
        in (error := refused("\n".join([*lines[: number - 1], f"{key} = {bad}", *lines[number:]]))).message
    )
    assert key in error.message
    assert "allowed: " in error.message
    typo = refused("\n".join([*lines[: number - 1], f"{key}_ = {value}", *lines[number:]]))
    assert f"line {number}: unknown rule '{key}_'" in typo.message or "is missing" in typo.message
    missing = refused("\n".join([*lines[: number - 1], *lines[number:]]))
    assert f"{key} is missing" in missing.message


@pytest.mark.parametrize("rule", RULE_NAMES)
@pytest.mark.parametrize("empty", ["[]", '""', "{}"])
def test_an_empty_rule_never_passes(rule: str, empty: str) -> None:
    error = refused(changed(BASELINE, {rule: empty}))
    assert rule in error.message
    assert "an empty rule never passes" in error.hint


@pytest.mark.parametrize(("changes", "words"), [
    ({"recipients.kems": '["xwing", "rsa"]'}, '"mlkem1024-p384"'), ({"recipients.kems": '["xwing", "xwing"]'}, "one or more"),
    ({"recipients.minimum": "129"}, "1 to 128"), ({"recipients.minimum": "true"}, "1 to 128"),
    ({"recipients.minimum": "-1"}, "1 to 128"),
    ({"recipients.groups": "{ a = [] }"}, "a table of lists"), ({"recipients.groups": '{ a = ["b c"] }'}, "a table of lists"),
    ({"recipients.groups": '["alice"]'}, "a table of lists"), ({"quorum.needed": "1"}, "2 to 128"),
    ({"quorum.of": "3"}, "without quorum.needed"), ({"quorum.custodians": '["a", "b"]'}, "without quorum.needed"),
    ({"quorum.needed": "3", "quorum.of": "2"}, "less than quorum.needed, 3"),
    ({"quorum.needed": "3", "quorum.custodians": '["a", "b"]'}, "fewer than quorum.needed, 3"),
    ({"signatures.kinds": '["rsa"]'}, '"mldsa87"'), ({"signatures.demanded": '"ed25519"'}, "a list of one or more"),
    ({"regions.compress": '"zstd:20"'}, "from 1 to 19"), ({"regions.compress": '"zstd:"'}, "from 1 to 19"),
    ({"regions.compress": '"zstd:٣"'}, "from 1 to 19"), ({"store.mount_point": '"mnt"'}, "an absolute path"),
    ({"store.filesystem": '"my disk"'}, "UUID"), ({"store.kinds": '["tape"]'}, '"s3"'),
    ({"retrieval.ticket": '"  "'}, "a shell pattern"),
    ({"retention.keep_days": "9", "retention.destroy_days": "8"}, "less than retention.keep_days, 9"),
    ({"retention.lock": '"legal"'}, '"compliance"'), ({"timestamps.demanded": '"roughtime"'}, '"rfc3161"'),
    ({"format": "0"}, "allowed: 1, 2"), ({"format": '"2"'}, "allowed: 1, 2"), ({"format": "true"}, "allowed: 1, 2"),
])  # fmt: skip
def test_what_is_allowed_is_said(changes: dict[str, str], words: str) -> None:
    error = refused(changed(BASELINE, changes))
    assert words in error.message
    assert ", line " in error.message


@pytest.mark.parametrize(("text", "line"), [
    ("format = 2\nrecipients.kemz = 3\n", 2), ("format = 2\nrecipients = 7\n", 2), ("format = 2\n# x\n[recipient]\n", 3),
    ("format = 2\n\n  [ recipients ] # who\n  kemz = 1\n", 4), ('format = 2\n"quorum" = 1\n', 2),
    ("format = 2\n[quorum.needed]\nx = 1\n[recipients]\nkems = 1\nkemz = 2\n", 6),
])  # fmt: skip
def test_lines_of_unusual_spellings(text: str, line: int) -> None:
    assert f", line {line}: " in refused(text).message


@pytest.mark.parametrize("text", [
    "[recipients", "a = " + "[" * 5000, "# " + "x" * 70000, "\x00", "format = 2\nformat = 2\n",
    "format = 2\n[recipients]\n[recipients]\n",
    "a = 1e400000", "a = 9999-99-99", "\ud800", "a = " + "9" * 5000, '"\\ud800" = 1',
])  # fmt: skip
def test_hostile_toml(text: str) -> None:
    """Not TOML, too long, too deep, numbers that cannot be: refused in words."""
    refused(text)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes anything but a policy or an error."""
    for whole in (text, BASELINE + text, text + BASELINE, BASELINE.replace('"none"', text, 1)):
        try:
            Policy.parse("x", whole, "x.toml")
        except BadInput as error:
            assert error.message.startswith("policy x")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8).map(repr) | st.sampled_from(['"none"', '"any"', "1", "2"]),
    lambda inner: st.lists(inner, max_size=3), max_leaves=5,
)  # fmt: skip


@given(st.sampled_from(RULE_NAMES), _VALUES)
def test_any_value_is_read_or_refused_by_name(rule: str, value: object) -> None:
    """What is read back from a policy is what was written; what is refused is named."""
    text = changed(BASELINE, {rule: str(value).lower().replace("'", '"') if value is not None else "1979-05-27"})
    try:
        policy = Policy.parse("x", text, "x.toml")
    except BadInput as error:
        assert rule.partition(".")[2] in error.message or "not TOML" in error.message or "quorum." in error.message
    else:
        assert tomllib.loads(text)["format"] == policy.format


def test_the_first_texts_of_format_1() -> None:
    """They had no rules of release and reading back: all of these are there, or none."""
    first = FORMAT_1.partition("[release]")[0].replace('read_back = "none"\n', "")
    assert Policy.parse("baseline", first).rules == Policy.parse("baseline", FORMAT_1).rules
    assert "read_back is missing" in refused(FORMAT_1.replace('read_back = "none"\n', "")).message
    assert "undescribed is missing" in refused(FORMAT_1.replace('undescribed = "release"\n', "")).message


def test_the_first_texts_of_format_2() -> None:
    """They had no rules of custody: both are there, or neither, and what is not there demands nothing."""
    first = shipped_text("two-person").partition("[custody]")[0]
    policy = Policy.parse("x", first)
    assert (policy["custody.required"], policy["custody.anchor"]) == (False, None)
    assert "custody.anchor is missing" in refused(first + "[custody]\nrequired = true\n").message
    assert "custody.required is missing" in refused(first + '[custody]\nanchor = "none"\n').message


def test_a_rehearsal_works_as_the_policy_does() -> None:
    """Bounds, read-back and release are the policy's; of keys and stores it asks nothing."""
    policy = everything()
    trial = Policy.parse("rehearsal", policy.rehearsal())
    for field in (
        "region_size",
        "commit_bytes",
        "commit_seconds",
        "read_back",
        "release",
        "hold_undescribed",
        "release_unreadable",
    ):
        assert getattr(trial, field) == getattr(policy, field), field
    assert trial["recipients.minimum"] == 1
    assert trial["quorum.needed"] is None
