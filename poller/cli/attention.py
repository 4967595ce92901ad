"""What somebody should look at, each in a line with the command that shows or mends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from poller.cli.desk import ALL_LANES, refunds_waiting, resuming
from poller.cli.sheet import ago

_STALE_INTERVALS = 3


def attention(told: Mapping[str, Any], interval_s: float) -> list[str]:
    """The lines for what ``status`` told, the whole first, then channel by channel, then what waits for a person."""
    found = [f"{name}: {said}" for name, said in told.get("checks", {}).items() if said != "ok"]
    replicas = told.get("replicas")
    is_anybody_there = replicas is None or any(each["is_live"] for each in replicas)
    if not is_anybody_there:
        found.append("no replica is alive: nothing is polled (poller run)")
    if told.get("has_index") is False:
        found.append("the index on active tasks is missing: every pass reads the whole table (poller migrate)")
    if any(lane.get("is_all_paused") for lane in told["lanes"]):
        found.append("all channels are paused (poller resume)")
    unaskable = {row["channel_id"]: row["why"] for row in told.get("unaskable", [])}
    for channel_id, why in unaskable.items():
        mend = f"mend its row, or settle them by hand: poller tasks list --channel {channel_id}"
        found.append(f"channel {channel_id}: nobody can be asked about its tasks: {why} ({mend})")
    # Channel 0 is what tasks have that name none.
    said_already = {*unaskable, *([0] if told.get("without_channel") else [])}
    for lane in told["lanes"]:
        name = f"channel {lane['channel_id']}"
        if waiting := refunds_waiting(lane):
            found.append(f"{name}: {waiting}")
        is_said = lane["channel_id"] in said_already
        found += [f"{name}{said}" for said in _of_lane(lane, interval_s, is_said, is_anybody_there)]
    if lost := told.get("without_channel", 0):
        found.append(f"{lost} open {'task names' if lost == 1 else 'tasks name'} no channel: nobody can be asked")
    if held := sum(row["tasks"] for row in told.get("quarantine", [])):
        found.append(f"{held} {'task' if held == 1 else 'tasks'} in quarantine (poller tasks list --quarantined)")
    if words := len(told.get("unknown_words", [])):
        found.append(f"{words} status {'word' if words == 1 else 'words'} in no list (see below)")
    return found


def _of_lane(lane: Mapping[str, Any], interval_s: float, is_said: bool, is_anybody_there: bool) -> Iterator[str]:
    """What is wrong with one lane, at most one thing: what hides the others comes first.

    *is_said*: of this channel nobody can be asked, which was said already.
    """
    counts = lane["pass_counts"]
    failed = counts.get("failed_requests", 0)
    if lane["is_paused"]:
        if lane["pause_reason"] != ALL_LANES:
            yield f" is paused: {lane['pause_reason'] or 'no reason given'} ({resuming(lane)})"
    elif is_said or not lane["has_work"]:
        return
    elif lane["breaker"] != "closed":
        yield f": its upstream does not answer, breaker {lane['breaker']}{_since(lane)}"
    elif failed and not counts.get("requests"):
        why = "its upstream is down or refuses, or its row is gone or has no key or address"
        yield f": its last pass got no answer, {failed} failed: {why}; the log says which (poll_failed)"
    elif not lane["is_held"]:
        if is_anybody_there:
            yield ": no replica holds its lane"
    elif lane["unasked_s"] is not None and lane["unasked_s"] > _STALE_INTERVALS * interval_s:
        yield f": its pass has been going on for {ago(lane['unasked_s'])}"


def _since(lane: Mapping[str, Any]) -> str:
    """How often upstream failed, and when it is asked again, as far as the lane's row tells."""
    failures = lane.get("breaker_failures")
    said = f" after {failures} failures in a row" if failures else ""
    left_s = (lane.get("breaker_until_s") or 0.0) - lane.get("now_s", 0.0)
    return f"{said}, asked again in {ago(left_s)}" if lane["breaker"] == "open" and left_s > 0 else said
