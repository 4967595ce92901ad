"""Prices: every case of the billing table, exact arithmetic against fractions, and data that nobody should send."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.model import State, Task, Usage
from poller.core.pricing import NOTES, SOURCES, Charge, PriceBook, PriceRow

BILLING = json.loads((Path(__file__).parent.parent / "fixtures" / "billing.json").read_text())
LIMIT = 2**63


def task_with(terms: str = "", *, model: str = "m/submit", group: str = "", reserved: int = 1000) -> Task:
    return Task(
        1, "t1", "t1", 7, 3, model, model, group, State.IN_PROGRESS, "0%", reserved, 1e9, None, None, "", terms
    )  # fmt: skip


def option(key: str, value: Any) -> PriceRow:
    return PriceRow("option", key, "", value if isinstance(value, str) else json.dumps(value))


def usage_of(raw: Any) -> tuple[Usage | None, bool]:
    """A usage of the billing table as upstream's wire module would hand it over."""
    if raw is None:
        return None, False
    if isinstance(raw, list):
        return Usage(raw[0], raw[1], sum(raw)), False
    if any(count < 0 for count in raw.values()):
        return None, True
    names = ("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens")
    return Usage(*(raw.get(name) for name in names)), False


def charged(
    profile: str,
    rows: list[PriceRow],
    task: Task,
    usage: Usage | None,
    *,
    group: str | None = "default",
    is_unusable: bool = False,
) -> Charge:
    charge = PriceBook.read(profile, rows).charge(task, usage, is_unusable, channel_type=52, user_group=group)
    assert charge.source in SOURCES
    assert set(charge.notes) <= NOTES
    assert charge.charged is None or 0 <= charge.charged < LIMIT
    return charge


@pytest.mark.parametrize(
    "case", [each for each in BILLING if each.get("outcome") != "failure"], ids=lambda case: case["name"]
)
def test_the_billing_table_is_met(case: dict[str, Any]) -> None:
    model = case.get("model", "m/submit")
    terms = case.get("billing_info") or case.get("billing_context")
    task = task_with(json.dumps(terms) if terms else "", model=model, reserved=case["reserved"])
    rows = [option(key, value) for key, value in case.get("options", {}).items()]
    if case.get("ability"):
        rows.append(PriceRow("ability", model, "52", json.dumps(case["ability"])))
    if case.get("group_ratio") is not None:
        rows.append(PriceRow("group_ratio", "default", "", str(case["group_ratio"])))
    usage, is_unusable = usage_of(case["usage"])
    charge = charged(
        case["profile"], rows, task, usage, group=case.get("user_group", "default"), is_unusable=is_unusable
    )
    amount = case["reserved"] if charge.charged is None else charge.charged
    assert (amount, case["reserved"] - amount) == (case["charged"], case["refund"])


def test_failures_of_the_billing_table_are_free() -> None:
    for case in BILLING:
        if case.get("outcome") == "failure":
            assert (case["charged"], case["refund"]) == (0, case["reserved"])


# -- exact arithmetic -------------------------------------------------------------------------------------------------

TOKENS = st.integers(0, 10**12)
RATIOS = st.decimals(0, 1000, allow_nan=False, allow_infinity=False, places=6).map(str)
POSITIVE = st.decimals("0.000001", 1000, allow_nan=False, allow_infinity=False, places=6).map(str)


def half_up(amount: Fraction) -> int:
    return (2 * amount.numerator + amount.denominator) // (2 * amount.denominator)


