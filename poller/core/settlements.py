"""Settlements as decisions want them: the final status, the money, and the words that go with it."""

from __future__ import annotations

import json
from typing import Final

from poller.core.evidence import clean_text, evidence_of, storable_json
from poller.core.model import GiveUp, Outcome, Report, Settle, Settlement, Task
from poller.core.pricing import Charge

_FAILED_WITHOUT_WORDS: Final = "upstream reported failure without a reason"
_FAIL_REASON_LIMIT: Final = 2048


def succeeded(task: Task, settle: Settle, report: Report, charge: Charge) -> Settlement:
    """Upstream finished *task*, and it costs *charge*."""
    usage = settle.usage
    return Settlement(
        task=task,
        outcome=Outcome.SUCCESS,
        charged=charge.charged,
        rule=settle.reason,
        price_source=charge.source,
        prompt_tokens=(usage.prompt or 0) if usage else 0,
        completion_tokens=(usage.completion or 0) if usage else 0,
        data=storable_json(settle.payload),
        evidence=evidence_of(report),
        finished_s=settle.finished_s,
    )


def failed(task: Task, settle: Settle, report: Report) -> Settlement:
    """Upstream failed: everything goes back."""
    return Settlement(
        task=task,
        outcome=Outcome.FAILURE,
        charged=0,
        rule=settle.reason,
        fail_reason=clean_text(settle.error, _FAIL_REASON_LIMIT) or _FAILED_WITHOUT_WORDS,
        data=storable_json(settle.payload),
        evidence=evidence_of(report),
        finished_s=settle.finished_s,
    )


def expired(task: Task, give_up: GiveUp, report: Report) -> Settlement:
    """No verdict came before the deadline: everything goes back."""
    reason = give_up.detail or "no result before the deadline"
    # The old payload would contradict the row: its inner status is still an open one.
    data = json.dumps({"task_id": task.upstream_id, "status": "timeout", "error": reason}, ensure_ascii=False)
    return Settlement(
        task=task,
        outcome=Outcome.FAILURE,
        charged=0,
        rule="expired",
        fail_reason=reason,
        data=storable_json(data.encode("utf-8", "replace")),
        evidence=evidence_of(report),
    )
