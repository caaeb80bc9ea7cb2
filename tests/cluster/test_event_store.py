"""The tests of the event store that know nothing of the server, on a cluster."""

# ruff: noqa: F403, F821
from tests.streaming.event_store.test_append import *
from tests.streaming.event_store.test_read import *
from tests.streaming.event_store.test_requests import *
from tests.streaming.event_store.test_subscribe import *
from tests.streaming.event_store.test_ttl import *
from tests.streaming.log.test_append_many import *

# They give the store a client, which leads to one server.
del test_a_block_may_be_longer_than_the_time_out_of_an_injected_client
del test_a_log_retains_about_maxlen_entries
del test_a_short_idle_ttl_is_renewed_in_time
del test_an_injected_client_may_decode_and_speak_resp3
del test_each_store_run_and_thread_has_its_own_cursor
del test_one_round_trip_appends_and_trims_approximately
