"""Which tests must notice each fault of src/mutants.rs and python_faults.py.

A test is named by its pytest id, or as ``binary::name`` for one of Rust: ``lib`` for the tests beside the code, else a
file of tests/rust. The first one is what the short form runs.
"""

from __future__ import annotations

P = "tests/python/test_"
A = "lib::limits::adaptive::tests::"
B = "tests/security/test_"
M = "tests/migrate/test_"
S = "tests/integrations/test_socket_sign_in.py::test_"
ACCEPT = "tests/acceptance/test_"
PLANE = "tests/cluster/test_plane"
CLUSTER = "tests/cluster/test_"
DA = "tests/integrations/test_dashboard_access.py"
DV = "tests/integrations/test_dashboard_views.py"
DS = "tests/integrations/test_dashboard_stream.py"
DR = "tests/integrations/test_dashboard_rollback.py"

KILLERS: dict[str, tuple[str, ...]] = {
    # Metrics of the core.
    "MetricNotCounted": (
        "lib::metrics::cell::tests::threads_lose_no_count",
        f"{P}metrics.py::test_contexts_are_counted_until_they_are_cleaned_up",
    ),
    "EndedContextStaysActive": (f"{P}metrics.py::test_contexts_are_counted_until_they_are_cleaned_up",),
    "PermitRefusalNotMetered": (f"{P}metrics.py::test_permits_are_told_by_what_became_of_the_request",),
    "AuditRecordsNotMetered": (f"{P}metrics.py::test_audit_records_are_told_by_class_and_what_became_of_them",),
    "MetricNamesMixed": (
        "lib::metrics::vocabulary::tests::the_first_names_are_told_apart_and_the_rest_is_other",
        f"{P}metrics.py::test_the_hundred_and_first_name_is_other_in_every_family",
    ),
    "MetricLabelNotEscaped": (
        "lib::metrics::text::tests::a_value_of_a_label_cannot_leave_its_quotes",
        f"{P}metrics.py::test_no_name_leaves_its_quotes",
    ),
    "MetricBucketsNotAddedUp": (f"{P}metrics.py::test_the_snapshot_and_the_text_say_the_same",),
    # Traces.
    "TraceNotInherited": (f"{P}otel.py::test_children_stand_where_their_parent_does_until_they_have_a_place",),
    "TraceNotPublished": (f"{P}otel.py::test_events_name_the_execution_they_are_of",),
    "TraceOfWhoeverRuns": (f"{P}otel.py::test_work_for_one_user_in_the_task_of_another_is_not_in_the_others_trace",),
    "PlaceOfAnotherUser": (f"{P}otel.py::test_work_for_one_user_in_the_task_of_another_is_not_in_the_others_trace",),
    "ErrorTextInSpan": (f"{P}otel.py::test_an_error_is_its_class_and_never_its_text",),
    "CancelledSpanIsError": (f"{P}otel.py::test_a_cancellation_is_no_error",),
    "UnknownToolNamed": (f"{P}otel.py::test_a_tool_that_there_is_not_is_named_by_nobody",),
    # Permits.
    "PermitLostOnCancel": (f"{P}limits.py::test_a_permit_granted_in_the_tick_of_the_cancellation_goes_to_the_next",),
    "PermitReturnedTwice": (
        f"{P}limits.py::test_both_limits_hold_in_one_decision",
        "limiter_model::limits_hold_and_nobody_waits_in_vain",
    ),
    "SlotFreedTwice": (
        "shuttle_limiter::a_permit_that_two_threads_return_goes_back_once",
        "limiter_model::limits_hold_and_nobody_waits_in_vain",
    ),
    "WaiterNotWoken": (
        "shuttle_limiter::everybody_gets_a_permit_and_the_limits_hold",
        f"{P}limits.py::test_a_release_in_a_thread_wakes_a_waiter_in_a_loop",
    ),
    "WaitersOutOfOrder": (
        f"{P}limits.py::test_waiters_of_a_user_go_in_order_and_users_take_turns",
        "limiter_model::limits_hold_and_nobody_waits_in_vain",
    ),
    "UsersTakeNoTurns": (f"{P}limits.py::test_waiters_of_a_user_go_in_order_and_users_take_turns",),
    "UserLimitOffByOne": (
        f"{P}limits.py::test_both_limits_hold_in_one_decision",
        "limiter_model::limits_hold_and_nobody_waits_in_vain",
    ),
    "UserLimitIgnored": (
        f"{P}limits.py::test_both_limits_hold_in_one_decision",
        "limiter_model::limits_hold_and_nobody_waits_in_vain",
    ),
    "ProcessLimitOffByOne": (
        f"{P}limits.py::test_both_limits_hold_in_one_decision",
        "limiter_model::limits_hold_and_nobody_waits_in_vain",
    ),
    "QueueUnbounded": (f"{P}limits.py::test_full_queues_refuse_at_once_but_never_the_step_of_an_admitted_run",),
    "NeverRefusedEarly": ("limiter_guarantees::what_cannot_be_had_in_time_is_refused_at_once",),
    "UrgencyIgnored": ("limiter_guarantees::urgent_requests_of_a_user_come_first_and_no_request_waits_for_ever",),
    "UrgencyNeverGrows": ("limiter_guarantees::urgent_requests_of_a_user_come_first_and_no_request_waits_for_ever",),
    # Limits over several processes.
    "RunsWithoutLease": ("lease_desk::without_a_wait_only_what_is_leased_is_given",),
    "LeaseNotGivenBack": (
        "lease_desk::a_lease_serves_the_same_user_again_and_is_then_given_back",
        "lease_model::limits_hold_over_processes",
    ),
    "LeaseKeptAfterRelease": (
        "lease_desk::a_lease_serves_the_same_user_again_and_is_then_given_back",
        "lease_model::limits_hold_over_processes",
    ),
    "IdleLeaseKept": ("lease_desk::a_lease_serves_the_same_user_again_and_is_then_given_back",),
    "LeasesNeverRenewed": ("lease_desk::leases_are_renewed_together_and_lost_when_they_are_not",),
    "LeaseDeadlineLate": ("lease_desk::leases_are_renewed_together_and_lost_when_they_are_not",),
    "LostLeaseNotTold": ("lease_desk::leases_are_renewed_together_and_lost_when_they_are_not",),
    "EmptiedStoreNotRestored": ("lease_desk::what_runs_is_put_back_into_a_store_that_was_emptied",),
    "RestoredLeaseReused": (
        "lease_desk::what_runs_is_put_back_into_a_store_that_was_emptied",
        "lease_model::limits_hold_over_processes",
    ),
    "LocalPartFreedUnseen": ("lease_desk::without_the_store_a_part_of_the_total_goes_on_to_who_waits",),
    "LocalShareIgnored": ("lease_desk::without_the_store_each_process_has_its_part_and_lets_go_of_the_rest",),
    "BreakerNeverOpens": (
        "lib::cluster::lease::breaker::tests::three_batches_that_fail_in_a_row_open_it_and_a_probe_closes_it",
        "lease_desk::a_closed_limit_refuses_and_an_open_one_is_the_process_own",
    ),
    "NoBackOff": ("lease_desk::a_refusal_backs_off_and_no_longer_than_until_the_first_lease_expires",),
    "AsksBeyondLocalLimit": ("lease_desk::as_many_leases_are_asked_for_as_would_run",),
    "LateGrantKept": (
        "lease_desk::what_was_granted_after_the_call_had_failed_is_given_back",
        "lease_model::faults_of_the_store_leave_nobody_waiting_and_nothing_behind",
    ),
    "DeskSleepsOn": ("lease_model::limits_hold_over_processes",),
    "WeightIgnored": ("limiter_guarantees::a_weight_of_two_is_twice_the_time",),
    "ChargeNotCorrected": ("limiter_guarantees::what_a_permit_was_held_for_counts_and_not_what_was_expected",),
    "ResourceLimitIgnored": ("limiter_guarantees::several_resources_come_together_or_not_at_all",),
    "ResourceNotReturned": ("limiter_guarantees::several_resources_come_together_or_not_at_all",),
    "BusyUserForgotten": ("limiter_guarantees::users_are_forgotten_when_idle_and_never_while_they_run",),
    "GoneChildHoldsParent": (
        f"{P}permit_tree.py::test_a_child_that_gives_up_gives_its_parent_back_what_it_had",
        f"{P}permit_tree.py::test_a_tree_cancelled_at_any_tick_leaves_nothing",
    ),
    "ChildTakesOwnUnit": (
        "shuttle_limiter::runs_with_nested_steps_do_not_block_each_other",
        f"{P}permit_tree.py::test_a_child_borrows_the_permit_of_its_parent_at_any_depth",
        "limiter_model::nesting_never_deadlocks",
    ),
    "LastChildReturnsUnit": (
        f"{P}permit_tree.py::test_a_child_borrows_the_permit_of_its_parent_at_any_depth",
        "limiter_model::nesting_never_deadlocks",
    ),
    "ParkedWithoutALook": ("shuttle_limiter::everybody_gets_a_permit_and_the_limits_hold",),
    "SuspendedKeepsUnit": (
        f"{P}limit_handover.py::test_a_lone_permit_is_given_back_for_a_wait_and_had_again_after_it",
    ),
    "BoundPermitLeaks": (
        f"{P}limit_streams.py::test_a_response_that_is_never_called_returns_the_permit_when_it_is_dropped",
    ),
    "TimeNeverOver": (f"{P}limit_guarantees.py::test_05_a_wait_ends_at_its_deadline_however_often_others_are_served",),
    "HigherLimitWakesNobody": (
        f"{P}limit_guarantees.py::test_13_a_lower_limit_stops_nobody_and_a_higher_one_wakes_in_order",
    ),
    "RetryAfterUnbounded": (f"{P}limit_guarantees.py::test_10_the_time_to_come_back_is_between_1_and_60",),
    "InterruptNotHeard": (f"{P}limit_guarantees.py::test_09_a_thread_that_waits_hears_an_interrupt",),
    "LeakNotCounted": (f"{P}limit_guarantees.py::test_08_a_permit_that_is_dropped_returns_and_is_counted_as_leaked",),
    "GivingUpRaces": ("shuttle_limiter::who_gives_up_while_being_granted_passes_the_permit_on",),
    # What operators are shown.
    "PseudonymIsTheName": (
        "lib::views::pseudonym::tests::a_user_who_is_named_in_an_id_is_hidden_there",
        f"{DV}::test_no_answer_names_a_user_until_one_is_revealed_to_who_asked",
    ),
    "WaitersAreServed": (f"{P}alerts.py::test_few_users_is_an_alert_only_while_others_are_kept_out",),
    "RaisedOnceAndForAll": (f"{P}alerts.py::test_what_is_raised_where_nobody_looks_begins_again_after_it_was_quiet",),
    "BlindnessEndsAlerts": (f"{P}alerts.py::test_what_cannot_be_measured_is_not_over",),
    "LateWatchIsARise": (f"{P}alerts.py::test_what_rose_before_it_was_watched_is_no_rise",),
    "HandlersShareTheId": (
        f"{P}log_processors.py::test_a_handler_that_writes_ids_gives_none_to_one_that_writes_pseudonyms",
    ),
    "AlertsFlood": (f"{P}alerts.py::test_in_a_minute_only_so_many_are_told_and_the_others_later",),
    "RefusedIsAViolation": (f"{B}crossings.py::test_what_the_package_refuses_by_itself_is_counted_at_its_boundary",),
    "ScriptsFromAnywhere": (f"{DA}::test_a_reader_sees_every_view_and_no_browser_keeps_or_frames_it",),
    "CsrfForEver": (f"{DA}::test_a_token_counts_for_its_principal_and_for_half_a_day",),
    "DashboardForNobodyInParticular": (f"{DA}::test_a_dependency_that_answers_nothing_lets_nobody_in",),
    "DashboardByProxy": (f"{DA}::test_what_came_through_a_proxy_or_by_another_name_is_not_from_this_machine[header0]",),
    "CsrfOfAnother": (f"{DA}::test_a_token_counts_for_its_principal_and_for_half_a_day",),
    "CsrfNotAsked": (f"{DA}::test_a_token_that_is_missing_wrong_or_somebody_elses_does_not_count[verify]",),
    "AnyPageActs": (f"{DA}::test_a_page_of_another_origin_acts_for_nobody[headers0-verify]",),
    "AnyAnswerIsYes": (f"{DA}::test_whatever_is_no_plain_yes_is_a_no[yes]",),
    "ActsBeforeItRecords": (
        f"{DA}::test_what_cannot_be_recorded_is_not_done[rollback]",
        f"{DA}::test_a_rollback_is_recorded_before_it_is_in_force",
    ),
    "RefusalOnDashboardNotRecorded": (f"{DA}::test_a_reader_is_refused_with_any_token_and_it_is_recorded[verify]",),
    "RevealedToEverybody": (f"{DV}::test_no_answer_names_a_user_until_one_is_revealed_to_who_asked",),
    "StreamOutlivesPermission": (f"{DS}::test_who_may_no_longer_look_is_not_shown_more",),
    "StreamsUnbounded": (f"{DS}::test_streams_are_bounded_and_a_place_is_free_again",),
    "StreamForEach": (f"{DS}::test_many_readers_are_served_by_one_maker_and_each_is_told_its_own_permissions",),
    "StreamKeepsServerUp": (f"{DS}::test_streams_end_when_the_service_drains",),
    "RollbackNotWritten": (f"{DR}::test_a_rollback_holds_for_new_contexts_and_stands_in_the_file",),
    "RollbackGivenUp": (f"{DR}::test_a_rollback_that_could_not_be_written_is_written_when_it_is_asked_for_again",),
    "RollbackWrittenTwice": (f"{DR}::test_two_who_roll_back_at_once_write_it_once",),
    "RulesNameUsers": (f"{DR}::test_the_rollout_names_no_users_and_says_how_many_it_has_by_name",),
    "RollbackWaitsForDisk": (f"{DR}::test_a_file_that_cannot_be_written_keeps_no_flag_on",),
    # What boundaries found.
    "ViolationNotCounted": (
        f"{B}crossings.py::test_what_a_context_holds_of_another_user_is_a_violation",
        f"{B}crossings.py::test_a_canary_before_the_wrong_user_counts_once[observe]",
    ),
    "RefusalNotCounted": (
        f"{B}crossings.py::test_a_wall_that_said_no_leaves_the_big_zero_at_zero",
        f"{B}crossings.py::test_an_event_into_the_run_of_another_user_is_refused",
    ),
    # What rooms measure.
    "LeftOutCountedAgain": (
        f"{P}metrics_rooms.py::test_what_is_left_out_for_one_socket_counts_once_however_often_it_reads",
    ),
    "RollbackCountedAgain": (f"{P}metrics_rooms.py::test_a_rollback_counts_once_wherever_it_was_decided",),
    "FirstReasonCounts": (f"{P}metrics_rooms.py::test_decisions_are_told_with_the_worst_reason",),
    "ShownFlagsCount": (f"{P}metrics_rooms.py::test_evaluations_are_told_by_flag_answer_and_reason",),
    "DrainForgetsNothing": (f"{P}metrics_export.py::test_a_drain_goes_on_where_counting_began_anew",),
    "MetricsForAnybody": ("tests/integrations/test_metrics_route.py::test_a_dependency_says_who_may_read",),
    "UnusedRequestCosts": (
        "tests/integrations/test_metrics_route.py::test_our_own_cost_is_observed_where_isolane_was_used",
    ),
    "RefusedRunIsAnError": (
        f"{P}metrics.py::test_what_got_no_permit_is_refused_and_what_failed_for_want_of_one_is_not[timeout]",
    ),
    "LagOfOneMoment": (f"{P}metrics_rooms.py::test_the_lag_of_the_loop_is_a_level_while_it_is_measured",),
    "ForeignRunCountsTwice": (f"{B}crossings.py::test_a_foreign_run_that_no_canary_shows_is_a_violation",),
    "QueryRefusalNotCounted": (f"{B}crossings.py::test_what_the_package_refuses_by_itself_is_counted_at_its_boundary",),
    "CallNobodyConnectedCounts": (f"{B}crossings.py::test_of_the_older_names_only_what_is_another_users_counts",),
    # Alerts.
    "AlertEndsAtItsThreshold": (f"{P}alerts.py::test_an_alert_begins_beyond_the_threshold_and_ends_at_clear",),
    "AlertForgetsToWait": (
        f"{P}alerts.py::test_an_alert_waits_for_its_time_and_one_that_goes_away_meanwhile_begins_anew",
    ),
    "CooldownForgetsTheAlert": (
        f"{P}alerts.py::test_what_flaps_is_told_once_a_cooldown_and_what_goes_on_after_it_is_told",
    ),
    "OneSinkStopsAlerts": (f"{P}alerts.py::test_a_sink_that_fails_keeps_no_other_from_the_alert",),
    "AlertsForgottenWhenMetricsWereOff": (
        f"{P}alerts.py::test_alerts_are_counted_and_shown_also_after_the_metrics_were_off",
    ),
    "WindowOfAWholeLife": (f"{P}alerts.py::test_figures_are_of_the_window_and_not_of_the_whole_life",),
    "ResetIsNegative": (f"{P}alerts.py::test_a_counter_that_begins_again_goes_on_where_it_was",),
    "OwnLimitKeepsOthersOut": (f"{P}alerts.py::test_few_users_is_an_alert_only_while_others_are_kept_out",),
    "LogsNameTheUser": (
        f"{P}log_processors.py::test_inside_of_an_agent_the_ids_are_the_runs_and_two_users_do_not_mix",
    ),
    "SlowRunToldWhenItIsOver": (f"{P}performance.py::test_an_alert_is_raised_while_a_slow_execution_goes_on",),
    "WebhookStaysClosed": (
        f"{P}alerts.py::test_a_webhook_gets_the_alert_and_its_end_and_after_close_again_once_started_anew",
    ),
    # The adaptive limit.
    "BaselineNeverMoves": (
        f"{A}a_doubled_service_time_becomes_the_baseline",
        f"{P}adaptive.py::test_it_follows_a_service_time_that_doubles",
    ),
    "ControllerCountsStale": (f"{A}calls_admitted_before_a_change_do_not_count",),
    "ControllerIgnoresDrops": (
        f"{A}one_drop_in_a_window_lowers_the_limit_by_a_tenth",
        f"{A}half_of_a_window_dropped_is_an_outage",
        f"{P}adaptive.py::test_dropped_calls_lower_the_limit_and_cancelled_ones_do_not",
    ),
    "ControllerUnbounded": (f"{A}the_limit_stays_between_its_bounds",),
    # Engines.
    "SlotKeptWhenConstructionFails": (f"{P}engines.py::test_a_slot_goes_back_whatever_fails_while_the_engine_is_made",),
    "SlotKeptOnClose": (f"{P}engines.py::test_a_user_has_two_engines_and_is_told_so",),
    "ZombieWritesOn": (
        f"{P}engine_expiry.py::test_whatever_a_zombie_writes_late_is_refused_and_counted",
        "lib::engines::book::tests::what_a_fence_refuses_is_counted",
    ),
    "BusyEngineEvicted": (
        f"{P}engine_expiry.py::test_an_engine_that_runs_something_makes_no_room",
        "lib::engines::book::tests::room_is_made_by_the_engine_that_was_idle_longest_and_by_none_that_runs",
    ),
    "IdleTimeIgnored": ("lib::engines::book::tests::an_engine_may_be_idle_for_so_long_after_each_time_it_ran",),
    "EngineNeverDue": (f"{P}engines.py::test_an_engine_ends_at_its_deadline",),
    # The loop account.
    "ThrownNotPassedOn": (
        f"{P}trampoline.py::test_nothing_is_different[is_cancelled-asyncio]",
        f"{P}trampoline.py::test_nothing_is_different[swallows_a_cancellation-uvloop]",
    ),
    "InnerStepsCountTwice": (
        f"{P}loop_account.py::test_who_runs_another_agent_is_not_charged_for_it",
        "lib::loopaccount::stopwatch::tests::what_is_measured_inside_is_taken_out_of_the_outside",
    ),
    "LongestStepIsTheLast": ("lib::loopaccount::account::tests::the_longest_step_stays_the_longest",),
    "BlocksUnbounded": ("lib::loopaccount::blocks::tests::the_latest_blocks_are_kept_and_no_more",),
    "LoopBudgetIgnored": (
        f"{P}loop_account.py::test_an_agent_that_uses_too_much_of_the_loop_is_ended_and_cleans_up",
        "lib::loopaccount::budget::tests::a_budget_is_told_when_it_is_used_up_and_again_when_as_much_is",
    ),
    "BlockNotTold": (f"{P}loop_account.py::test_a_block_is_told_with_its_run_its_agent_and_its_line",),
    # The guard of a rollout.
    "GuardBetsOnTheBound": (
        "guard_simulation::harmful_rollouts_are_caught_soon",
        "lib::guard::eprocess::tests::nobody_may_expect_to_gain_while_the_bound_holds",
    ),
    "GuardLatchLost": (
        "lib::guard::tests::a_rollback_stays_whatever_comes_after_it",
        f"{P}guard.py::test_a_rollback_takes_the_flag_from_everybody_before_the_call_returns",
    ),
    "GuardIgnoresDwell": (
        "lib::guard::tests::samples_and_dwell_together_are_needed",
        f"{P}guard.py::test_it_climbs_the_ladder_with_samples_and_time_and_with_neither_alone",
    ),
    "GuardNeedsNoData": (
        "lib::guard::tests::no_data_of_one_metric_holds",
        f"{P}guard.py::test_it_climbs_the_ladder_with_samples_and_time_and_with_neither_alone",
    ),
    "GuardSleepsWhilePaused": (
        "lib::guard::tests::one_violation_of_isolation_aborts_in_every_state",
        f"{P}guard.py::test_one_violation_of_isolation_is_enough_in_every_state",
    ),
    "GuardIgnoresBaseline": ("guard_simulation::as_slow_as_the_older_side_is_never_rolled_back",),
    # What it does.
    "RollbackEventWithoutCode": (f"{P}guard_runs.py::test_abort_cancels_the_modern_runs_with_one_last_event_each",),
    "AbortEndsLegacyRuns": (f"{P}guard_runs.py::test_abort_cancels_the_modern_runs_with_one_last_event_each",),
    "RollbackNotWrittenAgain": (f"{P}guard.py::test_a_rollback_that_cannot_be_written_holds_here_and_is_tried_again",),
    # Events.
    "FoldDropsLatest": (f"{P}event_log.py::test_a_full_log_folds_into_the_latest_of_each_span_and_key",),
    "FoldForgetsOpenSpans": (
        f"{P}event_log.py::test_after_any_fold_a_late_client_sees_open_what_is_open",
        "run_log_model::every_reader_has_an_unbroken_history",
    ),
    "FoldDropsAll": (
        f"{P}event_classes.py::test_a_fold_keeps_the_whole_text_where_its_latest_part_is",
        "run_log_model::every_reader_has_an_unbroken_history",
    ),
    "CutTextLooksWhole": (f"{P}event_classes.py::test_a_text_that_lost_its_beginning_says_so",),
    "FoldKeepsLastPart": (
        f"{P}event_classes.py::test_a_fold_keeps_the_whole_text_where_its_latest_part_is",
        "run_log_model::every_reader_has_an_unbroken_history",
    ),
    "OldestDroppedSilently": (
        "run_log_model::every_reader_has_an_unbroken_history",
        f"{P}event_classes.py::test_a_full_log_sheds_debug_then_old_progress_then_folds",
    ),
    "CriticalShed": (
        f"{P}event_classes.py::test_what_is_critical_survives_a_flood_of_debug",
        "run_log_model::every_reader_has_an_unbroken_history",
    ),
    "CriticalSkipped": (
        f"{P}event_classes.py::test_what_is_critical_survives_a_flood_of_debug",
        "run_log_model::every_reader_has_an_unbroken_history",
    ),
    "ConflationKeepsFirst": (
        f"{P}event_classes.py::test_of_progress_the_latest_of_a_key_is_read",
        "run_log_model::every_reader_has_an_unbroken_history",
    ),
    "ReadByUrgency": (
        f"{P}event_classes.py::test_of_progress_the_latest_of_a_key_is_read",
        "run_log_model::every_reader_has_an_unbroken_history",
    ),
    "TrailingSkipNotTold": (
        f"{P}event_classes.py::test_a_reader_that_is_far_behind_is_sent_no_debug_and_told_so",
        "run_log_model::every_reader_has_an_unbroken_history",
    ),
    "TextsMixed": (
        f"{P}event_classes.py::test_parts_of_two_executions_are_not_joined",
        "run_log_model::every_reader_has_an_unbroken_history",
    ),
    "TextJoinsAcrossEvents": (
        f"{P}event_classes.py::test_parts_of_other_texts_and_with_other_events_between_are_not_joined",
        "run_log_model::every_reader_has_an_unbroken_history",
    ),
    "TextJoinedBackwards": (
        f"{P}event_classes.py::test_adjacent_parts_of_a_text_are_read_as_one",
        "run_log_model::every_reader_has_an_unbroken_history",
    ),
    "EndedStreamTakesEvents": (f"{P}event_classes.py::test_an_event_that_is_published_again_is_not_appended_again",),
    "ProducerIdForgotten": (
        f"{P}event_classes.py::test_an_event_that_is_published_again_is_not_appended_again",
        "run_log_model::every_reader_has_an_unbroken_history",
    ),
    "DeliveryWakesNobody": (f"{P}event_classes.py::test_a_wait_ends_when_a_client_has_acknowledged_the_event",),
    "EpochIgnored": (f"{P}cursors.py::test_resuming_answers_honestly",),
    "NumberReusedAfterFold": (
        "shuttle_log::a_client_that_attaches_while_events_fold_has_an_unbroken_history",
        f"{P}event_log.py::test_a_full_log_folds_into_the_latest_of_each_span_and_key",
        "run_log_model::every_reader_has_an_unbroken_history",
    ),
    "NumberSkipped": (
        f"{P}emitters.py::test_event_ids_are_unique_and_numbers_are_dense",
        "run_log_model::every_reader_has_an_unbroken_history",
    ),
    "PublishInTwoSteps": ("shuttle_log::no_event_comes_after_the_end",),
    "EndInTwoSteps": ("shuttle_log::two_that_end_a_stream_at_once_agree_how",),
    "WriterCountRaces": ("shuttle_log::the_last_of_several_writers_ends_the_stream",),
    "LeftStreamJoined": ("shuttle_log::a_stream_that_is_opened_while_its_last_writer_leaves_can_be_written",),
    "RoomSpins": ("shuttle_log::two_logs_that_make_room_for_each_other_do_not_wait_for_each_other",),
    "LogsWaitForEachOther": ("shuttle_log::two_logs_that_make_room_for_each_other_do_not_wait_for_each_other",),
    "PublishWakesNobody": (f"{P}cursors.py::test_a_wait_ends_when_there_is_something_to_read",),
    "EndWakesNobody": ("shuttle_log::a_reader_that_sleeps_misses_neither_an_event_nor_the_end",),
    "WakeLostWhenParking": ("shuttle_log::a_reader_that_sleeps_misses_neither_an_event_nor_the_end",),
    "EndFrameLost": (f"{P}cursors.py::test_the_end_is_sent_to_readers_and_again_to_whoever_asks",),
    "OpenSpansLeftOpen": (f"{P}event_log.py::test_what_is_left_open_is_closed_when_the_stream_ends",),
    "TwoTerminals": (f"{P}event_log.py::test_an_event_out_of_order_is_refused_and_changes_nothing",),
    "ToolLeftOpen": (f"{P}event_log.py::test_an_event_out_of_order_is_refused_and_changes_nothing",),
    "SpanIdReused": (f"{P}event_log.py::test_the_same_agent_twice_in_a_run_is_two_spans",),
    "ReadTwiceAfterResume": (
        f"{P}cursors.py::test_resuming_answers_honestly",
        "run_log_model::every_reader_has_an_unbroken_history",
    ),
    "LaterRunNotFollowed": (f"{P}cursors.py::test_a_run_that_begins_later_is_subscribed_already",),
    "LargeEventAccepted": (f"{P}emitters.py::test_an_event_over_64_kib_is_refused_with_its_size",),
    "UserBudgetIgnored": (f"{P}event_log.py::test_the_logs_of_a_user_stay_within_the_users_bytes",),
    "RetentionNeverOver": (
        f"{P}event_log.py::test_a_log_is_read_until_its_retention_is_over_and_then_frees_everything",
    ),
    # Logs of other workers.
    "MirrorTakesEvents": (
        "lib::events::log::mirror::tests::nobody_but_its_feeder_ends_a_mirror",
        f"{P}log_mirrors.py::test_nobody_but_its_feeder_changes_a_mirror",
    ),
    "MirrorEndedHere": ("lib::events::log::mirror::tests::nobody_but_its_feeder_ends_a_mirror",),
    "MirrorTakesGaps": (
        "run_log_mirrors::who_hops_between_workers_sees_what_the_writer_told",
        f"{P}log_mirrors.py::test_a_log_that_folded_meanwhile_is_taken_from_its_snapshot",
    ),
    "MirrorTakesAgain": ("run_log_mirrors::who_hops_between_workers_sees_what_the_writer_told",),
    "MirrorForgetsSpans": (
        "run_log_mirrors::a_run_whose_worker_died_is_closed_once_and_for_all",
        f"{P}log_mirrors.py::test_a_run_whose_worker_is_gone_is_closed_under_a_new_epoch",
    ),
    "MirrorAheadResets": (
        "run_log_mirrors::who_hops_between_workers_sees_what_the_writer_told",
        f"{P}log_mirrors.py::test_a_client_that_is_ahead_of_a_mirror_goes_on_exactly",
    ),
    "ReplicaForgetsShed": ("run_log_mirrors::who_hops_between_workers_sees_what_the_writer_told",),
    "ReplicaForgetsFold": (
        "run_log_mirrors::who_hops_between_workers_sees_what_the_writer_told",
        f"{P}log_mirrors.py::test_a_log_that_folded_meanwhile_is_taken_from_its_snapshot",
    ),
    "EntryNotBound": (
        "lib::events::log::codec::tests::what_is_of_another_log_is_refused",
        f"{P}log_mirrors.py::test_what_is_damaged_or_of_another_log_is_refused",
    ),
    "EntryNotSummed": (
        "lib::events::log::codec::tests::what_was_damaged_is_refused",
        f"{P}log_mirrors.py::test_what_is_damaged_or_of_another_log_is_refused",
    ),
    "SnapshotForgetsPairs": ("lib::events::log::mirror::tests::a_snapshot_that_travels_keeps_the_calls_apart",),
    "StoredBeforeStored": (f"{P}log_mirrors.py::test_an_event_can_be_waited_for_until_it_is_stored",),
    "BytesNotReturned": (f"{P}lanes.py::test_dropping_a_lane_frees_all_its_bytes",),
    # Connections.
    "AckNotCounted": (f"{P}flow.py::test_a_socket_pauses_at_512_events_and_an_ack_resumes_it",),
    "AckNeverDue": (f"{P}flow.py::test_an_ack_is_due_after_a_critical_frame_or_32_events",),
    "SocketNeverPauses": (f"{P}flow.py::test_a_socket_pauses_at_512_events_and_an_ack_resumes_it",),
    "RunsTakeNoTurns": (f"{P}flow.py::test_runs_take_turns_by_bytes_and_not_by_events",),
    "DeferredNeverFlushed": (f"{P}flow.py::test_an_event_waits_no_longer_than_its_class",),
    "CommandsUnbounded": (f"{P}flow.py::test_64_commands_at_once_then_32_a_second",),
    "ForeignRunCancelled": (f"{P}flow.py::test_a_stream_that_no_engine_runs_is_ended_as_cancelled",),
    "EndedRunOwesNoAck": (f"{P}flow.py::test_the_last_events_of_a_run_are_acknowledged_after_its_end",),
    "SkipNotSent": (f"{P}flow.py::test_skipped_events_are_declared",),
    # What is known of the delivery.
    "DelayCountsReplay": (f"{P}bridge.py::test_the_delay_from_publishing_to_a_socket_is_measured",),
    "EventTypesUnbounded": (
        f"{P}bridge.py::test_types_are_counted_by_name_for_the_latest_fifty",
        "lib::metrics::types::tests::names_are_bounded_and_nothing_is_lost",
    ),
    "PongNotHeard": (f"{P}bridge_pool.py::test_a_pool_is_unhealthy_when_no_socket_answers",),
    "ForeignSocketClosed": (f"{P}bridge_pool.py::test_a_socket_is_closed_by_its_own_user_only",),
    # Memory.
    "CacheNeverExpires": (
        f"{P}cache.py::test_an_entry_lives_for_its_time_and_setting_it_begins_anew",
        "lib::cache::store::tests::entries_expire_when_their_time_is_over",
    ),
    "CacheForgetsUse": (f"{P}cache.py::test_what_was_used_longest_ago_makes_room",),
    "CacheEvictsLatest": (f"{P}cache.py::test_what_was_used_longest_ago_makes_room",),
    "CacheBytesUnbounded": (f"{P}cache.py::test_bytes_are_bounded_and_a_giant_changes_nothing",),
    "WeakEntryTakesLater": (f"{P}cache.py::test_a_value_that_is_set_while_the_earlier_one_is_collected_stays",),
    "CacheKeptAfterCleanup": (f"{P}cache.py::test_the_cache_ends_with_its_context",),
    "MemoryLimitIgnored": (f"{P}memory.py::test_threads_that_charge_never_pass_the_limit",),
    "CacheBytesKept": (f"{P}cache.py::test_the_user_is_charged_and_every_byte_returns",),
    # Owners.
    "OwnerNotComparedAtPublish": ("run_log_model::a_log_is_its_owners_alone",),
    "OwnerNotComparedAtSubscribe": ("lib::events::connection::tests::a_stream_of_another_user_is_not_followed",),
    "OwnerNotComparedAtWrite": ("lib::events::connection::tests::a_stream_of_another_user_is_not_read",),
    "OwnerNotComparedAtBind": (f"{P}limits.py::test_a_context_of_another_user_is_refused",),
    "RunOfAnotherUserAccepted": (f"{P}event_log.py::test_a_run_id_belongs_to_one_user_while_its_log_lives",),
    "SessionNotCompared": (f"{P}isolation.py::test_a_session_of_two_users_is_found_in_both_contexts",),
    # Authentication; faults of Python.
    "TicketReusable": (f"{P}authentication.py::test_a_ticket_counts_once", f"{S}a_ticket_opens_one_socket"),
    "TicketOfAnyPage": (f"{P}authentication.py::test_a_ticket_is_of_one_page_and_burnt_by_another",),
    "TicketKeptAsItIs": (f"{P}authentication.py::test_tickets_are_bounded_and_kept_as_hashes",),
    "OriginPrefixMatches": (f"{P}authentication.py::test_origins_are_compared_whole",),
    "AlgorithmOfTheHeader": (
        f"{P}authentication.py::test_a_public_key_is_no_secret",
        f"{P}jws_vectors.py::test_a_key_is_for_one_algorithm",
    ),
    "AudienceNotCompared": (f"{P}authentication.py::test_claims_that_are_missing_or_wrong",),
    "IssuerPrefixMatches": (f"{P}authentication.py::test_claims_that_are_missing_or_wrong",),
    "ExpiryNotNeeded": (f"{P}authentication.py::test_claims_that_are_missing_or_wrong",),
    "CriticalHeaderIgnored": (f"{P}authentication.py::test_headers_that_do_not_fit",),
    "RotatedTokenCounts": (f"{P}authentication.py::test_a_token_that_was_rotated_is_noticed_when_it_comes_back",),
    "SessionNeverIdle": (f"{P}authentication.py::test_a_session_lasts_while_it_is_used_and_not_for_ever",),
    "OneFactorIsEnough": (f"{P}authentication.py::test_two_factors_are_of_two_kinds",),
    "RefreshForAnother": (f"{S}a_refresh_that_is_not_the_same_users_ends_the_socket",),
    "ExpiredSocketGoesOn": (f"{S}a_socket_ends_with_its_token_unless_it_is_renewed",),
    "ExpiredStreamGoesOn": (f"{S}an_event_stream_takes_the_same_credentials_and_ends_with_them",),
    "LogoutLeavesSockets": (f"{S}logout_closes_the_sockets_and_streams_of_the_user_and_nobody_elses",),
    "LogoutOfEverybody": (f"{S}logout_closes_the_sockets_and_streams_of_the_user_and_nobody_elses",),
    "TokenInTheAddress": (f"{S}a_token_in_the_address_is_refused",),
    "OriginNotCompared": (f"{S}a_page_of_another_origin_is_refused_whatever_it_shows",),
    "CookieTaken": (f"{S}a_cookie_counts_from_a_listed_page_alone",),
    "CredentialSelected": (f"{S}the_existing_front_end_offers_a_name_of_its_own",),
    "AcceptedBeforeDecided": (f"{S}without_the_setting_nothing_is_accepted_before_it_is_known_who_it_is",),
    "CommandNotAsked": (f"{S}a_command_is_done_for_who_may_give_it",),
    # Contents.
    "CanaryNotVerified": (
        "lib::isolation::canary::tests::no_changed_character_passes",
        "lib::isolation::scanner::tests::what_is_nearly_a_canary_is_none",
    ),
    "EveryCanaryIsOwn": (
        f"{P}contamination.py::test_what_a_user_brought_is_told_once",
        "lib::isolation::scanner::tests::a_canary_is_ones_own_or_somebody_elses",
    ),
    "EncodedCanaryMissed": (
        f"{P}contamination.py::test_a_canary_is_found_wherever_it_is",
        "lib::isolation::scanner::tests::each_form_is_found_once_and_where_it_is",
    ),
    "FormerKeyForgotten": (
        f"{P}contamination.py::test_a_shared_key_is_known_in_another_process_and_the_former_one_too",
    ),
    "SecretsNotSearched": (f"{P}contamination.py::test_a_secret_is_found_in_any_place_and_is_the_users_own",),
    "SharedSecretAlarms": (f"{P}contamination.py::test_what_two_users_have_is_nobodys",),
    "StreamForgetsEnd": (
        f"{P}contamination.py::test_a_stream_is_stopped_where_a_canary_is_complete",
        "lib::isolation::scanner::tests::what_is_cut_anywhere_is_found_once",
    ),
    "KeysNotScanned": (f"{P}contamination.py::test_a_canary_is_found_wherever_it_is",),
    "NamesNotScanned": (f"{P}contamination.py::test_the_names_of_an_event_are_looked_at_as_its_payload_is",),
    "SightingsCrowdOut": (f"{P}contamination.py::test_much_that_is_granted_hides_nothing_that_is_not",),
    "ToolParametersNotAsked": (f"{P}tools.py::test_a_tool_is_not_called_with_what_is_another_users",),
    "ToolResultNotAsked": (f"{P}tools.py::test_what_a_tool_gives_of_another_user_gets_nowhere",),
    "CompressedNotRead": (
        "tests/integrations/test_contamination_fastapi.py::test_what_cannot_be_read_is_withheld_where_it_is_enforced",
    ),
    "SightingNotTold": (
        f"{P}contamination.py::test_an_event_with_data_of_another_user_is_not_published",
        "tests/leaks/test_leak_classes.py::test_a_leak_is_caught_and_withheld",
    ),
    # Findings in texts.
    "LuhnSkipped": ("lib::sanitize::tests::cards",),
    "CardAfterDot": ("lib::sanitize::tests::cards",),
    "KeyNamesBySubstring": (
        "lib::sanitize::keynames::tests::names_are_compared_word_by_word",
        f"{P}sanitizer.py::test_the_words_that_other_rules_delete_are_left_alone",
    ),
    "MaskIsNoMask": (
        "lib::sanitize::tests::masks_tell_users_apart_and_are_kept",
        "lib::sanitize::tests::masking_twice_is_masking_once",
        f"{P}sanitizer.py::test_json_in_json_out_and_twice_is_once",
    ),
    "CarryTooShort": (
        "lib::sanitize::tests::a_secret_that_is_split_anywhere_is_found",
        f"{P}sanitizer.py::test_a_secret_that_comes_in_two_pieces_is_masked",
    ),
    "EventSecretsShown": (f"{P}sanitized_events.py::test_no_secret_reaches_the_log_and_the_rest_is_as_it_was",),
    # Lanes and processes.
    "LaneEvictedInUse": (f"{P}lanes.py::test_a_lane_in_use_is_never_evicted",),
    "IdleLanesUnbounded": (f"{P}lanes.py::test_idle_lanes_are_bounded_and_the_one_idle_longest_goes_first",),
    "ForkNotNoticed": (f"{P}lanes.py::test_a_child_process_does_not_use_what_belongs_to_its_parent",),
    "RandomnessSharedAfterFork": (f"{P}ids.py::test_a_child_process_draws_random_bytes_of_its_own",),
    # The audit log.
    "HeaderNotAuthenticated": ("lib::audit::frame::tests::a_body_does_not_open_in_the_place_of_another",),
    "LeafWithoutPrefix": ("lib::audit::merkle::tests::the_published_roots_come_out",),
    "CheckpointNotExtended": ("audit_log::a_log_that_is_cut_off_anywhere_is_found",),
    "ShredKeepsSalt": ("lib::audit::keystore::tests::nothing_of_an_erased_user_is_left_but_the_names_of_the_keys",),
    "GapNotCounted": (
        "audit_log::a_log_whose_file_is_moved_away_refuses_spills_and_drops_and_tells_afterwards",
        "audit_log::a_full_queue_refuses",
    ),
    "InodeNotChecked": (
        "lib::audit::files::tests::a_file_that_is_not_where_it_was_is_noticed",
        "audit_log::a_log_whose_file_is_moved_away_refuses_spills_and_drops_and_tells_afterwards",
    ),
    # Contexts.
    "ChildAliasesParent": (f"{P}contexts.py::test_a_child_belongs_to_its_parent",),
    "DeepCopySharesNested": (f"{P}contexts.py::test_a_dictionary_is_copied_in_all_its_depth",),
    "RequestIdReused": (f"{P}contexts.py::test_request_ids_are_unique_in_a_run_and_bounded",),
    "DepthUnbounded": (f"{P}contexts.py::test_a_chain_of_children_reaches_depth_ten_and_no_deeper",),
    "PlaceholderPrefixPasses": (f"{P}ids.py::test_placeholder_prefixes_are_refused_in_short_values_only",),
    "UnfinishedRunSucceeds": (f"{P}contexts.py::test_the_last_state_follows_from_the_runs",),
    "EndedContextRuns": (f"{P}contexts.py::test_an_ended_context_refuses_illegal_moves",),
    # Tools and permissions.
    "WallSkipped": (
        f"{P}permissions.py::test_no_role_opens_the_wall",
        f"{P}tools.py::test_parameters_that_name_what_is_anothers_are_refused",
        "lib::tools::wall::tests::only_what_is_ones_own_passes_without_a_grant",
    ),
    "DenialOverruled": (
        f"{P}permissions.py::test_a_denial_overrides_whatever_else_permits",
        f"{P}permissions.py::test_roles_permit_what_some_rule_allows_and_none_denies_in_any_order",
        "lib::tools::roles::tests::one_denial_is_enough_and_more_roles_never_undo_it",
    ),
    "EarlyVerdictNotRecorded": (
        f"{P}permissions.py::test_a_check_that_breaks_off_early_is_refused_and_recorded",
        f"{P}permissions.py::test_a_check_that_is_cancelled_is_refused_and_recorded",
    ),
    "CancelledCallNotTold": (
        f"{P}tools.py::test_a_cancelled_call_completes_on_the_stream",
        f"{P}tools.py::test_cancelled_at_any_turn_each_call_that_begins_completes",
    ),
    "ToolDeadlineIgnored": (
        "lib::tools::dispatch::tests::deadlines_come_in_their_order_and_once",
        f"{P}tools.py::test_one_timer_serves_deadlines_in_any_order",
    ),
    # Flags.
    "RolloutOffByOne": (
        "lib::flags::bucket::tests::boundaries_of_a_rollout",
        f"{P}flag_vectors.py::test_own",
    ),
    "SaltIgnored": ("flags::flags_are_independent", f"{P}flag_vectors.py::test_own"),
    "KillSwitchIgnored": (
        "lib::flags::evaluate::tests::the_first_step_that_applies_decides",
        f"{P}flags.py::test_the_kill_switch_and_quarantine",
    ),
    "RollbackNotLatched": (
        "lib::flags::store::tests::a_rollback_stays_until_somebody_resumes_after_it",
        f"{P}flags.py::test_a_rollback_outlives_documents_until_somebody_resumes",
    ),
    "OlderRevisionTaken": (
        "lib::flags::store::tests::what_is_not_valid_or_older_leaves_what_is_in_force",
        "flags::decisions_beside_loads_see_one_document",
    ),
    "UnknownFieldPasses": ("lib::flags::read::tests::what_is_wrong_is_said_with_its_place",),
    "SnapshotNotInherited": (
        f"{P}flag_contexts.py::test_a_run_keeps_what_was_so_when_it_began",
        f"{P}flag_contexts.py::test_no_run_mixes_modes_while_the_flag_flips",
    ),
    "EnterprisePercentIsAll": (f"{P}migration_flags.py::test_tiers",),
    "FailedReadIsNotTold": (f"{P}migration_flags.py::test_a_source_that_fails_leaves_the_last_good_document",),
    # Rules, borders and emergencies.
    "AlertsNameUsers": (f"{B}monitor.py::test_so_many_events_within_the_window_make_an_alert_without_anybodys_data",),
    "RulesCountAllUsers": (f"{B}monitor.py::test_users_are_counted_each_by_itself_unless_the_rule_says_otherwise",),
    "WindowNeverEnds": (f"{B}monitor.py::test_events_that_are_too_far_apart_make_none",),
    "WebhookFollows": (f"{B}alerts.py::test_what_fails_for_now_is_tried_again_and_what_is_wrong_is_not",),
    "EitherConditionCounts": (f"{B}queries.py::test_what_may_reach_others_is_refused",),
    "InnerQueriesPass": (f"{B}queries.py::test_what_may_reach_others_is_refused",),
    "RowsGivenAway": (f"{B}queries.py::test_what_may_reach_others_is_refused",),
    "RefusalNotRecorded": (f"{B}boundary.py::test_a_context_that_shares_is_refused_and_recorded",),
    "EmergencyStopsAtAnError": (f"{B}boundary.py::TestEmergency::test_it_goes_on_whatever_fails_and_says_so",),
    "EmergencyKeepsSockets": (
        f"{B}boundary.py::TestEmergency::test_the_users_of_a_violation_are_isolated_and_nobody_else",
    ),
    # Flags.
    "RunChangesItsMode": (
        (
            "tests/integrations/test_rollout.py::"
            "test_a_client_that_comes_back_finds_its_live_run_in_the_mode_in_which_it_began"
        ),
    ),
    "FlagsWrittenInPlace": (f"{P}flag_sources.py::test_a_writer_that_is_killed_at_any_moment_leaves_a_whole_file",),
    "FlagWritersMeet": (f"{P}flag_sources.py::test_many_processes_that_write_at_once_lose_no_write",),
    "HalfDocumentTaken": (f"{P}flag_sources.py::test_a_file_that_is_written_in_pieces_is_taken_when_it_is_whole",),
    "EnvironmentBeforeFile": (
        f"{P}flag_sources.py::test_the_file_counts_before_the_environment_so_that_a_rollback_reaches_the_process",
    ),
    "ResumedRuleGoesOn": (f"{P}rollout_cli.py::test_kill_and_resume_a_flag",),
    # Older agents.
    "LegacyIdMadeUp": (f"{P}legacy_states.py::TestIdentity::test_a_placeholder_is_an_error",),
    "LegacyDataCopiedShallow": (f"{P}legacy_states.py::TestCopies::test_nothing_is_shared_at_any_depth",),
    "LegacyStateOfAnotherTaken": (f"{P}legacy_agents.py::TestInEngines::test_a_state_of_another_user_is_refused",),
    "ReturnedStateNotAsked": (
        f"{P}legacy_agents.py::TestInEngines::test_a_state_that_an_agent_keeps_for_all_users_is_not_handed_on",
    ),
    "FrozenStateWritten": (f"{P}legacy_states.py::TestLaterWrites::test_strict_they_raise",),
    "CancelledSpanLeftOpen": (
        f"{P}agent_templates.py::TestTheTemplate::test_a_cancellation_ends_record_and_span_and_gives_the_permit_back",
    ),
    "StateOfAnotherCallsTools": ("tests/compat/test_unified_tool_dispatcher.py::TestCalling::test_the_ways_to_ask",),
    # Legacy beside modern.
    "LegacySendNotCompared": (
        f"{P}legacy_bridges.py::TestWhose::test_code_of_one_user_cannot_name_another",
        "tests/integrations/test_legacy_bridge_fastapi.py::test_two_users_and_what_each_may_send",
    ),
    "LegacySocketOfAnybody": (
        "tests/integrations/test_legacy_bridge_fastapi.py::test_a_socket_is_whose_who_signed_in_on_it",
    ),
    "LegacyBroadcastToAll": (
        f"{P}legacy_bridges.py::TestBroadcasts::test_by_default_it_goes_to_the_bound_user",
        "tests/integrations/test_legacy_bridge_fastapi.py::test_a_broadcast_goes_to_who_asked",
    ),
    "LegacyRefusalNotRecorded": (f"{P}legacy_bridges.py::TestWhose::test_code_of_one_user_cannot_name_another",),
    "LateTaskIsNobodys": (f"{P}legacy_kept.py::TestWhatOutlivesItsRun",),
    "EndedRunBegunAnew": (f"{P}legacy_kept.py::TestWhatOutlivesItsRun",),
    "WritePastAttributesLost": (f"{P}legacy_kept.py::TestWritesThatFreezingDoesNotRefuse",),
    "HybridHandsOverTwice": (f"{P}legacy_hybrid.py::test_it_takes_the_place_of_no_socket_and_comes_back",),
    # Legacy calls and help for tests.
    "LedgerUnbounded": ("lib::deprecation::ledger::tests::sites_are_bounded_and_those_called_longest_ago_make_room",),
    "LedgerEvictsLatest": (
        "lib::deprecation::ledger::tests::sites_are_bounded_and_those_called_longest_ago_make_room",
    ),
    "LedgerMergeKeepsFirstTime": (
        "lib::deprecation::book::tests::calls_add_up_and_times_widen",
        "lib::deprecation::book::tests::the_order_of_merging_does_not_matter",
    ),
    "LegacySymbolsUnbounded": ("lib::deprecation::book::tests::names_of_symbols_are_bounded",),
    "LegacySiteIsSuperCall": (f"{P}deprecation.py::test_who_makes_an_object_is_the_caller_and_not_super",),
    "DeprecatedIsNoCoroutine": (f"{P}deprecation.py::test_a_coroutine_function_stays_one",),
    "MergedLedgersCountTwice": (
        f"{P}deprecation_ledgers.py::test_cut_off_while_putting_together_nothing_counts_twice",
    ),
    "HourOpensGateOfAWeek": (f"{P}deprecation_ledgers.py::test_the_gate",),
    "NobodyCountedOpensGate": (
        f"{P}deprecation_ledgers.py::test_less_than_the_window_can_be_enough_but_never_nothing",
        f"{P}deprecation_ledgers.py::test_the_gate",
    ),
    "LabTrustsItself": (f"{P}pytest_plugin.py::test_planted_leaks_are_found_and_clean_neighbours_pass",),
    "FaultNeedNotCome": (f"{P}pytest_plugin.py::test_faults_come_or_the_test_fails",),
    # The tools that move a code base.
    "BareNameIsEnough": (f"{M}rules.py::test_near_misses_are_not_found",),
    "FixWithoutALook": (f"{M}fixes.py::test_without_unsafe_only_safe_fixes_are_made",),
    "CommentLost": (f"{M}fixes.py::test_a_fix_that_would_lose_a_comment_is_not_made",),
    "ChangedFileOverwritten": (f"{M}fixes.py::TestWriting::test_what_changed_since_is_left_alone",),
    "BaselineByLine": (f"{M}scan.py::TestBaseline::test_what_is_known_stays_known_when_lines_move",),
    "UnusedIgnoreIsQuiet": (f"{M}scan.py::TestComments::test_comments_that_ignore_nothing_are_reported",),
    # The plane that workers share.
    "AnswerOfWhoLeft": (
        f"{PLANE}_faults.py::test_10_000_callers_that_leave_at_any_time_get_and_give_nobody_elses_answer",
    ),
    "ConnectionMadeByItself": (
        f"{PLANE}_faults.py::test_a_connection_that_was_cut_is_not_made_again_behind_the_planes_back",
    ),
    "BusyLoopBlamesRedis": (
        f"{PLANE}_faults.py::test_a_burst_larger_than_50_ms_of_work_is_answered_by_a_server_that_is_well",
    ),
    "CallsForRedisUnbounded": (f"{PLANE}_faults.py::test_what_waits_is_bounded",),
    "EachCallWaitsForDeadRedis": (f"{PLANE}_faults.py::test_calls_fail_at_once_while_it_is_known_that_nobody_answers",),
    "DeadConnectionIsKept": (f"{PLANE}_faults.py::test_no_call_hangs_and_all_is_well_again_afterwards[half open]",),
    "LostHintsStayLost": (f"{PLANE}_faults.py::test_hints_that_were_lost_are_made_up_for_by_a_look",),
    "CommandObeyedTwice": (f"{PLANE}.py::test_a_command_that_comes_twice_is_obeyed_once",),
    "LostDataNotNoticed": (f"{PLANE}_faults.py::test_a_redis_that_lost_its_data_is_told_to_who_follows",),
    "ChildUsesParentsConnection": (f"{PLANE}.py::test_a_child_leaves_its_parents_connections_alone",),
    "PasswordOfRedisIsShown": (f"{PLANE}.py::test_a_user_and_a_password_are_sent_and_never_shown",),
    # The acceptance suite.
    "FramesNotScanned": (f"{ACCEPT}verdicts.py::test_a_canary_of_another_is_found_with_its_place",),
    "UnseenControlsPass": (
        f"{ACCEPT}verdicts.py::test_a_control_that_is_not_seen_makes_it_inconclusive",
        f"{ACCEPT}own.py::test_a_checker_that_sees_nothing_makes_a_test_inconclusive",
    ),
    "BlindUsersPass": (f"{ACCEPT}own.py::test_users_who_hear_nothing_have_shown_nothing",),
    "RunsOfOthersPass": (f"{ACCEPT}verdicts.py::test_each_fault_of_events_is_said",),
    "ShutDoorsPass": (f"{ACCEPT}own.py::test_a_door_that_is_shut_for_everybody_is_inconclusive",),
    # Logs of several workers.
    "SecondWriterAppends": (f"{CLUSTER}log_stores.py::test_a_second_writer_is_refused[redis]",),
    "FormerLogComesBack": (
        f"{CLUSTER}log_stores.py::test_one_of_many_takes_a_run_over_and_its_former_worker_writes_no_more[redis]",
    ),
    "GapIsStored": (f"{CLUSTER}log_stores.py::test_a_gap_is_never_stored[redis]",),
    "LateReaderGetsNoSnapshot": (f"{CLUSTER}log_stores.py::test_a_snapshot_stands_for_what_is_before_it[redis]",),
    "LiveRunIsClaimed": (f"{CLUSTER}log_stores.py::test_a_lease_that_is_renewed_in_time_is_not_taken[redis]",),
    "SealedForAnyPlace": (f"{CLUSTER}cluster_logs.py::test_what_is_sealed_opens_in_its_place_alone",),
    "CancelledArrivalStays": (
        f"{CLUSTER}cluster_logs.py::test_a_socket_that_is_cancelled_while_it_waits_leaves_nothing",
    ),
    "HintsAreNeeded": (f"{CLUSTER}cluster_logs.py::test_who_hears_no_hint_looks_by_itself",),
    "AdoptsAtOnce": (f"{CLUSTER}cluster_logs.py::test_who_has_been_away_closes_no_runs_at_once",),
    "EmptiedStaysEmpty": (f"{CLUSTER}cluster_logs.py::test_a_store_that_was_emptied_is_filled_again",),
    "LogoutStaysHere": (f"{CLUSTER}shared_plane.py::test_sign_outs_from_threads_and_before_redis_is_there_arrive",),
    "TicketOfRedisCountsTwice": (
        f"{CLUSTER}shared_plane.py::test_who_is_cancelled_leaves_no_ticket_that_counts_twice_and_gets_nobody_elses",
    ),
    "ReleaseStaysHere": (f"{CLUSTER}shared_plane.py::test_a_release_is_of_the_entry_that_it_was_meant_for",),
    "SharedCounterFalls": (f"{CLUSTER}shared_plane.py::test_what_counts_anew_goes_on_from_where_it_was",),
    "RestartCountsTwice": (f"{CLUSTER}shared_plane.py::test_a_plane_that_is_started_again_counts_nothing_twice",),
    "SharedAfterTheEnd": (
        f"{CLUSTER}cluster_limits.py::test_after_the_end_of_an_application_its_limiters_are_their_own",
    ),
    "ZombieGoesOn": (f"{CLUSTER}cluster_logs.py::test_a_run_that_another_worker_has_closed_ends_here",),
}
"""The fault, and the tests that must notice it."""
