"""Which tasks share a request, and how many of them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.batches import Batch, BatchSize, Narrowing, Planner, Turns
from poller.core.keys import KeyRing
from poller.core.model import Channel, Route, Secret, State, StatusWords, Task
from poller.core.words import DEFAULT_WORDS

KEYS = (Secret("key-1"), Secret("key-2"), Secret("key-3"))


def channel(*keys: Secret, words: StatusWords = DEFAULT_WORDS) -> Channel:
    return Channel(7, 52, "c", "http://up", keys or KEYS[:1], words, "X-Custom-Token")


def task(pk: int, **changes: object) -> Task:
    known = Task(
        pk, f"t{pk}", f"t{pk}", 1, 7, "m/submit", "m/submit", "", State.SUBMITTED, "", 450, 1.0, None, None, "", ""
    )
    return known._replace(**changes)


def batches(*tasks: Task, size: int = 50, room: int = 1000, of: Channel | None = None) -> list[Batch]:
    planner = Planner(of or channel(), size, room)
    return [batch for each in tasks for batch in planner.add(each)] + list(planner.rest())


# -- batches ----------------------------------------------------------------------------------------------------

secrets = st.sampled_from([None, Secret("token-a"), Secret("token-b"), Secret("token-c")])
tasks_of_tenants = st.lists(
    st.builds(
        lambda pk, token, header, model, key, upstream_id: task(
            pk,
            client_token=token,
            token_header=header if token else "",
            model=model,
            key=key,
            upstream_id=upstream_id,
        ),
        st.integers(1, 10**6),
        secrets,
        st.sampled_from(["", "X-Tenant", "x-tenant"]),
        st.sampled_from(["m/submit", "n/submit"]),
        st.sampled_from([None, Secret("saved-key")]),
        st.sampled_from([f"job-{n}" for n in range(8)]),
    ),
    max_size=60,
    unique_by=lambda each: each.pk,
)


@given(tasks_of_tenants, st.integers(1, 7), st.integers(1, 30), st.integers(1, 3))
def test_no_tenants_token_travels_with_another_tenants_task(tasks: list[Task], size: int, room: int, keys: int) -> None:
    seen = []
    for batch in batches(*tasks, size=size, room=room, of=channel(*KEYS[:keys])):
        for part in (batch, *(batch.halves() if len(batch.tasks) > 1 else ()), batch.with_key(Secret("other"))):
            for each in part.rows():
                assert part.route.client_token == each.client_token
                assert part.route.model == each.model
                assert part.route.token_header == ((each.token_header or "X-Custom-Token") if each.client_token else "")
        assert {each.key or KEYS[0] for each in batch.rows()} == {batch.route.key}
        assert len(batch.tasks) <= size
        seen += [each.pk for each in batch.rows()]
    assert sorted(seen) == sorted(each.pk for each in tasks)


# -- an upstream in doubt -----------------------------------------------------------------------------------------


def narrowed(count: int, size: int, *, answers: int) -> Narrowing:
    """After a pass in which *count* batches of *size* failed and *answers* were answered."""
    narrowing = Narrowing()
    for number in range(count):
        pks = range(number * size, (number + 1) * size)
        batch = Batch(Route("m", None, None, ""), {f"t{pk}": [task(pk)] for pk in pks})
        narrowing.failed(batch, pks)
    for _ in range(answers):
        narrowing.answered([10**6])
    narrowing.end_pass()
    return narrowing


@pytest.mark.parametrize(("count", "answers", "most"), [(1, 0, 25), (1, 1, 25), (3, 1, 25), (2, 0, None), (3, 0, None)])
def test_what_failed_is_halved_where_others_were_answered_or_there_were_none(
    count: int, answers: int, most: int | None
) -> None:
    assert narrowed(count, 50, answers=answers).most(7) == most


def test_a_batch_holds_no_more_than_the_least_of_its_tasks_may_share() -> None:
    narrowing = narrowed(1, 4, answers=1)
    planner = Planner(channel(), 50, 1000, narrowing=narrowing)
    found = [batch for pk in range(10) for batch in planner.add(task(pk))] + list(planner.rest())
    assert [[each.pk for each in batch.rows()] for batch in found] == [[0, 1], [2, 3], [4, 5, 6, 7, 8, 9]]


def test_an_answer_ends_the_narrowing_of_whom_it_was_about() -> None:
    narrowing = narrowed(1, 4, answers=1)
    narrowing.answered([0, 1])
    assert [narrowing.most(pk) for pk in range(4)] == [None, None, 2, 2]


def test_an_outage_narrows_nothing_further_and_forgets_nothing_but_what_is_gone() -> None:
    narrowing = narrowed(1, 4, answers=1)
    for pk in (2, 3):
        narrowing.failed(Batch(Route("m", None, None, ""), {f"t{pk}": [task(pk)]}), [pk])
    narrowing.end_pass()
    assert [narrowing.most(pk) for pk in range(4)] == [None, None, 2, 2]


def test_only_so_many_ids_are_narrowed_at_a_time() -> None:
    narrowing = narrowed(100, 50, answers=1)
    assert sum(narrowing.most(pk) is not None for pk in range(5000)) == 1000


DEAD, OTHER = Route("dead", None, None, ""), Route("other", None, None, "")


def probed(turns: Turns, *places: tuple[Route, int | None, int], good: int = 0) -> list[int]:
    """First pks of the batches (of 10 pks each) that one pass probes; only the one from *good* on is answered."""
    up = []
    for route, most, first_pk in places:
        if turns.is_up(route, most, first_pk):
            up.append(first_pk)
            if first_pk == good:
                turns.forget()
            else:
                turns.failed(route, most, first_pk + 9)
    turns.end_pass()
    return up


def test_a_dead_route_goes_on_from_pass_to_pass_where_it_stopped_and_begins_anew_at_its_end() -> None:
    turns = Turns()
    lane = [(DEAD, None, 1 + 10 * number) for number in range(6)]
    assert [probed(turns, *lane) for _ in range(3)] == [[1, 11, 21, 31], [41, 51], [1, 11, 21, 31]]


def test_routes_take_turns_wherever_they_stand_in_the_lane() -> None:
    turns = Turns()
    lane = [*((DEAD, None, 1 + 10 * number) for number in range(9)), (OTHER, None, 500)]
    probed(turns, *lane)  # nobody knows of the other one yet
    assert probed(turns, *lane) == [41, 500]
    assert probed(turns, *lane) == [51, 500]


def test_one_bad_id_at_the_front_keeps_nobody_of_its_route_waiting() -> None:
    turns = Turns()
    lane = [(DEAD, 1, 1), (DEAD, None, 11), (DEAD, None, 21)]
    assert probed(turns, *lane, good=21)[-1] == 21
    assert 11 in probed(turns, *lane, good=11)


def test_the_only_batch_of_a_lane_is_probed_in_every_pass() -> None:
    turns = Turns()
    assert [probed(turns, (DEAD, None, 1)) for _ in range(3)] == [[1], [1], [1]]


def test_an_answer_lets_everybody_begin_anew() -> None:
    turns = Turns()
    lane = [(DEAD, None, 1), (DEAD, None, 11)]
    assert probed(turns, lane[0], lane[1], good=11) == [1, 11]
    assert probed(turns, *lane) == [1, 11]


def test_a_tasks_own_header_comes_before_that_of_the_channel() -> None:
    token = Secret("tok")
    own, plain = task(1, client_token=token, token_header="X-Own"), task(2, client_token=token)
    assert [batch.route.token_header for batch in batches(own, plain)] == ["X-Own", "X-Custom-Token"]


def test_rows_with_one_id_are_asked_about_once() -> None:
    (batch,) = batches(task(1, upstream_id="x"), task(2, upstream_id="x"))
    assert list(batch.tasks) == ["x"]
    assert [each.pk for each in batch.rows()] == [1, 2]


def test_waiting_tasks_are_bounded_when_each_has_a_token_of_its_own() -> None:
    planner = Planner(channel(), 50, 10)
    sent = [batch for pk in range(100) for batch in planner.add(task(pk, client_token=Secret(f"t{pk}")))]
    assert len(sent) == 90
    assert len(list(planner.rest())) == 10


def test_parts_keep_every_row() -> None:
    (batch,) = batches(*(task(pk, upstream_id=f"x{pk % 3}") for pk in range(9)))
    first, rest = batch.cut(2)
    assert rest is not None
    assert sorted(each.pk for part in (first, rest) for each in part.rows()) == list(range(9))
    assert batch.cut(3) == (batch, None)
    odd, even = batch.parted(lambda name, each: bool(each.pk % 2))
    assert [each.pk % 2 for each in odd.rows()] == [1, 1, 1, 1]
    assert len(even.rows()) == 5


def test_on_a_multi_key_channel_a_batch_has_one_key() -> None:
    ring = KeyRing(KEYS)
    ring.refuse(KEYS[0])
    planner = Planner(channel(*KEYS), 50, 100, ring)
    tasks = [task(1), task(2, key=Secret("saved"))]
    found = [batch for each in tasks for batch in planner.add(each)] + list(planner.rest())
    assert {batch.route.key for batch in found} == {KEYS[1], Secret("saved")}


# -- sizes ----------------------------------------------------------------------------------------------------


def asks(size: BatchSize, count: int, limit: int) -> list[int]:
    """Sizes of *count* asks of an upstream that answers *limit* ids in time and no more."""
    asked = []
    for _ in range(count):
        asked.append(size.now)
        if size.now <= limit:
            size.answered(size.now)
        else:
            size.timed_out(size.now)
    return asked


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 20, 49])
def test_an_upstream_that_is_slow_for_each_id_gets_no_more_than_it_can_answer(limit: int) -> None:
    size = BatchSize(50)
    asks(size, 60, limit)
    sizes = asks(size, 200, limit)
    assert sum(each > limit for each in sizes) <= 200 / 10 + 1
    assert max(each for each in sizes if each <= limit) > limit / 4


def test_an_outage_costs_one_small_request() -> None:
    size = BatchSize(50)
    asks(size, 20, 50)
    assert asks(size, 12, 0)[-1] == 1
    assert asks(size, 3, 50) == [1, 50, 50]


def test_asks_that_were_on_their_way_when_the_first_timed_out_count_once() -> None:
    size = BatchSize(50)
    for _ in range(8):
        size.timed_out(50)
    assert size.now == 25


def test_an_upstream_that_can_do_more_again_is_found_out() -> None:
    size = BatchSize(50)
    asks(size, 60, 5)
    assert max(asks(size, 100, 50)) == 50


@pytest.mark.parametrize("seed", range(5))
def test_time_outs_by_chance_keep_requests_large(seed: int) -> None:
    size, chance, asked = BatchSize(50), random.Random(seed), []
    for _ in range(2000):
        asked.append(size.now)
        if chance.random() < 0.3:
            size.timed_out(size.now)
        else:
            size.answered(size.now)
    assert sum(asked) / len(asked) > 25


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=200), st.integers(1, 50))
def test_it_is_always_a_size(events: list[tuple[bool, int]], most: int) -> None:
    size = BatchSize(most)
    for is_answered, asked in events:
        (size.answered if is_answered else size.timed_out)(min(asked, size.now))
        assert 1 <= size.now <= most


def test_a_route_is_part_of_what_a_batch_is() -> None:
    route = Route("m", KEYS[0], None, "")
    assert Batch(route, {}).with_key(KEYS[1]).route == route._replace(key=KEYS[1])
