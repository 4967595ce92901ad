"""Upstream's text made fit to keep."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.evidence import clean_text, evidence_of, is_echoed, redacted, storable_json
from poller.core.model import NO_ANSWER, Kind, Report, Secret

ANY_TEXT = st.text(st.characters(codec=None), max_size=300)
"""All code points, lone surrogates too."""


@given(ANY_TEXT, st.integers(0, 50))
def test_cleaned_text_is_short_printable_and_encodable(text: str, limit: int) -> None:
    cleaned = clean_text(text, limit)
    assert len(cleaned) <= limit
    cleaned.encode()
    assert not any(ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0 for letter in cleaned)
    assert not set(cleaned) & set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c\ufeff")
    assert clean_text(cleaned, limit) == cleaned


def test_ordinary_text_stays_as_it_is_and_lines_become_one() -> None:
    assert clean_text("Größe 图像 👩‍👩‍👧 ok", 100) == "Größe 图像 👩‍👩‍👧 ok"
    assert clean_text("  a\r\n\tb\u2028c  ", 100) == "a b c"


def test_cleaning_looks_at_the_beginning_only() -> None:
    assert clean_text("x" * 10_000_000, 2048) == "x" * 2048


def test_nul_escapes_and_half_pairs_are_replaced_and_nothing_else() -> None:
    payload = (
        rb'{"a": "\u0000", "b": "\\u0000", "c": "\\\u0000", "d": "\ud83d\ude00", "e": "\ud83d", "f": "\ude00\ud83d"}'
    )
    text = storable_json(payload)
    assert text is not None
    assert json.loads(text) == {
        "a": "\ufffd",
        "b": "\\u0000",
        "c": "\\\ufffd",
        "d": "😀",
        "e": "\ufffd",
        "f": "\ufffd\ufffd",
    }


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"not json",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e400}',
        b'{"a": 1e-400}',
        b'{"a": 1e-99999999999999999999999}',
        b'{"a": 1e99999999999999999999999}',
        b"9" * 5000,
        b"9" * 319,
        b"0." + b"1" * 400,
        b'{"a": "\x00"}',
        b'{"a": "\n"}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"a": "\xed\xa0\x80"}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a": "\\x"}',
    ],
)
def test_what_a_json_column_would_refuse_is_not_stored(payload: bytes) -> None:
    assert storable_json(payload) is None


@given(st.integers(1, 315), st.integers(0, 4), st.none() | st.integers(-400, 400), st.sampled_from(["e", "E", "e+"]))
def test_a_number_is_stored_where_a_double_holds_it(whole: int, fraction: int, exponent: int | None, sign: str) -> None:
    text = "9" * whole + ("." + "1" * fraction if fraction else "")
    if exponent is not None:
        text += f"{sign if exponent >= 0 else 'e'}{exponent}"
    is_held = len(text) <= 320 and math.isfinite(float(text)) and (exponent is None or exponent >= -308)
    assert (storable_json(text.encode()) is not None) == is_held


@pytest.mark.parametrize("number", [b"0.25,", b"1e-05,", b'"3e12f",', b'"\\"1e999",'])
def test_very_many_numbers_and_what_looks_like_one_are_stored(number: bytes) -> None:
    assert storable_json(b"[" + number * 60_000 + b"0]") is not None
    assert storable_json(b"[" + number * 60_000 + b"1e999]") is None


def test_what_is_too_long_is_not_stored() -> None:
    assert storable_json(b'"' + b"x" * 100 + b'"', limit=102) is not None
    assert storable_json(b'"' + b"x" * 101 + b'"', limit=102) is None


def test_an_ordinary_item_is_stored_verbatim() -> None:
    payload = '{"task_id":"t1","status":"completed","n":[1,-2.5e3,null,true],"url":"https://x/ü.png"}'
    assert storable_json(payload.encode()) == payload


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | ANY_TEXT,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
        max_leaves=10,
    )
)
def test_stored_json_is_valid_and_free_of_nul_and_half_pairs(value: object) -> None:
    text = storable_json(json.dumps(value).encode())
    if text is not None:
        json.dumps(json.loads(text), ensure_ascii=False).encode()
        assert "\x00" not in str(json.loads(text))


@given(st.binary(max_size=200))
def test_no_bytes_make_storing_raise(payload: bytes) -> None:
    storable_json(payload)


@given(st.sampled_from(Kind), ANY_TEXT, ANY_TEXT, st.binary(max_size=100), st.booleans())
def test_evidence_is_bounded_and_clean(kind: Kind, word: str, error: str, item: bytes, is_unusable: bool) -> None:
    seen = evidence_of(Report(kind, word, error=error, payload=item * 100, usage_unusable=is_unusable))
    assert seen.startswith(kind.value)
    assert len(seen.encode()) <= 2048
    assert "\x00" not in seen
    assert "\n" not in seen


def test_evidence_says_the_kind_the_word_and_the_item() -> None:
    report = Report(Kind.SAID, "failed", error="boom", payload=b'{"status": "failed"}', usage_unusable=True)
    assert evidence_of(report) == 'said failed usage_unusable {"status": "failed"}'
    assert evidence_of(report._replace(payload=b"", usage_unusable=False)) == "said failed boom"
    assert evidence_of(NO_ANSWER) == "no_answer"


KNOWN = frozenset({"completed", "failed"})


def test_an_echoed_secret_is_taken_out_of_every_text() -> None:
    secret = Secret('sk-/canary"key')
    echo = json.dumps({"error": f"bad key {secret.reveal()}"}).encode()
    report = Report(Kind.SAID, "failed", 'Bearer sk-/canary"key', f"bad key {secret.reveal()}", payload=echo)
    assert is_echoed(secret, echo)
    clean = redacted(report, [Secret("short"), secret], KNOWN)
    assert "canary" not in str(clean)
    assert json.loads(clean.payload) == {"error": "bad key ***"}
    assert redacted(clean, [secret], KNOWN) is clean
    shouted = report._replace(word=secret.reveal().lower())
    assert "canary" not in str(redacted(shouted, [secret], KNOWN))


@pytest.mark.parametrize(
    "escape",
    [
        lambda each: "\\/" if each == "/" else each,
        # As encoders do that mean their JSON to stand in a page: Go's, and .NET's with capitals.
        lambda each: each if each.isalnum() or each == "-" else f"\\u{ord(each):04x}",
        lambda each: each if each.isalnum() or each == "-" else f"\\u{ord(each):04X}",
        lambda each: f"\\u{ord(each):04x}",
    ],
)
def test_an_echoed_secret_is_found_however_its_characters_are_escaped(escape: Callable[[str], str]) -> None:
    secret = Secret("sk-canary/a+b<c>&'d=")
    payload = f'{{"error":"bad key {"".join(map(escape, secret.reveal()))}!"}}'.encode()
    assert is_echoed(secret, payload)
    clean = redacted(Report(Kind.SAID, "failed", payload=payload), [secret], KNOWN)
    assert json.loads(clean.payload) == {"error": "bad key ***!"}


def test_a_secret_that_a_limit_cut_in_two_is_not_half_shown() -> None:
    secret = Secret("sk-canary-" + "0123456789" * 20)
    value = secret.reveal()
    report = Report(Kind.SAID, f"bad {value}"[:63] + "…", f"{value[:32]}", f"bad key {value[:100]}")
    clean = redacted(report, [secret], KNOWN)
    assert (clean.word, clean.progress, clean.error) == ("bad ***", "***", "bad key ***")


@pytest.mark.parametrize("token", ["completed", "complete", "e", "pleted", "not_found"])
def test_a_token_named_after_a_word_hides_no_word_that_decides(token: str) -> None:
    assert redacted(Report(Kind.SAID, "completed"), [Secret(token)], KNOWN).word == "completed"
