"""PKCS#11 URIs (RFC 7512), and the states of a token in which no PIN may be tried."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.errors import NoKey
from dumpvault.formats.pkcs11_uri import Pkcs11Uri

text = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)
uris = st.builds(
    Pkcs11Uri, token=text, serial=st.just("") | text, object=text, id=st.binary(max_size=8), module=text.map("/".__add__),
    pin_source=st.just("") | text.map("/".__add__),
)  # fmt: skip


@given(uris)
def test_what_is_written_is_read_back(uri: Pkcs11Uri) -> None:
    """Any name survives: spaces, semicolons, percent signs, letters of any script."""
    if "pin-value" not in str(uri):
        assert Pkcs11Uri.parse(str(uri), "test") == uri


@given(st.text(max_size=60))
def test_anything_else_is_bad_input_or_a_uri(junk: str) -> None:
    """Never another error."""
    from dumpvault.errors import BadInput

    for start in ("", "pkcs11:", "pkcs11:token=a;object=b?module-path=/m&"):
        try:
            Pkcs11Uri.parse(start + junk, "test")
        except BadInput as error:
            assert error.message.startswith("test:")


def test_the_rfc_s_own_forms() -> None:
    """Percent-encoded ids and spaces, and a pin-source as a file URI."""
    uri = Pkcs11Uri.parse(
        "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;id=%69%95%3E;type=private"
        "?module-path=/usr/lib/x.so&pin-source=file:/etc/token_pin", "test",
    )  # fmt: skip
    assert uri.token == "The Software PKCS#11 Softtoken"
    assert (uri.id, uri.pin_source, uri.module) == (b"\x69\x95\x3e", "/etc/token_pin", "/usr/lib/x.so")


@pytest.mark.parametrize(("flag", "attended", "told"), [
    ("USER_PIN_LOCKED", True, "is locked"), ("USER_PIN_LOCKED", False, "is locked"),
    ("USER_PIN_FINAL_TRY", True, "one more wrong PIN"), ("USER_PIN_FINAL_TRY", False, "one more wrong PIN"),
    ("USER_PIN_COUNT_LOW", False, "was not tried"), ("USER_PIN_COUNT_LOW", True, ""), ("RNG", False, ""),
])  # fmt: skip
def test_states_in_which_no_pin_is_tried(flag: str, attended: bool, told: str) -> None:
    """The decision alone, by the token's flags: SoftHSM never locks, so two of them are seen here and nowhere else."""
    pkcs11 = pytest.importorskip("pkcs11", reason="NOT TESTED: no python-pkcs11 here")
    from dumpvault.stages import token

    uri = Pkcs11Uri.parse("pkcs11:token=a;object=b?module-path=/m", "test")
    shown = SimpleNamespace(label="a", flags=getattr(pkcs11.TokenFlag, flag))
    if told:
        with pytest.raises(NoKey, match=told):
            token._check_pin_state(shown, uri, attended=attended)
    else:
        token._check_pin_state(shown, uri, attended=attended)
