"""Whose tasks schema ``poller`` is about: the keys in it mean rows of one table ``tasks``.

Two gateways in one database, told apart by ``search_path``, have the same keys for different tasks. The first daemon
notes the schema that it works in. A dump that is restored into another database is the same home.
"""

from __future__ import annotations

from poller.errors import OtherGateway
from poller.postgres.database import Database
from poller.postgres.statements import load_own

_LOOKS = 3


async def see_home(database: Database, *, is_claimed: bool = False) -> None:
    """Return when the ``tasks`` of this database's search_path are those of schema ``poller``, or nobody's yet.

    *is_claimed*: then they are so from now on. Raises OtherGateway.
    """
    own = load_own()
    for _ in range(_LOOKS):
        (row,) = await database.fetch(own.home, is_claimed)
        if row["noted"] is not None or not is_claimed:
            break
    if row["noted"] not in (None, row["found"]):
        raise OtherGateway(row["noted"], row["found"] or "no schema")