@given(TOKENS, TOKENS, POSITIVE, RATIOS, RATIOS, RATIOS, st.booleans())
def test_fork_charges_exactly_what_fractions_say(
    prompt: int, completion: int, model: str, completing: str, group: str, special: str, is_special: bool
) -> None:
    terms = (
        f'{{"model_ratio": {model}, "completion_ratio": {completing}, "group_ratio": {group}, "model_price": -1,'
        f' "user_group_ratio": {special if is_special else -1}, "has_special_ratio": {json.dumps(is_special)},'
        ' "billing_mode": "usage"}'
    )
    charge = charged("fork", [], task_with(terms), Usage(prompt, completion, prompt + completion))
    amount = (prompt + completion * Fraction(completing)) * Fraction(model) * Fraction(group)
    if is_special:
        amount *= Fraction(special)
    if prompt + completion == 0:
        assert charge == Charge(None, "no_usage")
    elif half_up(amount) >= LIMIT:
        assert charge == Charge(None, "unusable_usage", ("out_of_range",))
    else:
        assert charge == Charge(half_up(amount), "saved")


@given(TOKENS, POSITIVE, RATIOS, st.lists(POSITIVE, max_size=4))
def test_main_truncates_exactly_what_fractions_say(tokens: int, model: str, group: str, others: list[str]) -> None:
    named = ", ".join(f'"r{n}": {ratio}' for n, ratio in enumerate(others))
    terms = f'{{"model_ratio": {model}, "group_ratio": {group}, "other_ratios": {{{named}}}}}'
    charge = charged("main", [], task_with(terms), Usage(total=tokens))
    amount = tokens * Fraction(model) * Fraction(group)
    for ratio in others:
        amount *= Fraction(ratio)
    if tokens == 0:
        assert charge == Charge(None, "no_usage")
    elif amount < 1:
        assert charge == Charge(None, "zero_price")
    elif amount >= LIMIT:
        assert charge == Charge(None, "unusable_usage", ("out_of_range",))
    else:
        assert charge == Charge(int(amount), "saved")


@given(TOKENS, TOKENS, RATIOS, RATIOS)
def test_documented_rounds_half_away_from_zero_as_fractions_say(
    prompt: int, completion: int, ratio: str, group: str
) -> None:
    rows = [
        PriceRow("ability", "m/submit", "52", f'{{"ratio": {ratio}, "fixed_quota": null}}'),
        PriceRow("group_ratio", "default", "", group),
    ]
    charge = charged("documented", rows, task_with(), Usage(prompt, completion))
    amount = half_up((prompt + completion) * Fraction(ratio) * Fraction(group))
    if prompt + completion == 0:
        assert charge == Charge(None, "no_usage")
    elif amount >= LIMIT:
        assert charge.charged is None
    else:
        assert charge == Charge(amount, "live")


@given(st.integers(1, 2**62), st.integers(0, 2**62 - 1))
def test_amounts_beyond_what_a_double_holds_stay_exact(prompt: int, completion: int) -> None:
    terms = '{"model_ratio": 1.0, "completion_ratio": 1.0, "group_ratio": 1.0, "billing_mode": "usage"}'
    assert charged("fork", [], task_with(terms), Usage(prompt, completion)).charged == prompt + completion


def test_half_a_quota_at_the_edge_of_the_column_is_out_of_range() -> None:
    terms = '{"model_ratio": 0.5, "completion_ratio": 1, "group_ratio": 1}'
    fits = charged("fork", [], task_with(terms), Usage(2**63 - 1, 2**63 - 2))
    assert fits.charged == 2**63 - 1
    beyond = charged("fork", [], task_with(terms), Usage(2**63 - 1, 2**63 - 1, input=2**63 - 1, output=2**63))
    assert beyond == Charge(None, "unusable_usage", ("out_of_range",))


# -- rules ------------------------------------------------------------------------------------------------------------

LIVE = [
    option("ModelRatio", {"m/submit": 2, "free/submit": 0, "odd/submit": -1}),
    option("CompletionRatio", {"m/submit": 1.5}),
    option("ModelPrice", {"priced/submit": 0.5, "m/submit": -1}),
    option("GroupRatio", {"vip": 0.5, "gone": "x"}),
]
USAGE = Usage(20, 20, 40)


