"""The daemon that settles asynchronous AI tasks of new-api gateways: this page is its map.

The cycle
---------
A gateway charges a user up front, hands a task to an upstream and records it. Somebody must then ask how the task went
and make the bill right. ::

    due tasks ─► batches ─► ask upstream ─► decide ─► settle (status + quota + ledger, one transaction)
       ▲                                      │
       └───────────── ask again later ◄───────┘

=====================  ==============================================================================================
``fleet``              which channels this replica walks: leases in ``poller.lane``, judged by the database's clock
``lane``               one channel's loop and its pace
``walk``, ``sending``   one pass: pages in pk order, batches side by side, or one probe at a time
``inquiry``            one batch until all is known of it: halves of what is refused, the other keys of a channel
``asking``             how one lane asks: slots (``gate``), adaptive limit, retries, breaker
``batch``              one answer: decide on every task, write what was decided, money first
``core.decide``        the whole law of a task's fate, in one pure function
``core.pricing``       what a success costs, by the arithmetic of the gateway that charged it
``postgres.settle``    the transaction in which money moves; the SQL itself is in ``postgres/sql/<profile>/settle.sql``
``deliver``            what settling left in the outbox, handed to the log database and the cache of the gateway
``vigil``              what is watched beside the lanes: the queue, a second writer, drift, notes nobody needs
``daemon``, ``wiring``  opens, wires, supervises, drains, aborts
=====================  ==============================================================================================

Two things keep the money right, and neither is a lease, a clock or a variable of ours: the guard in the settling
statement (not final, still the same user, channel and task id) and the key of ``poller.ledger``. Leases only save
requests: two replicas that walk one channel ask twice and settle once.

The states
----------
Printed from ``core.states``; a move that is not here does not exist. Each profile's SQL translates its own words. ::

    stateDiagram-v2
        UNKNOWN --> IN_PROGRESS: processing word
        UNKNOWN --> SUCCESS: success word
        UNKNOWN --> FAILURE: failed word, or given up
        NOT_START --> IN_PROGRESS: processing word
        NOT_START --> SUCCESS: success word
        NOT_START --> FAILURE: failed word, or given up
        SUBMITTED --> IN_PROGRESS: processing word
        SUBMITTED --> SUCCESS: success word
        SUBMITTED --> FAILURE: failed word, or given up
        QUEUED --> IN_PROGRESS: processing word
        QUEUED --> SUCCESS: success word
        QUEUED --> FAILURE: failed word, or given up
        IN_PROGRESS --> SUCCESS: success word
        IN_PROGRESS --> FAILURE: failed word, or given up
        SUCCESS --> [*]
        FAILURE --> [*]

Which way imports point
-----------------------
``core`` and ``upstream.wire`` know the standard library and each other (wire also msgspec): no I/O, no clock, no
chance. The adapters ``upstream``, ``postgres``, ``cache`` and ``ops`` know core and errors, never one another. The
loops on this level own the narrow ports they need. Only ``daemon`` with ``wiring``, ``cli`` and ``demo`` wire adapters
to loops.
``tests/test_architecture.py`` holds all of this.

Words
-----
task            a row somebody else recorded, still owed an answer
channel, lane   one upstream account; its work, held by one replica
batch, ask      ids asked about in one request; that request, its retries included
report          what upstream said of one task: testimony, not truth
decision        ``Keep``, ``Advance``, ``Settle``, ``GiveUp``
settle          final status and money, once; reserved = charged + refunded, all integers
retry, defer    the same request again, in memory; ask again on a later pass
pass            one walk over a lane
quarantine      kept for a person: not asked about any more, until somebody requeues or resolves it
drain, abort    finish what was asked and stop; stop now
"""

__version__ = "0.1.0"
