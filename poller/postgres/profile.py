"""Which gateway this database belongs to, told by its catalogue; a version string is never believed."""

from __future__ import annotations

from typing import NamedTuple

from poller.errors import Misconfigured
from poller.postgres.pool import Database
from poller.postgres.statements import PROFILES, load_own

_KINDS = {
    "whole": {"smallint", "integer", "bigint"},
    "number": {"smallint", "integer", "bigint", "numeric", "real", "double precision"},
    "text": {"text", "character varying", "character"},
    "json": {"json", "jsonb"},
    "jsonb": {"jsonb"},
    "time": {"timestamp with time zone"},
}

# The columns that our statements name, and no others: what else a gateway has or lacks is no concern of ours.
_OF_NEW_API = {
    "users": "id:whole username:text quota:whole group:text",
    "channels": "id:whole type:whole name:text key:text base_url:text used_quota:whole",
    "options": "key:text value:text",
    "logs": "id:whole user_id:whole created_at:whole type:whole content:text username:text other:text",
}
_TASKS_OF_NEW_API = (
    "id:whole created_at:whole updated_at:whole task_id:text platform:text user_id:whole channel_id:whole quota:whole "
    "action:text status:text fail_reason:text submit_time:whole start_time:whole finish_time:whole progress:text "
    "properties:json data:json"
)
_EXPECTED = {
    "documented": {
        "tasks": "id:whole task_id:text platform:text user_id:whole channel_id:whole action:text status:text "
        "progress:text quota:whole used_quota:whole fail_reason:text data:jsonb created_at:time updated_at:time",
        "users": "id:whole quota:whole used_quota:whole group:text",
        "channels": "id:whole type:whole name:text key:text base_url:text",
        "abilities": "model_name:text channel_type:whole ratio:number fixed_quota:whole",
        "group_ratio": "group_name:text ratio:number",
        "logs": "id:whole user_id:whole type:text quota:whole model_name:text prompt_tokens:whole "
        "completion_tokens:whole content:text created_at:time",
    },
    "fork": {"tasks": _TASKS_OF_NEW_API, **_OF_NEW_API},
    "main": {
        **_OF_NEW_API,
        "tasks": f"{_TASKS_OF_NEW_API} group:text private_data:json",
        "users": f"{_OF_NEW_API['users']} used_quota:whole",
        "tokens": "id:whole user_id:whole name:text key:text remain_quota:whole used_quota:whole accessed_time:whole",
        "logs": f"{_OF_NEW_API['logs']} token_name:text model_name:text quota:whole prompt_tokens:whole "
        "completion_tokens:whole channel_id:whole token_id:whole group:text request_id:text",
        "user_subscriptions": "id:whole user_id:whole amount_total:whole amount_used:whole updated_at:whole",
    },
}


class Profile(NamedTuple):
    """A gateway variant and what else was seen of its database."""

    name: str
    """``documented``, ``fork`` or ``main``: the folder of SQL that fits."""
    why: str
    """One line for a person."""
    quota_bits: int
    """Width of ``users.quota``: 32 where an old database was restored, else 64."""
    has_index: bool
    """Whether the index over active tasks is there and valid."""


async def detect(database: Database, wanted: str = "auto") -> Profile:
    """The profile of this database; *wanted* other than ``auto`` is a claim that must fit.

    Raises Misconfigured when there is no gateway here, when it is one that charges by other rules, when *wanted*
    contradicts what is there, and when columns are missing or of another type: one fault a column.
    """
    own = load_own()
    rows = await database.fetch(own.columns, sorted({table for tables in _EXPECTED.values() for table in tables}))
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row["table_name"], {})[row["column_name"]] = row["type"]
    if wanted not in ("auto", *PROFILES):
        raise Misconfigured(f"CUSTOM_PASS_SCHEMA: {wanted!r} is none of auto, {', '.join(PROFILES)}")
    name, why = _told_apart(found.get("tasks", {}))
    if wanted not in ("auto", name):
        raise Misconfigured(f"CUSTOM_PASS_SCHEMA: {wanted} was asked for, but this database is {name}: {why}; use auto")
    if faults := _differences(name, found):
        raise Misconfigured(f"schema: this database looks like profile {name} ({why}), but:", *faults)
    index = await database.fetch(own.index_state)
    return Profile(
        name,
        why,
        quota_bits=64 if found["users"]["quota"] == "bigint" else 32,
        has_index=bool(index and index[0]["is_valid"]),
    )


def _told_apart(tasks: dict[str, str]) -> tuple[str, str]:
    """Profile and reason, from the columns of ``tasks`` alone."""
    if not tasks:
        raise Misconfigured(
            "schema: there is no table tasks on the search_path of this role; SQL_DSN must name the gateway's database"
        )
    if "token_id" in tasks:
        raise Misconfigured(
            "schema: tasks.token_id exists: this is the first CustomPass fork (F0), which charged by other rules; its "
            "tasks cannot be settled by this program: upgrade the gateway first. Where that was done, and no task from "
            "before is open any more, the column is a left-over: ALTER TABLE tasks DROP COLUMN token_id"
        )
    if "private_data" in tasks:
        return "main", "tasks.private_data exists"
    if "submit_time" in tasks:
        return "fork", "tasks.submit_time exists, tasks.private_data does not"
    if "used_quota" in tasks:
        return "documented", "tasks.used_quota exists, tasks.submit_time does not"
    raise Misconfigured(
        "schema: table tasks is of no known gateway: expected tasks.used_quota (documented), tasks.submit_time (fork) "
        f"or tasks.private_data (main); found {', '.join(sorted(tasks))}"
    )


def _differences(name: str, found: dict[str, dict[str, str]]) -> list[str]:
    """What profile *name* needs and the database lacks, one line each: table, column, expected, found."""
    faults = []
    for table, columns in _EXPECTED[name].items():
        if table not in found:
            faults.append(f"table {table}: missing")
            continue
        for column, kind in (part.split(":") for part in columns.split()):
            types, there = _KINDS[kind], found[table].get(column)
            wanted = " or ".join(sorted(types))
            if there is None:
                faults.append(f"column {table}.{column}: missing, expected {wanted}")
            elif there not in types:
                faults.append(f"column {table}.{column}: expected {wanted}, found {there}")
    return faults