def test_a_saved_fixed_price_needs_no_usage_and_stays_as_reserved() -> None:
    for terms in ('{"billing_mode": "fixed"}', '{"model_price": 5.0, "completion_ratio": 0}'):
        assert charged("fork", [], task_with(terms), None) == Charge(None, "fixed")
    assert charged("main", [], task_with('{"per_call_billing": true}'), None) == Charge(None, "fixed")
    assert charged("main", [], task_with('{"model_price": 0.002}'), USAGE) == Charge(None, "fixed")


def test_a_live_fixed_price_stays_as_reserved() -> None:
    task = task_with(model="priced/submit")
    assert charged("fork", LIVE, task, USAGE).source == "fixed"
    assert charged("main", LIVE, task, USAGE).source == "fixed"


def test_a_documented_fixed_price_times_group_needs_no_usage() -> None:
    rows = [
        PriceRow("ability", "m/submit", "52", '{"ratio": 2.0, "fixed_quota": 1001}'),
        PriceRow("group_ratio", "vip", "", "0.5"),
    ]
    charge = charged("documented", rows, task_with(), None, group="vip", is_unusable=True)
    assert charge == Charge(501, "fixed")


def test_a_free_model_with_saved_terms_costs_nothing() -> None:
    assert charged("fork", LIVE, task_with('{"billing_mode": "free"}'), USAGE) == Charge(0, "free")


def test_a_live_ratio_of_zero_or_below_prices_nothing() -> None:
    for model, notes in (("free/submit", ()), ("odd/submit", ("ratio_unusable",)), ("new/submit", ())):
        for profile in ("fork", "main"):
            assert charged(profile, LIVE, task_with(model=model), USAGE) == Charge(None, "unpriced", notes)


def test_an_ability_of_another_channel_type_is_none() -> None:
    rows = [PriceRow("ability", "m/submit", "53", '{"ratio": 2.0, "fixed_quota": null}')]
    assert charged("documented", rows, task_with(), USAGE) == Charge(None, "unpriced")


def test_self_use_mode_prices_what_has_no_ratio() -> None:
    rows = [*LIVE, option("SelfUseModeEnabled", "true")]
    charge = charged("fork", rows, task_with(model="new/submit"), Usage(1, 1), group="vip")
    assert charge == Charge(38, "live", ("self_use_ratio",))


def test_main_bills_the_group_of_the_task_before_that_of_the_user() -> None:
    task = task_with(group="vip")
    assert charged("main", LIVE, task, Usage(total=10), group="default") == Charge(
        10, "live", ("ratio_unusable",)
    )  # the price of -1 is no price, and worth a note
    assert charged("main", LIVE, task_with(), Usage(total=10), group="vip").charged == 10


def test_a_group_without_ratio_counts_as_one_and_is_noted() -> None:
    rows = [each for each in LIVE if each.name != "ModelPrice"]
    assert charged("fork", rows, task_with(), USAGE, group=None) == Charge(100, "live", ("group_ratio_missing",))
    assert charged("fork", rows, task_with(), USAGE, group="new").notes == ("group_ratio_missing",)
    assert charged("fork", rows, task_with(), USAGE, group="gone").notes == ("ratio_unusable", "group_ratio_missing")


def test_groups_that_the_gateway_compiles_in_are_one_without_a_note_until_a_map_is_saved() -> None:
    rows = [option("ModelRatio", {"m/submit": 2})]
    for group in ("default", "vip", "svip"):
        assert charged("fork", rows, task_with(), USAGE, group=group) == Charge(80, "live")


def test_a_special_ratio_multiplies_in_fork_and_replaces_in_main() -> None:
    rows = [
        option("ModelRatio", {"m/submit": 1}),
        option("GroupRatio", {"vip": 0.5}),
        option("GroupGroupRatio", {"vip": {"vip": 0.1, "default": 9}}),
    ]
    assert charged("fork", rows, task_with(), Usage(100, 0), group="vip") == Charge(5, "live")
    assert charged("main", rows, task_with(), Usage(100, 0), group="vip") == Charge(10, "live")


