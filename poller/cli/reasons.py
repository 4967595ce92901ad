"""What rules and reasons mean, for a person: by what a task was settled, or why it is held and what mends that."""

from __future__ import annotations

_REQUEUE = "then poller tasks requeue ID"
_RESOLVE = "settle it by hand: poller tasks resolve ID"

RULES = {
    "success_word": "upstream said a success word",
    "failed_word": "upstream said a failed word",
    "not_found_confirmed": "upstream said not_found often enough, and the lists call that a failure",
    "expired": "nothing final before the deadline, and a good answer after it: refunded by policy",
    "operator": "settled by hand",
}
"""By what a task was settled."""

HELD = {
    "deadline_hold": "nothing final before the deadline; CUSTOM_PASS_DEADLINE_POLICY=hold leaves it to a person: "
    f"ask the upstream, {_RESOLVE}",
    "age_unreadable": "its submit time is missing, in the future or not in seconds, so no deadline can be told: "
    f"mend the time in tasks, {_REQUEUE}, or {_RESOLVE}",
    "unknown_past_deadline": "past the deadline, and upstream says a word that no list knows: map the word "
    f"(poller status has the line), {_REQUEUE}",
    "unreadable_past_deadline": "past the deadline, and upstream's item for it cannot be read: ask the upstream, "
    f"{_RESOLVE}",
    "contradiction_past_deadline": "past the deadline, and upstream contradicts itself about it: ask the upstream, "
    f"{_RESOLVE}",
    "unreachable_past_limit": "nobody could be asked about it for 12 lifetimes: mend the channel's row or its "
    f"upstream, {_REQUEUE}, or {_RESOLVE}",
    "refused_alone": "upstream refuses requests that hold this id, and answers about its neighbours: ask the "
    f"upstream, {_RESOLVE}",
    "charge_implausible": "its usage would cost more than any gateway charges: ask the upstream what it used, and "
    f"{_RESOLVE}",
    "quota_overflow": "an amount does not fit into a column of the gateway: look at its quota and at its owner's "
    f"balances, widen the column (users.quota to bigint) or mend the amount, {_REQUEUE}",
    "quota_negative": f"its row reserves less than nothing: mend tasks.quota, {_REQUEUE}",
    "user_gone": "money is due and its owner's row is gone from users: restore the row, "
    f"{_REQUEUE}, or keep what was reserved (poller tasks resolve ID --as-reserved)",
    "subscription_gone": "money is due and the subscription that paid is gone from user_subscriptions: restore the "
    f"row, {_REQUEUE}, or keep what was reserved (poller tasks resolve ID --as-reserved)",
    "subscription_overdrawn": "it costs more than its subscription has left: raise the subscription's amount_total, "
    f"{_REQUEUE}, or charge what fits (poller tasks resolve ID --charge N)",
    "ledger_of_another_task": "the ledger has this key for another task: the database was restored, or ids were "
    "reused: poller tasks requeue ID --set-ledger-aside",
    "ledger_of_another_amount": "settled before, and open again with another amount, which may be a new charge: see "
    f"what the gateway charged for, and put the amount of the settlement back into tasks.quota, {_REQUEUE}",
    "bad_amount": f"the amount to charge is no whole number in range: ask the upstream what it used, and {_RESOLVE}",
    "odd_data": "the database refuses its data: the detail names what, and where; mend the row, "
    f"{_REQUEUE}, or {_RESOLVE}",
    "constraint": "the database refuses the change by a constraint, which the detail names: drop it or mend the row "
    f"that it protects, {_REQUEUE}",
    "no_ledger_row": "the row of poller.ledger was not written: a trigger or rule of that table held it back: take "
    f"that away, {_REQUEUE}",
    "no_task_row": "its row of tasks was not changed: a trigger, a rule or row security held it back: take that away, "
    f"{_REQUEUE}",
    "no_user_row": "its owner's row of users was not changed, though it is there: a trigger, a rule or row security "
    f"held it back: take that away, {_REQUEUE}",
    "no_token_row": "its token's row of tokens was not changed, though it is there: a trigger, a rule or row security "
    f"held it back: take that away, {_REQUEUE}",
    "no_subscription_row": "its subscription was not changed: several supplements overdraw it together, or a trigger "
    f"or row security held it back: raise its amount_total or take that away, {_REQUEUE}",
}
"""Why a task is in quarantine, and what mends it."""


def meaning(rule: str) -> str:
    """*rule* with its explanation in brackets; as it stands where there is none."""
    said = RULES.get(rule) or HELD.get(rule)
    return f"{rule} ({said})" if said else rule
