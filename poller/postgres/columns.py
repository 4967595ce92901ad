"""A batch of settlements as the arrays that statement settle takes."""

from __future__ import annotations

from collections.abc import Sequence

from poller.core.model import Outcome, Settlement


def is_sound(one: Settlement) -> bool:
    """Whether *one* charges a whole number that a bigint holds, and nothing after a failure."""
    # asyncpg takes True for 1 and 1.5 for 1.
    if one.outcome is Outcome.FAILURE:
        return type(one.charged) is int and one.charged == 0
    return one.charged is None or _is_amount(one.charged)


def _is_amount(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def columns(batch: Sequence[Settlement]) -> list[list[object]]:
    """The arrays that statement settle takes as its first parameters."""
    rows = [
        (
            one.task.pk,
            one.task.task_id,
            one.task.user_id,
            one.task.channel_id,
            one.task.price_model,
            one.outcome.value,
            one.charged,
            one.rule,
            one.price_source,
            one.prompt_tokens if _is_amount(one.prompt_tokens) else 0,
            one.completion_tokens if _is_amount(one.completion_tokens) else 0,
            one.fail_reason,
            one.data,
            one.evidence,
        )
        for one in batch
    ]
    return [list(column) for column in zip(*rows, strict=True)]