def test_a_special_ratio_of_zero_is_free_and_not_missing() -> None:
    rows = [option("ModelRatio", {"m/submit": 1}), option("GroupGroupRatio", {"vip": {"vip": 0}})]
    assert charged("fork", rows, task_with(), USAGE, group="vip") == Charge(0, "live")
    assert charged("main", rows, task_with(), USAGE, group="vip") == Charge(None, "zero_price")


def test_terms_without_zero_values_are_still_terms_in_main() -> None:
    for terms in ('{"model_ratio": 2}', '{"group_ratio": 1}', '{"origin_model_name": "m"}'):
        assert charged("main", LIVE, task_with(terms), USAGE) == Charge(None, "zero_price")
    for terms in ("{}", "null", "", '{"other_ratios": {}}'):
        assert charged("main", LIVE, task_with(terms), USAGE).source == "live"


def test_the_plain_option_wins_over_its_dotted_spelling_in_any_order() -> None:
    ratio = option("ModelRatio", {"m/submit": 1})
    dotted = option("group_ratio_setting.group_ratio", {"vip": 0.1})
    plain = option("GroupRatio", {"vip": 0.5})
    for rows in ([ratio, dotted, plain], [plain, ratio, dotted]):
        assert charged("fork", rows, task_with(), USAGE, group="vip").charged == 20
    assert charged("fork", [ratio, dotted], task_with(), USAGE, group="vip").charged == 4


def test_usage_sums_are_checked_as_each_gateway_does() -> None:
    off = Usage(10, 10, 30)
    saved = task_with('{"model_ratio": 1, "completion_ratio": 1, "group_ratio": 1}')
    ability = [PriceRow("ability", "m/submit", "52", '{"ratio": 1, "fixed_quota": null}')]
    assert charged("fork", [], saved, off) == Charge(None, "unusable_usage")
    assert charged("documented", ability, task_with(), off) == Charge(None, "unusable_usage")
    assert charged("documented", ability, task_with(), Usage(total=30)).charged == 30
    assert charged("fork", [], saved, Usage(total=30)) == Charge(None, "unusable_usage")
    assert charged("main", [], saved, off) == Charge(30, "saved")
    assert charged("fork", [], saved, Usage(input=30, output=12)) == Charge(42, "saved")
    assert charged("main", [], saved, Usage(0, 0, 0, 30, 12)) == Charge(42, "saved")


def test_unusable_usage_is_told_from_no_usage() -> None:
    saved = task_with('{"model_ratio": 1, "completion_ratio": 1, "group_ratio": 1}')
    for profile in ("fork", "main"):
        assert charged(profile, [], saved, None) == Charge(None, "no_usage")
        assert charged(profile, [], saved, None, is_unusable=True) == Charge(None, "unusable_usage")
        assert charged(profile, [], saved, Usage(), is_unusable=False) == Charge(None, "no_usage")
        assert charged(profile, [], saved, USAGE, is_unusable=True) == Charge(None, "unusable_usage")


def test_unusable_saved_ratios_fall_back_to_live_ones_and_are_noted() -> None:
    rows = [each for each in LIVE if each.name != "ModelPrice"]
    for bad in ("-1", "NaN", "Infinity", '"2"', "true", "1e400", "1e-400", "[]"):
        terms = f'{{"model_ratio": {bad}, "completion_ratio": 9, "group_ratio": 1.0}}'
        assert charged("fork", rows, task_with(terms), USAGE) == Charge(100, "live", ("ratio_unusable",)), bad
        assert charged("main", rows, task_with(terms), USAGE) == Charge(80, "live", ("ratio_unusable",)), bad
        terms = f'{{"model_ratio": 1.0, "completion_ratio": 1.0, "group_ratio": {bad}}}'
        assert charged("fork", rows, task_with(terms), USAGE, group="vip").charged == 20
        assert charged("main", rows, task_with(terms), USAGE, group="vip").charged == 20


