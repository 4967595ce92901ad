"""Every fault of the catalogue that concerns network, answers and people who mean harm: where it is made, or why not.

N and U are rows of the fault table (``test_fault_table.py`` and ``test_fault_rows.py``); the tests that are named here
beside it look closer. After a semicolon a row says how a fault is made that cannot be had for real, or what is not
shown.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.upstream.test_fault_rows import HERE
from tests.upstream.test_fault_table import CASES, FAULTS

TESTS = Path(__file__).resolve().parent.parent

CATALOGUE = {
    # -- the network
    "N01": "table, test_refused_connection_is_a_connect_failure",
    "N02": "table",
    "N03": "table, test_half_an_answer_is_no_answer",
    "N04": "table, test_one_deadline_ends_what_read_time_outs_never_would",
    "N05": "table, test_one_deadline_ends_what_read_time_outs_never_would,"
    " test_preliminary_answers_without_end_are_given_up_at_once_and_a_few_are_not",
    "N06": "table, test_self_signed_certificate_is_refused_before_the_key_is_sent",
    "N07": "table, test_slow_name_servers_are_given_up_within_the_connect_deadline,"
    " test_connections_do_not_outlive_their_session; by a resolver in our place: a name server takes a mount namespace",
    "N08": "table; by a forwarder: below TCP nothing can be lost here",
    "N09": "table; by a drip instead of a queueing discipline",
    "N10": "table, test_idle_connection_closed_as_we_write_costs_no_failure",
    "N11": "table, test_one_answer_too_many_shifts_no_later_ask_for_long,"
    " test_an_answer_too_many_ends_no_task_that_is_past_its_deadline",
    "N12": "table, test_asks_cancelled_by_the_hundred_leave_every_connection_usable",
    "N13": "table, test_variables_of_the_process_have_no_say, test_session_keys_are_written_nowhere",
    "N14": "table",
    "N15": "table, test_hanging_lanes_do_not_hold_up_the_healthy_ones_where_there_are_slots_for_all,"
    " test_hanging_lanes_hold_up_the_healthy_ones_for_one_time_out_at_most_when_crowded,"
    " test_five_hanging_channels_of_twenty_delay_nobody_else; the pace is measured in simulated time",
    "N16": "table",
    # -- answers
    "U01": "table, test_any_status_but_200_is_no_evidence",
    "U02": "table, test_retry_after_is_read_and_capped",
    "U03": "table, test_when_every_key_is_refused_the_channel_cools_and_no_task_moves",
    "U04": "table",
    "U05": "table, test_redirect_is_not_followed",
    "U06": "table, test_anything_else_is_not_a_good_code",
    "U07": "table, test_body_that_is_no_good_answer_is_no_evidence",
    "U08": "table, test_item_nested_too_deep_for_a_decoder_spoils_only_itself",
    "U09": "table, test_endless_body_costs_no_more_memory_than_the_cap",
    "U10": "table, test_gzip_bomb_is_cut_at_the_cap",
    "U11": "table",
    "U12": "table, test_a_usage_that_no_gateway_would_charge_goes_to_a_person_and_moves_nothing",
    "U13": "table, test_a_count_that_is_no_whole_number_in_range_makes_usage_unusable",
    "U14": "table, test_item_that_gives_a_key_twice_says_nothing",
    "U15": "table, test_item_that_is_no_object_hides_no_id",
    "U16": "table, test_items_alike_in_all_that_counts_are_one",
    "U17": "table, test_items_that_differ_in_anything_that_counts_are_no_evidence",
    "U18": "table, test_connection_with_strangers_in_its_answer_is_not_used_again",
    "U19": "table",
    "U20": "table",
    "U21": "table, test_absence_at_one_key_is_no_evidence_after_the_deadline_while_another_cannot_be_asked",
    "U22": "table, test_words_are_stripped_and_lower_case",
    "U23": "table",
    "U24": "table, test_a_flip_is_upstreams_word_against_upstreams_word_about_a_task_settled_before",
    "U25": "table, test_error_of_any_type_becomes_clean_text",
    "U26": "table, test_error_is_bounded, test_odd_texts_hold_no_money_back",
    "U27": "table",
    "U28": "table",
    "U29": "table, test_an_answer_that_tells_of_none_makes_silence_about_as_many_no_more_credible",
    "U30": "table, test_unicode_forms_of_an_id_are_different_ids",
    "U31": "table, test_usage_is_read_where_it_is_whole",
    "U32": "table",
    "U33": "table, test_nonsense_is_no_evidence",
    "U34": "table",
    # -- people who mean harm
    "S01 metadata addresses": "test_no_spelling_of_a_metadata_address_is_asked,"
    " test_no_spelling_of_it_is_asked_through_a_proxy, test_no_spelling_of_a_metadata_address_is_asked_for,"
    " test_a_proxy_at_a_metadata_address_is_never_dialled, test_forbidden_address_is_forbidden; there is no allow-list",
    "S02 DNS rebinding": "test_name_that_changes_its_mind_cannot_slip_past_the_check,"
    " test_socket_for_a_forbidden_address_is_never_made",
    "S03 redirect with the key": "test_u05_a_redirect_is_counted_and_not_followed_and_its_host_is_said,"
    " test_redirect_is_not_followed",
    "S04 two parsers, two hosts": "test_base_that_two_parsers_might_read_differently_is_refused,"
    " test_an_address_that_cannot_be_trusted_is_not_asked",
    "S05 userinfo in base_url": "test_base_that_two_parsers_might_read_differently_is_refused,"
    " test_an_address_that_cannot_be_trusted_is_not_asked",
    "S06 a model that leaves its path": "test_model_can_only_be_path_segments,"
    " test_model_that_could_move_the_path_is_refused, test_percent_signs_of_a_model_reach_the_wire_encoded",
    "S07 line breaks in a key": "test_secret_that_no_header_can_hold_is_not_shown,"
    " test_header_that_cannot_be_is_refused_before_anything_is_sent,"
    " test_a_key_that_no_header_takes_is_a_finding_that_does_not_show_it",
    "S08 secrets in what is written": "test_no_secret_is_written_anywhere_whatever_upstream_makes_of_it,"
    " test_a_key_saved_with_a_task_is_written_nowhere_either, test_no_fault_of_upstream_shows_a_secret,"
    " test_password_is_shown_nowhere_whatever_the_proxy_does, test_a_traceback_shows_no_locals_and_no_secret",
    "S09 our secrets echoed": "test_secrets_echoed_by_upstream_are_in_no_report,"
    " test_an_echoed_secret_is_taken_out_of_every_text",
    "S10 forged log lines": "test_text_never_lets_a_value_break_its_line,"
    " test_every_form_is_one_line_whatever_the_values, test_console_has_colours_only_when_asked",
    "S11 labels without end": "test_models_beyond_the_limit_share_one_label,"
    " test_channels_beyond_the_limit_share_one_label",
    "S12 SQL in texts": "test_text_from_rows_and_answers_is_data_and_nothing_else, test_sql_is_written_in_sql_files",
    "S13 HTML in texts": "test_text_from_rows_and_answers_is_data_and_nothing_else, test_error_is_bounded;"
    " whoever shows a fail reason has to escape it",
    "S14 strangers at the side port": "test_without_a_token_strangers_and_foreign_pages_may_not_act,"
    " test_with_a_token_only_its_bearer_may_act, test_reading_methods_do_nothing",
    "S15 a role with too many rights": "test_with_these_rights_the_whole_daemon_works, test_everything_else_is_refused,"
    " test_every_right_is_needed_by_some_statement",
    "S16 PostgreSQL without proof": "test_a_database_elsewhere_that_nothing_proves_is_a_warning; it is said and not"
    " refused, or no gateway with its usual DSN could be served",
    "S17 a key for another host": "test_a_key_goes_to_its_own_host_however_often_the_rows_are_turned_round,"
    " test_one_tenants_token_never_travels_with_another_tenants_task,"
    " test_what_no_gateway_would_send_stays_at_home_and_stops_nobody",
    "S18 an upstream that makes refunds": "test_no_more_than_one_refund_goes_beyond_the_limit_and_nothing_is_lost,"
    " test_refunds_beyond_the_limit_wait_untouched_and_go_on_by_themselves_when_the_hour_has_passed",
    "S19 slow or packed requests of our own": "not made: a request is one small JSON body that nobody outside shapes",
    "S20 supply chain": "not made: versions are bounded in pyproject.toml, and hashes, SBOM and audits are the"
    " business of whoever builds the image; nothing is fetched at the start",
}


def test_every_row_of_the_catalogue_is_made_somewhere() -> None:
    names = [
        *(f"N{n:02}" for n in range(1, 17)),
        *(f"U{n:02}" for n in range(1, 35)),
        *(f"S{n:02}" for n in range(1, 21)),
    ]
    assert [row.split()[0] for row in CATALOGUE] == names
    assert list(FAULTS) == [name for name in names if name[0] != "S"]


def test_every_word_that_the_catalogue_names_exists() -> None:
    texts = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    tests = set(re.findall(r"^(?:async )?def (test_\w+)\(", texts, re.MULTILINE))
    table = {case.row for case in CASES} | HERE
    for row, where in CATALOGUE.items():
        if where.startswith("not made: "):
            continue
        named = [word.strip() for word in where.partition(";")[0].split(",")]
        known = tests | ({"table"} if row in table else set())
        assert known.issuperset(named), (row, set(named) - known)
