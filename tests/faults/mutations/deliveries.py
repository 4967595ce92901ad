"""Bugs of the outbox: log rows that are lost or doubled, cached balances that are moved twice or the wrong way."""

from __future__ import annotations

from tests.faults.mutations.mutation import Mutation, Patch, one, without

_DELIVER = "deliver.py"
_CLAIM = "postgres/sql/own/outbox_claim.sql"
_REDIS = "cache/redis.py"

_DELIVERER = "tests/test_deliver.py"
_OUTBOX = "tests/postgres/test_outbox.py"
_ELSEWHERE = "tests/postgres/test_logs_elsewhere.py"
_CACHE = "tests/cache/test_redis.py"
_PROFILES = "tests/postgres/test_settle_profiles.py"

MUTATIONS: tuple[Mutation, ...] = (
    # -- the loop
    one(
        "balance whose claim ended in doubt is moved again",
        _DELIVER,
        "[] if self._courier.may_repeat else [each for each in entries if each.is_in_doubt]",
        "[]",
        f"{_DELIVERER}::test_a_balance_whose_claim_ended_without_a_word_is_not_moved_again",
    ),
    one(
        "entries are removed before they are handed over",
        _DELIVER,
        "        entries = await self._outbox.claim(self.kind, _AT_ONCE, _CLAIM_S, floor)\n",
        "        entries = await self._outbox.claim(self.kind, _AT_ONCE, _CLAIM_S, floor)\n"
        "        await self._outbox.remove([each.id for each in entries])\n",
        f"{_DELIVERER}::test_redis_and_log_database_down_lose_nothing_and_are_caught_up_with",
    ),
    one(
        "log rows are removed as soon as the log database has answered, before they are added",
        _DELIVER,
        "receipts += await self._courier.deliver(certain)",
        "await self._outbox.remove([each.id for each in certain])\n"
        "                receipts += await self._courier.deliver(certain)",
        f"{_DELIVERER}::test_a_log_database_that_is_lost_in_the_midst_of_a_delivery_has_every_row_once_in_the_end",
    ),
    one(
        "what could not be handed over is dropped",
        _DELIVER,
        "            if fate in DONE:\n",
        "            if fate in DONE or fate is Fate.LEFT:\n",
        f"{_DELIVERER}::test_redis_and_log_database_down_lose_nothing_and_are_caught_up_with",
    ),
    one(
        "log row that was refused is dropped",
        "core/delivery.py",
        "frozenset({Fate.DELIVERED, Fate.POINTLESS, Fate.UNKNOWN})",
        "frozenset({Fate.DELIVERED, Fate.POINTLESS, Fate.UNKNOWN, Fate.REFUSED})",
        f"{_DELIVERER}::test_a_log_row_that_is_refused_waits_for_a_person_and_arrives_once_it_is_taken",
    ),
    one(
        "entry of unknown fate is put back",
        "core/delivery.py",
        "frozenset({Fate.DELIVERED, Fate.POINTLESS, Fate.UNKNOWN})",
        "frozenset({Fate.DELIVERED, Fate.POINTLESS})",
        f"{_DELIVERER}::test_a_balance_whose_claim_ended_without_a_word_is_not_moved_again",
    ),
    # -- the claims
    one(
        "claim that ended without a word is not told from a fresh one",
        _CLAIM,
        "o.tries > 0 AND o.last_error = '' AS is_in_doubt",
        "false AS is_in_doubt",
        f"{_OUTBOX}::test_a_claim_that_ended_without_a_word_is_in_doubt_and_a_failed_try_is_not",
    ),
    Mutation(
        "claim after a failed try is never in doubt",
        (without(_CLAIM, "    last_error = '',\n"),),
        (f"{_OUTBOX}::test_a_claim_that_ended_without_a_word_is_in_doubt_and_a_failed_try_is_not",),
    ),
    one(
        "claimed entry stays due: the next replica hands it over too",
        _CLAIM,
        "due_at = now() + make_interval(secs => $3::float8),",
        "due_at = now() - make_interval(secs => $3::float8),",
        f"{_OUTBOX}::test_what_one_replica_has_claimed_the_next_does_not_get",
    ),
    one(
        "floor is that of the last try: the row that the first one added is not found again",
        _CLAIM,
        "least((o.payload ->> 'floor')::bigint, $4::bigint)",
        "$4::bigint",
        f"{_OUTBOX}::test_the_lowest_floor_that_an_entry_ever_got_stays_with_it",
    ),
    # -- log rows
    one(
        "log row that is there already is added again",
        "postgres/sql/*/add_logs.sql",
        "        WHERE l.id > (SELECT",
        "        WHERE false AND l.id > (SELECT",
        f"{_ELSEWHERE}::test_lines_delivered_again_after_a_crash_are_there_once",
        f"{_DELIVERER}::test_a_log_row_whose_claim_ended_without_a_word_is_there_once",
    ),
    one(
        "log rows of two tasks that look alike are taken for one",
        "postgres/sql/fork/add_logs.sql",
        "ON l.other = there.other AND",
        "ON l.user_id = there.user_id AND",
        f"{_ELSEWHERE}::test_equal_lines_of_different_tasks_are_all_kept",
    ),
    one(
        "replicas add log rows side by side",
        "postgres/sql/own/lock_logs.sql",
        "pg_advisory_xact_lock(7237118391560982615) IS NULL AS is_locked",
        "false AS is_locked",
        f"{_ELSEWHERE}::test_a_replica_that_comes_while_another_adds_the_same_lines_waits_and_adds_none",
    ),
    one(
        "one log row that is refused takes its neighbours along",
        "postgres/logs_elsewhere.py",
        "            if len(entries) == 1:\n                return [Receipt(entries[0].id, Fate.REFUSED, failure.fault.value, failure.detail)]\n",
        "            if entries:\n                return [Receipt(each.id, Fate.REFUSED, failure.fault.value) for each in entries]\n",
        f"{_ELSEWHERE}::test_a_line_that_the_database_refuses_stands_alone",
    ),
    one(
        "half of the log rows that did not come through counts as delivered",
        "postgres/logs_elsewhere.py",
        "return [Receipt(each.id, Fate.LEFT, reason) for each in entries]",
        "return [Receipt(each.id, Fate.DELIVERED, reason) for each in entries]",
        f"{_ELSEWHERE}::test_a_log_database_that_is_lost_between_two_halves_leaves_the_second_for_later",
    ),
    # -- cached balances
    one(
        "balance whose answer was lost is moved again",
        _REDIS,
        "            return Receipt(entry_id, Fate.UNKNOWN)\n",
        '            return Receipt(entry_id, Fate.LEFT, "lost")\n',
        f"{_CACHE}::test_a_lost_answer_is_unknown_and_moves_the_balance_once",
    ),
    one(
        "moving a balance counts as repeatable",
        _REDIS,
        "    may_repeat = False\n",
        "    may_repeat = True\n",
        f"{_DELIVERER}::test_a_balance_whose_claim_ended_without_a_word_is_not_moved_again",
    ),
    one(
        "balance is moved by a change that its hash already knows of",
        _REDIS,
        "entry.age_s + since_s <= self._cache.life_s",
        "entry.age_s + since_s",
        f"{_CACHE}::test_a_change_older_than_any_hash_can_be_is_in_every_hash_already",
    ),
    one(
        "cached balance of a user moves the wrong way",
        _REDIS,
        '"Quota", str(payload["delta"]), "", "0"]',
        '"Quota", str(-payload["delta"]), "", "0"]',
        f"{_CACHE}::test_a_cached_balance_moves_by_exactly_what_was_settled_and_nothing_else_does",
    ),
    one(
        "cached balance of a token: what was used moves the wrong way",
        _REDIS,
        '"UsedQuota", str(-delta)]',
        '"UsedQuota", str(delta)]',
        f"{_DELIVERER}::test_tokens_are_moved_with_their_owners",
    ),
    one(
        "hash that is another user's is moved",
        _REDIS,
        " or redis.call('HGET', KEYS[1], 'Id') ~= ARGV[1] then return 0 end",
        " then return 0 end",
        f"{_CACHE}::test_a_hash_that_is_not_what_the_gateway_writes_is_left_alone_and_none_is_made",
    ),
    Mutation(
        "settling hands a change of the wrong sign to the cache",
        tuple(
            Patch(f"postgres/sql/{profile}/settle.sql", f"'delta', owed.{moved})", f"'delta', -owed.{moved})")
            for profile, moved in (("documented", "refunded"), ("fork", "refunded"), ("main", "wallet"))
        ),
        (
            "tests/postgres/test_settle.py::test_log_rows_go_to_the_outbox_when_logs_live_elsewhere",
            f"{_PROFILES} -k caches",
        ),
    ),
    one(
        "caches are told of what went back to a subscription",
        "postgres/sql/main/settle.sql",
        "'delta', owed.wallet)",
        "'delta', owed.mirrored)",
        f"{_PROFILES}::test_main_refund_to_a_subscription_moves_no_cached_balance",
    ),
)