def test_only_what_cannot_be_priced_from_saved_terms_needs_the_users_group() -> None:
    book = PriceBook.read("documented", [])
    assert book.needs_group(task_with())
    book = PriceBook.read("fork", [])
    assert book.needs_group(task_with())
    assert book.needs_group(task_with('{"group_ratio": -1}'))
    assert not book.needs_group(task_with('{"group_ratio": 0.5}'))
    book = PriceBook.read("main", [])
    assert book.needs_group(task_with())
    assert not book.needs_group(task_with(group="vip"))
    assert not book.needs_group(task_with('{"model_ratio": 2}'))
    assert book.needs_group(task_with('{"model_ratio": 2, "group_ratio": null}'))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["model_ratio", "group_ratio", "model_price", "other_ratios", "billing_mode", "vip", "m"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
).map(json.dumps)
TEXTS = JSON | st.text(max_size=20) | st.sampled_from(["[" * 5000, '{"m": 1e99999999999999999999999}', "9" * 5000])


@given(
    st.sampled_from(["documented", "fork", "main"]),
    TEXTS,
    st.lists(
        st.tuples(
            st.sampled_from(["ability", "group_ratio", "option"]),
            st.sampled_from(["m", "vip", "ModelRatio", "GroupGroupRatio", "GroupRatio", "ModelPrice", "QuotaPerUnit"]),
            st.sampled_from(["", "52"]),
            TEXTS,
        ).map(lambda row: PriceRow(*row)),
        max_size=6,
    ),
    st.none() | st.builds(Usage, *[st.none() | st.integers(0, LIMIT - 1)] * 5),
)
def test_no_data_whatever_makes_charging_raise(
    profile: str, terms: str, rows: list[PriceRow], usage: Usage | None
) -> None:
    task = task_with(terms, model="m")
    charged(profile, rows, task, usage, group="vip")
    PriceBook.read(profile, rows).needs_group(task)


def test_unreadable_rows_and_terms_are_noted() -> None:
    rows = [option("ModelRatio", {"m/submit": 1}), option("GroupRatio", "{nonsense")]
    charge = charged("fork", rows, task_with("[1]"), USAGE, group="vip")
    assert charge == Charge(40, "live", ("terms_unreadable", "option_unreadable"))


def test_names_with_wildcards_are_looked_up_as_the_gateway_does() -> None:
    rows = [option("ModelRatio", {"gemini-2.5-pro-thinking-*": 3})]
    task = task_with(model="gemini-2.5-pro-thinking-128/submit")
    assert charged("main", rows, task, Usage(total=2)) == Charge(6, "live")


def test_main_charges_a_task_of_the_fork_that_it_was_upgraded_from_as_the_fork_would() -> None:
    saved = {"group_ratio": 0.9, "user_group_ratio": 0.9, "model_ratio": 1, "completion_ratio": 4, "model_price": -1}
    usage = Usage(10, 35, 45)
    for terms in (
        json.dumps(saved | {"has_special_ratio": True}),
        json.dumps(saved | {"has_special_ratio": False}),
        json.dumps(saved | {"has_special_ratio": True, "group_ratio": ""}),
        "",  # from before the fork saved any
    ):
        task = task_with(terms)
        rows = [
            option("GroupRatio", {"default": 0.5}),
            option("ModelRatio", {task.price_model: 1}),
            option("CompletionRatio", {task.price_model: 4}),
        ]
        upgraded = task._replace(is_forks=True)
        assert charged("main", rows, upgraded, usage) == charged("fork", rows, task, usage)
        assert PriceBook.read("main", rows).needs_group(upgraded) == PriceBook.read("fork", rows).needs_group(task)
