"""Answers of every sort, through reading, deciding and pricing: nothing escapes, and no money moves that should not.

The oracle below reads the same bytes in another way, slowly and strictly: with the standard library's decoder, every
key of every object in sight, and exact fractions. It shares no code with what it judges.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from poller.core.decide import decide
from poller.core.model import Keep, Outcome, Policy, Settle
from poller.core.pricing import PriceBook, PriceRow
from poller.core.words import DEFAULT_WORDS
from poller.errors import AskFailed
from poller.upstream.wire import read_answer
from tests.core.test_batches import task

IDS = ("t1", "t2", "17")
NOW_S = 1_000_000.0
RESERVED = 450
RATIO, GROUP_RATIO = Fraction(3, 2), Fraction(9, 10)
POLICY = Policy(DEFAULT_WORDS, 30.0, 3600.0, True, 3, 300.0)
BOOK = PriceBook.read(
    "documented",
    [
        PriceRow("ability", "m/submit", "52", '{"ratio": 1.5, "fixed_quota": null}'),
        PriceRow("group_ratio", "vip", "", "0.9"),
    ],
)
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens")


# -- the oracle ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Object:
    """A JSON object as written: every pair, in order."""

    pairs: tuple[tuple[str, Any], ...]

    def has_twice(self) -> bool:
        return len({key for key, _ in self.pairs}) < len(self.pairs)

    def get(self, name: str) -> Any:
        return dict(self.pairs).get(name)


class Refused(Exception):
    pass


def strictly(body: bytes) -> list[Any]:
    """The items of a good answer. Raises Refused for what is none."""
    text = body.removeprefix(b"\xef\xbb\xbf").decode()

    def constant(name: str) -> Any:
        raise Refused(name)

    whole = json.loads(text, object_pairs_hook=lambda pairs: Object(tuple(pairs)), parse_constant=constant)
    if not isinstance(whole, Object) or whole.has_twice():
        raise Refused("envelope")
    code = whole.get("code")
    if isinstance(code, bool) or not (code == "0" or (isinstance(code, int | float) and code == 0)):
        raise Refused("code")
    items = whole.get("data")
    if items is None and "data" in dict(whole.pairs):
        return []
    if not isinstance(items, list):
        raise Refused("data")
    return items


def name_of(item: Any) -> str:
    """The one id that an item names; an item that names two is about neither."""
    named = {read_id(value) for key, value in item.pairs if key == "task_id"} if isinstance(item, Object) else set()
    return named.pop() if len(named) == 1 else ""


def read_id(said: Any) -> str:
    if isinstance(said, int) and not isinstance(said, bool):
        return str(said)
    return said if isinstance(said, str) else ""


def word_of(item: Object) -> str:
    said = item.get("status")
    return said.strip().lower() if isinstance(said, str) else ""


def charge_of(item: Object) -> int:
    """What a success with this item costs."""
    usage = item.get("usage")
    if not isinstance(usage, Object):
        return RESERVED
    counts: dict[str, int | None] = {}
    for name in COUNTS:
        said = usage.get(name)
        if said is not None and (isinstance(said, bool) or not isinstance(said, int | float)):
            return RESERVED
        if said is not None and (said != said or said in (float("inf"), float("-inf")) or said != int(said)):
            return RESERVED
        if said is not None and not 0 <= said < 2**63:
            return RESERVED
        counts[name] = None if said is None else int(said)
    prompt, completion, total = (counts[name] for name in COUNTS[:3])
    if None not in (prompt, completion, total) and prompt + completion != total:  # type: ignore[operator]
        return RESERVED
    tokens = total or (prompt or counts["input_tokens"] or 0) + (completion or counts["output_tokens"] or 0)
    if not tokens:
        return RESERVED
    exact = tokens * RATIO * GROUP_RATIO
    charged = int(exact + Fraction(1, 2))
    return charged if charged < 2**63 else RESERVED


# -- what answers look like ------------------------------------------------------------------------------------------

words = st.sampled_from(
    ["completed"] * 6
    + ["failed"] * 3
    + ["success", "FAILED", " failed ", "error", "processing", "not_found", "odd", "", "\x00"]
)
numbers = (
    st.integers(-3, 10**6).map(str)
    | st.sampled_from(
        ["0", "-0", "1.0", "2.5", "1e2", "1e400", "-1e400", "0.1e1", "9" * 30, str(2**63), str(2**63 - 1)]
    )
    | st.sampled_from(["true", '"7"', "null", "[]", "{}", "NaN", "Infinity", "01", "1_0", "+1"])
)
sane = st.integers(0, 99).map(str)
usages = st.lists(st.tuples(st.sampled_from([*COUNTS, "cost"]), sane | sane | numbers), max_size=4).map(
    lambda pairs: "{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}"
)
ids = st.sampled_from(['"t1"'] * 8 + ['"t2"', '"17"', "17", '"t3"', '"T1"', "null", "17.0", "true", '"t\\u0031"'])
odd_texts = st.sampled_from(['"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', "7", "null", "[1]", "true"])
texts = st.one_of(*[words.map(json.dumps)] * 4, odd_texts)
fields = st.one_of(
    st.tuples(st.just("task_id"), ids),
    st.tuples(st.just("status"), texts),
    st.tuples(st.just("usage"), usages | numbers),
    st.tuples(st.sampled_from(["progress", "error", "result", "finished_at"]), texts | numbers),
)


def written(parts: Sequence[tuple[str, str]], spaces: str) -> str:
    return "{" + f"{spaces},".join(f'"{name}"{spaces}:{value}' for name, value in parts) + "}"


@st.composite
def items(draw: st.DrawFn) -> str:
    """Mostly whole items, with fields added, doubled or missing."""
    parts = [("task_id", draw(ids)), ("status", draw(texts))]
    if draw(st.booleans()):
        parts.append(("usage", draw(usages)))
    if draw(st.booleans()):
        parts += draw(st.lists(fields, max_size=2))
    if draw(st.integers(0, 9)) == 0:
        parts.pop(draw(st.integers(0, len(parts) - 1)))
    return written(parts, draw(st.sampled_from(["", "", " ", "\n\t"])))


envelopes = st.sampled_from(
    ['{"code":0,"data":@}'] * 8
    + ['{"code":"0","data":@}', '{"data":@,"code":0.0}', '{"code":0,"data":@,"code":1}', '{"code":false,"data":@}', "@"]
    + ['\ufeff{"code":0,"msg":"[{}]","data":@}', '{"code":0,"data":[],"data":@}', '{ "code" : 0 , "data" : @ }']
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A body; one in eight is damaged afterwards."""
    listed = draw(st.lists(items() | st.sampled_from(["null", "7", "[]", "{}"]), max_size=5))
    body = draw(envelopes).replace("@", "[" + ",".join(listed) + "]").encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 7)) == 0:
        for _ in range(draw(st.integers(1, 3))):
            place = draw(st.integers(0, len(body)))
            cut = draw(st.integers(0, 3))
            body = (
                body[:place]
                + draw(st.binary(max_size=2) | st.sampled_from([b'"', b"{", b"]", b","]))
                + body[place + cut :]
            )
    return body


