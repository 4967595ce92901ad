"""Every fault of the catalogue that is not about an upstream: where it is made, or why not.

A row names what holds it, separated by commas: tests, faults and habits of the campaign, crash points with the way of
their interruption, invariants. After a semicolon it says what is not shown.
"""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg

from tests.faults.checker import checks
from tests.faults.labels import labels
from tests.faults.mutations import MUTATIONS
from tests.faults.nemesis import FAULTS
from tests.faults.plan import HABITS
from tests.faults.test_crash_points import WAYS

TESTS = Path(__file__).resolve().parent.parent
POLLER = TESTS.parent / "poller"

CATALOGUE = {
    # -- the database
    "D01 backend killed while idle in transaction": "terminations, settle.begun-terminate",
    "D02 backend killed inside a statement": "terminations, test_killed_backends_neither_lose_nor_double_any_refund",
    "D03 reply to COMMIT lost": "commit_cuts, test_a_lost_answer_to_commit_is_an_unknown_outcome_that_was_committed",
    "D04 COMMIT lost": "commit_cuts, test_a_lost_commit_is_an_unknown_outcome_that_was_not_committed",
    "D05 cancel or time-out during COMMIT": "commit_waits,"
    " test_a_commit_without_answer_ends_at_its_deadline_as_unknown",
    "D06 one child of the server killed": "server_child",
    "D07 postmaster killed": "server_killed",
    "D08 restarts": "server_immediate, server_fast",
    "D09 a failover loses acknowledged commits": "fail_over",
    "D10 the old primary is still writable": "test_another_server_behind_the_address_is_never_written_to,"
    " test_a_promotion_is_followed_and_its_old_primary_is_not_gone_back_to,"
    " test_another_server_behind_a_pooler_is_never_written_to",
    "D11 connected to a standby": "read_only, test_a_read_only_server_is_no_server_to_settle_on",
    "D12 every COMMIT hangs": "commit_waits,"
    " test_while_every_commit_hangs_deadlines_end_each_and_connections_stay_few_and_all_heals_exactly",
    "D13 disk full": "full_disk",
    "D14 WAL full, I/O error": "full_disk; an I/O error takes strace and is not made here",
    "D15 no connections left": "exhaustion",
    "D16 our pool exhausted": "test_a_pool_that_is_used_up_says_so_in_time,"
    " test_reads_never_take_the_connection_that_is_kept_for_transactions",
    "D17 black hole": "hang, test_a_black_hole_costs_one_deadline_and_heals_without_a_restart",
    "D18 the gateway holds a row": "hold,"
    " test_task_behind_a_held_row_waits_for_the_next_pass_and_its_neighbours_settle",
    "D19 deadlock": "cross, test_deadlock_costs_a_task_nothing_of_what_was_to_be_written",
    "D20 serialization failure": "test_serialization_failures_are_repeated,"
    " test_a_serialization_failure_repeats_the_whole_transaction_and_nothing_else,"
    " test_a_task_whose_serialization_failures_do_not_end_waits_alone",
    "D21 time-outs of the server": "test_a_session_carries_its_name_its_limits_and_any_time_zone,"
    " test_a_transaction_that_stands_idle_is_ended_by_the_server_and_nothing_of_it_stays,"
    " test_no_transaction_is_open_while_upstream_is_waited_for",
    "D22 DDL under prepared statements": "migrate,"
    " test_a_plan_that_outlived_its_table_asks_for_the_whole_transaction_again,"
    " test_no_plan_of_ours_outlives_a_table_whose_columns_all_change_their_type",
    "D23 columns missing": "test_the_first_fork_is_refused, test_no_gateway_at_all_is_said_to_be_none",
    "D24 PgBouncer": "pooler, test_many_clients_on_two_server_connections_never_mix_up_their_statements",
    "D25 advisory locks through a pooler": "test_behind_a_pooler_nothing_is_started",
    "D26 int4 overflow": "test_refund_that_overflows_an_int4_balance_is_quarantined_and_its_neighbours_settle",
    "D27 poison text": "test_odd_data_holds_no_money_back, test_odd_texts_hold_no_money_back",
    "D28 user gone": "delete, test_task_of_a_user_who_is_gone_is_quarantined_and_its_neighbours_settle",
    "D29 user soft-deleted": "test_soft_deleted_user_is_still_paid",
    "D30 channel gone": "test_nobody_can_be_asked_about_tasks_of_a_channel_that_is_gone_and_they_stay_open",
    "D31 channel changed": "test_without_a_cache_every_change_is_seen,"
    " test_what_a_disabled_channel_had_accepted_is_asked_about_and_settled_to_its_end,"
    " test_a_key_goes_to_its_own_host_however_often_the_rows_are_turned_round",
    "D32 token gone": "test_main_token_that_is_no_longer_the_users_keeps_no_money_from_the_user",
    "D33 task gone": "delete, test_row_that_vanished_after_its_settlement_needs_nobody",
    "D34 task locked": "hold, test_task_behind_a_held_row_waits_for_the_next_pass_and_its_neighbours_settle",
    "D35 stale whole-row save": "save, test_task_reopened_by_a_whole_row_save_is_restored_and_paid_once",
    "D36 the gateway polls as well": "sweep, test_tasks_that_became_final_without_our_ledger_betray_a_second_writer",
    "D37 odd quota": "test_null_quota_is_settled_as_nothing_reserved,"
    " test_negative_reservation_is_quarantined_and_its_neighbours_settle",
    "D38 logs elsewhere": "logs_away, logs_cuts, test_redis_and_log_database_down_lose_nothing_and_are_caught_up_with",
    "D39 stale reads": "test_what_was_reserved_comes_from_the_row_and_not_from_the_page,"
    " test_whatever_gateways_and_replicas_do_the_store_is_as_the_model_says",
    "D40 slow plans": "test_no_statement_reads_through_a_large_table,"
    " test_no_statement_of_a_pass_reads_the_finished_tasks",
    "D41 password rotated": "test_who_is_refused_at_the_start_is_told_what_to_check,"
    " test_a_password_that_is_changed_and_put_back_stops_a_daemon_only_for_as_long;"
    " a new password is read at the next start, and an expired certificate is not made here",
    "D42 restored to an earlier time": "fail_over",
    "D43 nothing left behind": "i16_nothing_left_behind",
    "D44 two tasks of one user": "test_several_tasks_of_one_user_are_all_paid",
    "D45 the gateway's sweep races us": "sweep",
    "D46 FAILURE with quota": "test_failure_gives_everything_back_and_says_why,"
    " test_a_gateway_that_refunds_failures_with_a_quota_left_finds_none_of_ours;"
    " no version of the fork looks for them, so that its quota stays what was reserved",
    # -- process, clock
    "P01 kill at every labelled place": "crash, test_daemon_killed_at_a_label_leaves_nothing_half_done",
    "P02 random kills": "kills",
    "P03 SIGTERM": "term, test_sigterm_in_the_middle_of_asks_settles_them_and_exits_0_within_the_drain_time,"
    " test_a_second_signal_ends_a_drain_at_once_and_loses_no_settlement",
    "P04 frozen past the lease": "freeze, test_a_frozen_replica_takes_nothing_back_when_it_wakes",
    "P05 out of memory": "kills, test_endless_body_costs_no_more_memory_than_the_cap, test_gzip_bomb_is_cut_at_the_cap;"
    " the kernel's kill is a SIGKILL like any other, and no control group is made here",
    "P06 few file descriptors": "test_a_daemon_with_few_file_descriptors_settles_everything",
    "P07 starved of CPU": "freeze; by SIGSTOP: a quota takes a control group of one's own",
    "P08 event loop blocked": "freeze,"
    " test_a_blocked_event_loop_is_measured_and_said_and_neither_live_nor_patted_meanwhile,"
    " test_liveness_fails_half_a_minute_after_the_leases_should_have_been_renewed",
    "P09 twenty replicas at once": "test_twenty_replicas_that_start_at_once_settle_each_task_once",
    "P10 two versions": "test_a_schema_of_another_program_version_is_refused_with_the_remedy;"
    " two programs side by side are not run here: that both cannot pay rests on the key of the ledger, as for replicas",
    "P11 one poison task": "test_odd_data_holds_no_money_back, test_poisoned_json_spoils_neither_the_page_nor_the_row",
    "P12 a lane crashes": "test_a_lane_that_crashes_is_said_started_again_and_harms_no_other",
    "P13 nobody reads our output": "test_a_reader_that_stops_reading_costs_lines_and_no_time",
    "P14 nothing may be written": "test_a_daemon_that_may_write_no_file_settles_everything",
    "P15 cancelled clean-up": "test_draining_waits_no_longer_than_its_limit,"
    " test_cancelled_settlement_is_committed_whole_or_not_at_all",
    "C01 wall clock steps": "clock, test_wall_clocks_that_are_wrong_and_jump_change_neither_leases_nor_money",
    "C02 replicas skewed": "clock, test_wall_clocks_that_are_wrong_and_jump_change_neither_leases_nor_money",
    "C03 the database's clock jumps": "test_a_lease_from_the_future_is_one_whose_clock_was_set_back,"
    " test_a_database_whose_clock_leaps_two_hours_ahead_ends_no_young_task",
    "C04 the machine sleeps": "freeze",
    "C05 odd submit times": "test_an_unreadable_age_holds_everything_but_a_verdict,"
    " test_times_are_filled_and_never_run_backwards",
    # -- configuration
    "G01 missing, invalid and unknown settings": "test_every_bad_value_is_reported_at_once_with_place_and_expectation,"
    " test_check_tells_all_faults_at_once_and_exits_with_78, test_an_unknown_name_is_a_warning_that_names_the_nearest,"
    " test_without_a_database_in_the_settings_a_command_exits_with_78_and_points_to_the_demo,"
    " test_check_shows_no_secret_whatever_is_wrong_with_it; a daemon only warns of an unknown name",
    "G02 absurd numbers": "test_an_interval_that_is_zero_negative_endless_or_nonsense_is_refused,"
    " test_every_bad_value_is_reported_at_once_with_place_and_expectation, test_a_port_out_of_range_is_refused,"
    " test_a_lease_much_longer_than_the_interval_is_a_warning, test_more_idle_than_open_connections_is_a_warning,"
    " test_leases_that_are_renewed_every_few_minutes_leave_the_daemon_live;"
    " short leases and small pools are allowed: neither guards anything",
    "G03 line breaks in keys and DSNs": "test_line_breaks_around_a_key_do_not_matter,"
    " test_a_key_that_no_header_takes_is_a_finding_that_does_not_show_it, test_any_secret_can_come_from_a_file,"
    " test_an_unusable_secret_file_is_named_without_its_content, test_what_is_no_dsn_is_refused_without_repeating_it",
    "G04 the wrong database": "test_a_daemon_of_the_second_gateway_does_not_start_and_no_command_works_there,"
    " test_no_gateway_at_all_is_said_to_be_none,"
    " test_dry_run_says_what_it_would_settle_and_writes_nothing_not_even_a_schema;"
    " the start says profile and server, not the name of the database and no counts",
    "G05 settings change meanwhile": "test_sigusr1_settles_at_once_what_upstream_has_finished,"
    " test_without_a_cache_every_change_is_seen, test_the_annotated_file_in_the_repository_is_in_step;"
    " SIGHUP says that a restart is needed, rows of the gateway count within SYNC_FREQUENCY",
    # -- operator and gateway
    "O01 a status set by hand": "test_a_final_status_that_somebody_set_by_hand_is_respected_and_moves_no_money,"
    " test_tasks_that_became_final_without_our_ledger_betray_a_second_writer",
    "O02 a refund by hand": "test_resolve_settles_through_the_ledger_and_is_on_record,"
    " test_resolve_of_a_task_that_a_lane_settles_meanwhile_pays_it_once;"
    " what was given back past the command is paid once more: nothing tells of it",
    "O03 the gateway migrates": "migrate,"
    " test_no_plan_of_ours_outlives_a_table_whose_columns_all_change_their_type,"
    " test_every_missing_or_mistyped_column_is_named",
    "O04 balances in batches": "flush, spend, test_gateway_that_moves_the_same_balances_meanwhile_loses_nothing",
    "O05 a stale cache": "redis_killed, redis_frozen, redis_cuts,"
    " test_a_cached_balance_moves_by_exactly_what_was_settled_and_nothing_else_does,"
    " test_a_refusal_of_redis_itself_leaves_the_entry_for_later",
    "O06 from one to many and back": "test_twenty_replicas_that_start_at_once_settle_each_task_once,"
    " test_lanes_are_shared_fairly_by_replicas_that_come_at_once, test_leaving_gives_everything_back_at_once;"
    " twenty, not fifty",
    "O07 a channel deleted": "test_ten_thousand_tasks_of_a_deleted_channel_are_one_line_and_stay_as_they_are",
    "O08 days off": "test_after_days_without_a_daemon_the_oldest_are_asked_first_and_settled_by_what_upstream_says,"
    " test_the_oldest_unasked_task_is_that_of_the_worst_served_lane",
    "O09 the ledger emptied": "test_what_was_settled_before_the_ledger_was_lost_is_not_paid_again,"
    " test_nobody_empties_the_ledger_between_the_look_and_the_settlement,"
    " test_a_lost_ledger_is_gone_without_only_when_somebody_says_so_on_record;"
    " it comes back from a backup, nothing fills it from logs",
    "O10 a task archived": "delete, test_row_that_vanished_after_its_settlement_needs_nobody,"
    " test_a_row_that_the_gateway_deleted_is_no_drift",
    "O11 a cache that decides": "redis_killed, redis_frozen, redis_cuts,"
    " test_a_lost_answer_is_unknown_and_moves_the_balance_once,"
    " test_redis_and_log_database_down_lose_nothing_and_are_caught_up_with,"
    " test_a_balance_whose_claim_ended_without_a_word_is_not_moved_again",
}


