"""The states of a task and every move between them: a move that is not in this table does not exist.

The law: a final state is never left, no move leads to a lower rank, and the only open state that the daemon itself
writes is IN_PROGRESS; the others are the gateway's. A new progress within one state is no move.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from poller.core.model import State

_FINISH: Final = {State.SUCCESS: "success word", State.FAILURE: "failed word, or given up"}
_START: Final = {State.IN_PROGRESS: "processing word", **_FINISH}

MOVES: Final[Mapping[State, Mapping[State, str]]] = MappingProxyType(
    {
        State.UNKNOWN: _START,
        State.NOT_START: _START,
        State.SUBMITTED: _START,
        State.QUEUED: _START,
        State.IN_PROGRESS: _FINISH,
        State.SUCCESS: {},
        State.FAILURE: {},
    }
)
"""From each state, in rank order, where to and what for."""

_RANKS: Final = {
    State.UNKNOWN: 0,
    State.NOT_START: 1,
    State.SUBMITTED: 2,
    State.QUEUED: 3,
    State.IN_PROGRESS: 4,
    State.SUCCESS: 5,
    State.FAILURE: 5,
}


def rank(state: State) -> int:
    """How far *state* is along the way, from 0; both final states are equally far."""
    return _RANKS[state]


def is_final(state: State) -> bool:
    """Whether no report can leave *state*.

    >>> is_final(State.UNKNOWN), is_final(State.FAILURE)
    (False, True)
    """
    return not MOVES[state]


def can_move(a: State, b: State) -> bool:
    """Whether the daemon may write *b* over *a*; never to itself.

    >>> can_move(State.QUEUED, State.IN_PROGRESS), can_move(State.IN_PROGRESS, State.QUEUED)
    (True, False)
    """
    return b in MOVES[a]


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documents."""
    moves = [f"    {a} --> {b}: {why}" for a, ways in MOVES.items() for b, why in ways.items()]
    ends = [f"    {state} --> [*]" for state in MOVES if is_final(state)]
    return "\n".join(["stateDiagram-v2", *moves, *ends])