# -- the law ------------------------------------------------------------------------------------------


@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])
@given(bodies())
@example(b'{"code":0,"data":[{"task_id":"t1","status":"completed","usage":{"total_tokens":30,"total_tokens":3}}]}')
@example(b'{"code":0,"data":[{"task_id":"t1","status":"failed","x":{"task_id":"t2","status":"completed"}}]}')
def test_no_answer_moves_money_that_it_does_not_plainly_call_for(body: bytes) -> None:
    try:
        answer = read_answer(body, IDS)
    except AskFailed:
        return
    listed = strictly(body)
    for task_id in IDS:
        report = answer.reports[task_id]
        decision = decide(task(1, upstream_id=task_id, submitted_s=NOW_S - 60), report, NOW_S, POLICY)
        about = [item for item in listed if name_of(item) == task_id]
        said = {word_of(item) for item in about}
        if not isinstance(decision, Settle):
            # What is plain is not passed over either.
            if len(about) == 1 and isinstance(about[0], Object) and not has_twice(about[0]):
                assert word_of(about[0]) not in DEFAULT_WORDS.success | DEFAULT_WORDS.failed
            continue
        assert about, "settled without an item"
        assert not any(item.has_twice() for item in about)
        if decision.outcome is Outcome.FAILURE:
            assert said <= DEFAULT_WORDS.failed
            continue
        assert said <= DEFAULT_WORDS.success
        charge = BOOK.charge(
            task(1, reserved=RESERVED), decision.usage, decision.usage_unusable, channel_type=52, user_group="vip"
        )
        charged = RESERVED if charge.charged is None else charge.charged
        assert {charge_of(item) for item in about} == {charged}


def has_twice(value: Any) -> bool:
    """Whether a key is twice where it counts: in the item or its usage."""
    usage = value.get("usage")
    return value.has_twice() or (isinstance(usage, Object) and usage.has_twice()) or not word_of(value).isprintable()


counted = st.one_of(sane, sane, st.integers(0, 10**7).map(str), numbers)


@st.composite
def whole_usages(draw: st.DrawFn) -> str:
    """Usage as upstreams give it: some of the counts, their sum right in most cases."""
    told = {name: draw(counted) for name in COUNTS if draw(st.booleans())}
    if draw(st.booleans()):
        prompt, completion = draw(st.integers(0, 99)), draw(st.integers(0, 99))
        told |= {"prompt_tokens": str(prompt), "completion_tokens": str(completion)}
        told["total_tokens"] = str(prompt + completion + draw(st.sampled_from([0, 0, 0, 1])))
    return "{" + ",".join(f'"{name}":{value}' for name, value in told.items()) + "}"


@settings(max_examples=600)
@given(whole_usages())
def test_a_success_costs_what_an_exact_reckoner_makes_of_its_usage(usage: str) -> None:
    body = f'{{"code":0,"data":[{{"task_id":"t1","status":"completed","usage":{usage}}}]}}'.encode()
    try:
        answer = read_answer(body, IDS)
        (item,) = strictly(body)
    except (AskFailed, Refused, ValueError):
        with pytest.raises((AskFailed, Refused, ValueError)):
            strictly(body)
        return
    report = answer.reports["t1"]
    charge = BOOK.charge(
        task(1, reserved=RESERVED), report.usage, report.usage_unusable, channel_type=52, user_group="vip"
    )
    assert (RESERVED if charge.charged is None else charge.charged) == charge_of(item)


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_no_bytes_at_all_settle_anything(noise: bytes) -> None:
    try:
        answer = read_answer(noise, IDS)
    except AskFailed:
        return
    for report in answer.reports.values():
        assert isinstance(decide(task(1, submitted_s=NOW_S - 60), report, NOW_S, POLICY), Keep)
