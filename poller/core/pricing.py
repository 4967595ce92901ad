"""What a success costs, by the arithmetic of the gateway that charged it up front.

documented   fixed quota x group, else total tokens x ratio x group; half away from zero
fork         (prompt + completion x completion ratio) x model ratio x group x special; half away from zero
main         total tokens x model ratio x group x all other ratios; truncated, and 0 keeps the reservation; a task that
             the fork charged before the gateway was upgraded: as fork

The terms saved with the task come first, one by one; what is missing or unusable there is looked up in the live
options, and the source says so. A fixed price is never settled in fork and main. Nothing in here raises on bad data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Any, Final, NamedTuple

from poller.core.model import Task, Usage
from poller.core.ratios import matching, product, read_object, read_ratio, total, usable, whole

SOURCES: Final = frozenset({"saved", "live", "fixed", "free", "no_usage", "unusable_usage", "unpriced", "zero_price"})
NOTES: Final = frozenset(
    {"terms_unreadable", "ratio_unusable", "option_unreadable", "group_ratio_missing", "self_use_ratio", "out_of_range"}
)
"""What may be worth counting about a charge; a closed vocabulary."""

_ONE: Final = Decimal(1)
_SELF_USE_RATIO: Final = Decimal("37.5")
_MAPS: Final = ("ModelRatio", "CompletionRatio", "ModelPrice", "GroupRatio", "GroupGroupRatio")
_DOTTED: Final = {
    "group_ratio_setting.group_ratio": "GroupRatio",
    "group_ratio_setting.group_group_ratio": "GroupGroupRatio",
}
_DEFAULTS: Final = {"GroupRatio": dict.fromkeys(("default", "vip", "svip"), _ONE)}
"""What the gateway goes by where no options row was ever saved, as far as it can concern a task."""
_MAIN_TERMS: Final = frozenset({"model_price", "group_ratio", "model_ratio", "origin_model_name", "per_call_billing"})


class Charge(NamedTuple):
    """What a success costs. ``charged`` None means: as reserved."""

    charged: int | None
    source: str
    """Where the price came from: one of ``SOURCES``."""
    notes: tuple[str, ...] = ()
    """What is worth counting about it, such as ``group_ratio_missing``."""


class PriceRow(NamedTuple):
    """A row of a profile's ``prices.sql``.

    documented: ``("ability", model, channel type, {"ratio": …, "fixed_quota": …})`` and
    ``("group_ratio", group, "", ratio)``; fork and main: ``("option", key, "", value)``.
    """

    kind: str
    name: str
    scope: str
    value: str


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Live prices of one profile, and how it charges."""

    profile: str
    abilities: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    maps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The gateway's ratio maps by option key, their values unchecked; an option without a row is missing."""
    is_self_use: bool = False
    notes: tuple[str, ...] = ()
    """What was wrong with the rows."""

    @classmethod
    def read(cls, profile: str, rows: Iterable[PriceRow]) -> PriceBook:
        """The book of *profile* (``documented``, ``fork`` or ``main``); an unreadable row is left out and noted."""
        abilities: dict[tuple[str, str], Mapping[str, Any]] = {}
        maps: dict[str, dict[str, Any]] = {}
        groups: dict[str, Any] = {}
        is_self_use = False
        notes: tuple[str, ...] = ()
        # Dotted keys first: where both spellings exist, the plain one wins.
        for kind, name, scope, text in sorted(rows, key=lambda row: row[1] not in _DOTTED):
            value = text or ""
            if kind == "group_ratio":
                groups[name] = read_ratio(value)
            elif kind == "ability":
                abilities[name, scope] = read_object(value) or {}
            elif name == "SelfUseModeEnabled":
                is_self_use = value.strip().lower() == "true"
            elif (option := _DOTTED.get(name, name)) in _MAPS:
                entries = read_object(value)
                if entries is None:
                    notes = ("option_unreadable",)
                else:
                    maps[option] = entries
        if profile == "documented":
            maps["GroupRatio"] = groups
        return cls(profile, abilities, maps, is_self_use, notes)

    def needs_group(self, task: Task) -> bool:
        """Whether charging *task* takes its user's group."""
        if self.profile == "documented":
            return True
        terms = read_object(task.terms) or {}
        if self._is_forks(task):
            return usable(terms.get("group_ratio")) is None
        return not task.group and _saved_group(terms) is None

    def _is_forks(self, task: Task) -> bool:
        return self.profile == "fork" or task.is_forks

    def charge(
        self, task: Task, usage: Usage | None, usage_unusable: bool, *, channel_type: int, user_group: str | None
    ) -> Charge:
        """What *task* costs now that it succeeded with *usage*; *user_group* may be None where it is not needed."""
        bill = _Bill(self, task, matching(task.price_model), user_group, usage, usage_unusable)
        if self.profile == "documented":
            return bill.documented(self.abilities.get((task.price_model, str(channel_type))))
        return bill.fork() if self._is_forks(task) else bill.main()


