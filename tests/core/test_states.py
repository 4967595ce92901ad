"""The table of states: its law, and the diagram that is printed from it."""

from __future__ import annotations

from itertools import product

from poller.core.model import Outcome, State
from poller.core.states import MOVES, can_move, diagram, is_final, rank


def test_every_state_has_a_row_in_rank_order() -> None:
    assert list(MOVES) == list(State)
    assert [rank(state) for state in MOVES] == sorted(rank(state) for state in MOVES)


def test_no_move_leads_down_or_out_of_a_final_state() -> None:
    for a, b in product(State, State):
        if can_move(a, b):
            assert rank(b) > rank(a)
            assert not is_final(a)


def test_outcomes_are_the_final_states() -> None:
    assert {state.value for state in State if is_final(state)} == {outcome.value for outcome in Outcome}


def test_every_open_state_can_end_either_way() -> None:
    for state in State:
        if not is_final(state):
            assert can_move(state, State.SUCCESS)
            assert can_move(state, State.FAILURE)


def test_the_daemon_writes_no_open_state_but_in_progress() -> None:
    assert {b for a, b in product(State, State) if can_move(a, b)} == {State.IN_PROGRESS, State.SUCCESS, State.FAILURE}


def test_the_diagram_shows_every_move_once() -> None:
    lines = diagram().splitlines()
    assert lines[0] == "stateDiagram-v2"
    for a, b in product(State, State):
        assert sum(line.strip().startswith(f"{a} --> {b}:") for line in lines) == can_move(a, b)
