"""Tests of a whole gateway that know nothing of the server, on a cluster."""

# ruff: noqa: F401
from tests.integration.ingest.test_live import (
    test_a_hundred_requests_at_once_lose_and_mix_up_no_event,
    test_a_line_reaches_a_follower_while_its_request_is_open,
)
from tests.integration.test_access import (
    guarded,
    test_a_revocation_ends_streams_of_all_workers_and_gateways_and_stays,
)
from tests.integration.test_follow import (
    test_a_cursor_below_a_trimmed_log_gets_a_gap,
    test_a_cursor_of_another_log_gets_a_reset,
    test_a_cursor_resumes_after_its_event,
    test_a_filter_passes_matching_events_and_every_terminal_event,
    test_a_key_of_the_wrong_type_stops_no_other_run,
    test_a_reopened_run_goes_on_after_its_first_end,
    test_a_stream_ends_with_its_run_and_a_reconnect_gets_204,
    test_entries_of_other_writers_are_delivered,
    test_events_trimmed_before_they_are_read_are_a_gap,
    test_followers_get_a_reset_when_their_log_is_deleted,
    test_followers_get_a_reset_when_their_log_is_deleted_and_started_again,
    test_history_comes_first_then_caught_up_then_live_events,
    test_json_lines_carry_the_same_stream,
    test_latest_on_an_empty_log_resumes_from_the_beginning,
    test_the_cursor_of_a_filtered_follower_moves_though_it_gets_no_event,
)
from tests.integration.test_leases import (
    test_a_reader_in_python_finds_the_run_lost,
    test_followers_of_a_dead_producer_get_one_lost_event_and_their_streams_end,
    two_gateways,
)
from tests.integration.test_merged import (
    run_ids,
    test_a_deleted_log_is_a_reset_of_its_run_alone,
    test_a_thousand_runs_come_over_one_post,
    test_a_viewer_resumes_on_another_gateway,
    test_follow_many_begins_where_it_is_told,
    test_follow_many_says_which_run_is_no_log,
    test_many_viewers_of_the_same_runs_get_the_same_bytes,
    test_the_lines_of_many_runs_come_in_batches,
)
from tests.integration.test_reader import (
    test_a_gap_in_a_log_without_sequences_is_reported,
    test_a_key_of_another_type_is_a_reset_and_the_next_log_is_followed,
    test_a_log_replaced_within_one_millisecond_is_a_reset,
    test_a_log_that_expires_is_a_reset_and_its_successor_is_followed,
    test_a_new_client_of_a_deleted_log_gets_no_reset,
    test_sequences_of_another_writer_cause_no_gap,
)