class _Bill:
    """One charge in the making: collects its notes, and whether any ratio of it is a live one."""

    def __init__(
        self, book: PriceBook, task: Task, model: str, user_group: str | None, usage: Usage | None, is_unusable: bool
    ) -> None:
        self._book = book
        self._task = task
        self._model = model
        self._user_group = user_group
        self._usage = usage
        self._is_unusable = is_unusable
        self._source = "saved"
        self._notes: list[str] = []

    def documented(self, ability: Mapping[str, Any] | None) -> Charge:
        if ability is None:
            return self._as_reserved("unpriced")
        fixed, ratio = self._ratio(ability.get("fixed_quota")), self._ratio(ability.get("ratio"))
        if fixed:
            amount = product(fixed, self._live_group(self._user_group))
            self._source = "fixed"
            return self._at(amount, ROUND_HALF_UP)
        if ratio is None:
            return self._as_reserved("unpriced")
        usage = self._usage
        if usage is not None and None not in (usage.total, usage.prompt, usage.completion):
            self._check_sum(usage)
        if not self._has_usage():
            return self._without_usage()
        return self._at(product(self._total(), ratio, self._live_group(self._user_group)), ROUND_HALF_UP)

    def fork(self) -> Charge:
        terms = self._terms()
        if terms.get("billing_mode") == "fixed" or usable(terms.get("model_price")):
            return self._as_reserved("fixed")
        if terms.get("billing_mode") == "free":
            return Charge(0, "free", tuple(self._notes))
        # A saved ratio of 0 is no price: the fork calls such a model free and saves no terms for it.
        model_ratio = self._ratio(terms.get("model_ratio")) or None
        completion_ratio = self._ratio(terms.get("completion_ratio")) if model_ratio else None
        if model_ratio is None:
            if self._is_priced_live():
                return self._as_reserved("fixed")
            model_ratio = self._live_model_ratio()
        usage = self._usage
        if usage is not None and usage.total is not None:
            self._check_sum(usage)
        if not self._has_usage():
            return self._without_usage()
        if model_ratio is None:
            return self._as_reserved("unpriced")
        if completion_ratio is None:
            completion_ratio = self._ratio(self._live("CompletionRatio").get(self._model))
        group_ratio = self._ratio(terms.get("group_ratio"))
        special: Decimal | None = None
        if group_ratio is None:
            group_ratio = self._live_group(self._user_group)
            special = self._live_special(self._user_group)
        elif terms.get("has_special_ratio") is True:
            # The saved group ratio already is the special one, and the fork multiplies by both: squared, as at submit.
            special = self._ratio(terms.get("user_group_ratio"))
        assert usage is not None
        tokens = total(
            Decimal(usage.input or usage.prompt or 0),
            product(usage.output or usage.completion or 0, _or_one(completion_ratio)),
        )
        return self._at(product(tokens, model_ratio, group_ratio, _or_one(special)), ROUND_HALF_UP)

    def main(self) -> Charge:
        terms = self._terms()
        if terms.get("per_call_billing") is True or usable(terms.get("model_price")):
            return self._as_reserved("fixed")
        # Zero values are left out of this JSON: within saved terms a ratio that is missing is 0.
        absent = Decimal(0) if not _MAIN_TERMS.isdisjoint(terms) else None
        model_ratio = self._ratio(terms.get("model_ratio", absent))
        group_ratio = self._ratio(terms.get("group_ratio", absent))
        if model_ratio is None:
            if self._is_priced_live():
                return self._as_reserved("fixed")
            model_ratio = self._live_model_ratio()
        if not self._has_usage():
            return self._without_usage()
        if model_ratio is None:
            return self._as_reserved("unpriced")
        if group_ratio is None:
            group = self._task.group or self._user_group
            special = self._live_special(group)
            group_ratio = self._live_group(group) if special is None else special
        others = terms.get("other_ratios")
        factors = [usable(value) for value in others.values()] if isinstance(others, dict) else []
        amount = product(self._total(), model_ratio, group_ratio, *(factor for factor in factors if factor))
        return self._as_reserved("zero_price") if amount < 1 else self._at(amount, ROUND_DOWN)

    def _terms(self) -> Mapping[str, Any]:
        terms = read_object(self._task.terms)
        if terms is None:
            self._note("terms_unreadable")
        return terms or {}

    def _ratio(self, value: object) -> Decimal | None:
        """*value* when usable; what is there but is not is noted."""
        ratio = usable(value)
        if ratio is None and value is not None:
            self._note("ratio_unusable")
        return ratio

    def _live(self, option: str) -> Mapping[str, Any]:
        """One of the live ratio maps; what is charged by it has a live source."""
        self._source = "live"
        for note in self._book.notes:
            self._note(note)
        return self._book.maps.get(option, _DEFAULTS.get(option, {}))

    def _is_priced_live(self) -> bool:
        return bool(self._ratio(self._live("ModelPrice").get(self._model)))

    def _live_model_ratio(self) -> Decimal | None:
        ratio = self._ratio(self._live("ModelRatio").get(self._model))
        if not ratio and self._book.is_self_use:
            self._note("self_use_ratio")
            return _SELF_USE_RATIO
        return ratio or None

    def _live_group(self, group: str | None) -> Decimal:
        ratio = self._ratio(self._live("GroupRatio").get(group or ""))
        if ratio is None:
            self._note("group_ratio_missing")
        return _or_one(ratio)

    def _live_special(self, group: str | None) -> Decimal | None:
        """What the group pays when it uses itself, where the gateway has such an entry."""
        entries = self._live("GroupGroupRatio").get(group or "")
        return self._ratio(entries.get(group or "")) if isinstance(entries, dict) else None

    def _check_sum(self, usage: Usage) -> None:
        if usage.total != (usage.prompt or 0) + (usage.completion or 0):
            self._is_unusable = True

    def _has_usage(self) -> bool:
        return self._usage is not None and not self._is_unusable and any(self._usage)

    def _total(self) -> int:
        """All tokens; upstream's own sum wins."""
        usage = self._usage
        assert usage is not None
        return usage.total or (usage.prompt or usage.input or 0) + (usage.completion or usage.output or 0)

    def _without_usage(self) -> Charge:
        return self._as_reserved("unusable_usage" if self._is_unusable else "no_usage")

    def _as_reserved(self, source: str) -> Charge:
        return Charge(None, source, tuple(self._notes))

    def _at(self, amount: Decimal, rounding: str) -> Charge:
        charged = whole(amount, rounding)
        if charged is None:
            self._note("out_of_range")
            return self._as_reserved("unusable_usage")
        return Charge(charged, self._source, tuple(self._notes))

    def _note(self, note: str) -> None:
        if note not in self._notes:
            self._notes.append(note)


def _saved_group(terms: Mapping[str, Any]) -> Decimal | None:
    """The group ratio among the saved terms of profile main; 0 where other terms are there but this is left out."""
    return usable(terms.get("group_ratio", None if _MAIN_TERMS.isdisjoint(terms) else Decimal(0)))


def _or_one(ratio: Decimal | None) -> Decimal:
    return _ONE if ratio is None else ratio