def test_every_row_of_the_catalogue_is_made_somewhere() -> None:
    names = [
        *(f"D{n:02}" for n in range(1, 47)),
        *(f"P{n:02}" for n in range(1, 16)),
        *(f"C{n:02}" for n in range(1, 6)),
        *(f"G{n:02}" for n in range(1, 6)),
        *(f"O{n:02}" for n in range(1, 12)),
    ]
    assert [row.split()[0] for row in CATALOGUE] == names


def test_every_word_that_the_catalogue_names_exists() -> None:
    texts = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    tests = set(re.findall(r"^(?:async )?def (test_\w+)\(", texts, re.MULTILINE))
    ways = {f"{label}-{way}" for label in labels() for way in WAYS}
    known = tests | ways | FAULTS.keys() | checks().keys() | set(HABITS) | {"pooler"}
    for row, where in CATALOGUE.items():
        named = [word.strip() for word in where.partition(";")[0].split(",")]
        assert known.issuperset(named), (row, set(named) - known)


def test_every_planted_bug_still_has_its_place() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names)
    for mutation in MUTATIONS:
        for path, text in mutation.applied(POLLER).items():
            if path.suffix == ".py":
                compile(text, path.name, "exec")


async def test_every_planted_bug_is_one_that_the_server_understands(make_database, profile_name) -> None:
    """A test that fails because the statement is no SQL would have caught nothing."""
    connection = await asyncpg.connect(await make_database(profile_name))
    for mutation in MUTATIONS:
        for path, text in mutation.applied(POLLER).items():
            if path.parent.name in ("own", profile_name):
                await connection.prepare(text)
    await connection.close()


def test_readme_says_how_many_bugs_are_planted() -> None:
    readme = (TESTS.parent / "README.md").read_text()
    assert f"| {len(MUTATIONS)} of {len(MUTATIONS)} |" in readme
