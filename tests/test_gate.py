"""The request limit as something to wait on: nobody is starved, and no slot is ever lost."""

from __future__ import annotations

import random

import anyio
import pytest

from poller.core.concurrency import Slots
from poller.gate import Gate

LIMIT_S = 30.0


def gate(limit: int, *lanes: int) -> Gate:
    made = Gate(Slots(limit))
    for lane in lanes:
        made.join(lane)
    return made


async def hold(gate: Gate, lane: int, entered: list[int], until: anyio.Event) -> None:
    async with gate.slot(lane):
        entered.append(lane)
        await until.wait()


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


async def test_a_slot_is_handed_on_when_its_holder_ends() -> None:
    slots, entered, end = gate(1, 1), [], anyio.Event()
    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(hold, slots, 1, entered, end)
            await settle()
            assert entered == [1]
            end.set()
    assert entered == [1, 1, 1]
    assert slots._slots.in_use == 0


async def test_a_lane_that_wants_everything_leaves_the_others_their_own() -> None:
    slots, entered, end = gate(4, 1, 2), [], anyio.Event()
    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(hold, slots, 1, entered, end)
            await settle()
            group.start_soon(hold, slots, 2, entered, end)
            await settle()
            assert entered == [1, 1, 2]
            end.set()


async def test_a_lane_that_leaves_gives_its_share_to_those_who_wait() -> None:
    slots, entered, end = gate(2, 1, 2), [], anyio.Event()
    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(hold, slots, 1, entered, end)
            await settle()
            assert entered == [1]
            slots.leave(2)
            await settle()
            assert entered == [1, 1]
            end.set()


async def test_an_error_in_the_block_gives_the_slot_back() -> None:
    slots = gate(1, 1)
    with pytest.raises(RuntimeError):
        async with slots.slot(1):
            raise RuntimeError
    with anyio.fail_after(LIMIT_S):
        async with slots.slot(1):
            pass


async def test_a_lane_that_has_not_joined_is_refused_and_leaves_nothing_behind() -> None:
    slots = gate(1, 1)
    with pytest.raises(ValueError):
        async with slots.slot(2):
            pass
    slots.join(2)
    with anyio.fail_after(LIMIT_S):
        async with slots.slot(2):
            pass


async def test_whoever_gives_up_waiting_takes_nobodys_turn() -> None:
    slots, entered, end = gate(1, 1), [], anyio.Event()
    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group:
            group.start_soon(hold, slots, 1, entered, end)
            await settle()
            async with anyio.create_task_group() as impatient:
                impatient.start_soon(hold, slots, 1, entered, end)
                await settle()
                impatient.cancel_scope.cancel()
            group.start_soon(hold, slots, 1, entered, end)
            await settle()
            end.set()
    assert entered == [1, 1]
    assert slots._slots.in_use == 0


async def test_a_turn_that_comes_together_with_the_cancellation_is_passed_on() -> None:
    slots, entered, end = gate(1, 1), [], anyio.Event()
    scope = anyio.CancelScope()

    async def hold_then_cancel() -> None:
        async with slots.slot(1):
            await end.wait()
        # In the same turn of the loop: the waiter has been granted the slot, but has not run since.
        scope.cancel()

    async def impatient() -> None:
        with scope:
            await hold(slots, 1, entered, end)

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group:
            group.start_soon(hold_then_cancel)
            await settle()
            group.start_soon(impatient)
            await settle()
            end.set()
    assert scope.cancelled_caught
    assert slots._slots.in_use == 0


async def test_no_slot_is_lost_whenever_a_thousand_asks_are_cancelled() -> None:
    slots, chance = gate(5, 1, 2, 3), random.Random(7)

    async def ask(lane: int) -> None:
        with anyio.move_on_after(chance.random() * 0.01):
            async with slots.slot(lane) as slot:
                await anyio.sleep(chance.random() * 0.01)
                slot.timed_out = chance.random() < 0.3

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group:
            for number in range(1000):
                group.start_soon(ask, number % 3 + 1)
                if number % 20 == 0:
                    await anyio.sleep(0.002)
    assert slots._slots.in_use == 0
    assert not any(slots._waiting.values())
