//! What every backend of `storage` promises, run against all of them: `SQLite` in a file and in memory, Postgres;
//! presence in memory and in Redis; objects in memory, in a directory and in S3. The servers are real, private to this binary, and end with it.

mod backends;
mod cases;
mod random;
mod s3_server;
mod servers;

use backends::{TestDatabase, TestObjects, TestPresence};

/// Runs each case on each database, every time on a fresh one.
macro_rules! on_every_database {
    ($($area:ident: [$($case:ident),+ $(,)?]),+ $(,)?) => {
        on_every_database!(@ sqlite { $($area: [$($case),+]),+ });
        on_every_database!(@ sqlite_in_memory { $($area: [$($case),+]),+ });
        on_every_database!(@ postgres { $($area: [$($case),+]),+ });
    };
    (@ $backend:ident { $($area:ident: [$($case:ident),+]),+ }) => {
        mod $backend {
            $(mod $area {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let database = crate::TestDatabase::$backend().await;
                    crate::cases::$area::$case(&database).await;
                })+
            })+
        }
    };
}

/// Runs each case on each kind of presence, every time on a fresh one.
macro_rules! on_every_presence {
    ($($case:ident),+ $(,)?) => {
        on_every_presence!(@ presence_in_memory, memory, [$($case),+]);
        on_every_presence!(@ presence_in_redis, redis, [$($case),+]);
    };
    (@ $module:ident, $backend:ident, [$($case:ident),+]) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let presence = crate::TestPresence::$backend().await;
                crate::cases::presence::$case(&presence).await;
            })+
        }
    };
}

/// Runs each case on each kind of object store, every time on a fresh one.
macro_rules! on_every_object_store {
    ($($case:ident),+ $(,)?) => {
        on_every_object_store!(@ objects_in_memory, memory, [$($case),+]);
        on_every_object_store!(@ objects_in_a_directory, directory, [$($case),+]);
        on_every_object_store!(@ objects_in_s3, s3, [$($case),+]);
    };
    (@ $module:ident, $backend:ident, [$($case:ident),+]) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let objects = crate::TestObjects::$backend();
                crate::cases::objects::$case(&objects).await;
            })+
        }
    };
}

on_every_database! {
    devices: [
        keeping_writes_nothing,
        a_change_is_written_as_a_whole,
        a_contradictory_change_writes_nothing,
        parallel_first_requests_make_one_device,
        parallel_accepts_at_limit_one_let_one_through,
        parallel_new_devices_with_room_for_one_let_one_in,
        new_devices_do_not_wait_for_one_another_until_there_are_many,
        parallel_changes_of_one_device_lose_nothing,
        accepting_another_set_ends_the_token_of_the_first,
        a_removed_device_leaves_nothing_behind,
        a_removal_and_a_check_in_wait_for_one_another,
        counts_follow_every_change,
        lists_by_status_and_id_without_gaps,
        tokens_end_when_revoked_or_expired,
        revoked_tokens_do_not_come_back_with_the_next_one,
        connections_of_withdrawn_keys_do_not_stand,
        a_set_has_one_owner,
        check_ins_are_written_in_bulk_and_never_go_back,
        the_limit_is_kept,
        settings_lift_only_what_settings_said,
        what_an_import_left_wrong_is_put_right,
        devices_being_removed_are_listed,
    ],
    users: [
        users_are_found_by_id_and_address,
        nobody_is_found_by_a_text_with_nul,
        an_address_or_id_is_taken_once,
        only_the_newest_sessions_survive,
        parallel_logins_keep_to_the_limit,
        another_password_ends_every_token,
        a_removed_user_leaves_no_token,
        the_last_user_stays,
        a_changed_user_keeps_one_token,
        named_tokens_have_a_name_and_a_number,
        a_token_has_a_long_name_that_no_compression_shortens,
        parallel_named_tokens_keep_to_the_limit,
        settings_are_replaced_by_who_has_seen_them,
    ],
    inventory: [
        a_new_device_shows_its_identity_and_status,
        long_lists_in_an_identity_are_shown_as_text,
        reports_merge_or_replace_their_own_scope_only,
        repeating_a_report_writes_once_a_day,
        too_many_attributes_store_nothing,
        reports_of_unknown_devices_store_nothing,
        characters_of_every_kind_come_back,
        parallel_reports_and_decisions_lose_nothing,
    ],
    grouping: [
        tags_have_versions,
        a_group_is_there_while_it_has_a_member,
        a_dissolved_group_lets_go_of_all_its_members_and_no_other,
        counts_are_true_after_changes_in_parallel,
        the_hub_writes_attributes_of_any_scope,
        what_one_scope_holds_is_bounded,
        reports_of_many_devices_are_one_transaction_and_keep_their_order,
        documents_from_before_there_were_searches_are_found,
        devices_are_counted_by_their_values,
        no_group_has_a_name_with_nul,
        saved_filters_have_names_of_their_own,
    ],
    search: [
        random_questions_are_answered_as_defined,
        devices_are_found_by_what_they_are_and_leave_with_it,
        only_the_devices_asked_about_are_found,
        whoever_passes_is_read_by_id_while_others_go,
        free_text_finds_beginnings_and_parts_of_names,
        what_a_device_is_known_by_comes_before_its_words,
        devices_are_found_by_where_they_are,
        an_expression_on_too_many_values_is_refused,
        the_values_that_one_question_matches_are_bounded,
        a_search_ends_at_its_limit,
        pages_of_any_order_meet_each_device_once,
        a_device_that_calls_every_hour_is_never_called_offline,
        paging_while_devices_report_meets_each_once,
    ],
    connections: [
        a_connection_begins_and_ends,
        an_older_connection_changes_nothing,
        five_thousand_changes_in_one_call,
        a_removed_device_is_not_brought_back,
        several_changes_of_one_device_in_one_call,
        nodes_recording_the_same_devices_do_not_fail,
        what_a_dead_node_left_behind_is_found,
    a_change_costs_the_same_however_many_devices_there_are,
        provisioning_and_forgetting,
        every_connection_is_in_the_log,
        of_several_ends_of_a_connection_the_first_counts,
        the_log_of_a_removed_device_goes_with_it_and_late_word_brings_nothing_back,
        an_end_without_a_beginning_is_in_the_log,
        old_connections_leave_the_log,
    ],
    sessions: [
        a_session_is_opened_goes_on_and_ends,
        an_end_is_final_whatever_arrives_later,
        one_node_adopts_a_session,
        sessions_a_dead_node_left_behind_end,
        lists_newest_first_by_device_user_and_state,
        thousands_of_sessions_in_one_call,
        sessions_that_ended_long_ago_are_removed,
    ],
    events: [
        events_come_back_in_order,
        an_event_is_appended_once,
        a_reader_misses_nothing_while_many_append,
        old_events_go_and_a_reader_can_tell,
    ],
    jobs: [
        a_job_is_taken_once_and_done,
        a_key_adds_one_job,
        an_input_that_is_too_large_adds_nothing,
        takers_at_once_share_the_work,
        a_lease_that_ended_lets_another_take_over,
        what_fails_comes_again_until_it_is_dead,
        a_job_that_is_called_off_is_nobodys,
        a_node_gives_back_what_it_holds,
        jobs_are_listed_newest_first,
        jobs_that_are_over_are_removed_in_time,
    ],
    alerts: [
        open_subjects_show_in_the_inventory,
        devices_are_found_by_their_open_subjects,
        an_alert_that_comes_again_is_stored_once,
        alerts_are_listed_by_the_time_they_were_issued,
        alerts_of_devices_that_are_not_there_leave_nothing,
        what_follows_from_alerts_is_written_with_them,
        nodes_that_record_at_once_lose_nothing,
        a_device_keeps_no_more_than_it_may,
        old_alerts_go_and_open_subjects_keep_their_latest,
        checks_are_forgotten_with_and_without_alerts,
    ],
    device_configs: [
        a_record_begins_and_ends_with_its_device,
        what_is_wanted_and_what_is_reported_keep_apart,
        changes_of_one_device_at_once_lose_nothing,
        changes_beyond_the_room_write_nothing,
        of_a_device_that_is_not_there_nothing_is_written,
        a_row_is_made_once_and_forgotten,
        all_records_are_emptied,
        a_deployment_keeps_what_was_wanted_then,
        what_is_over_keeps_no_secret,
        a_newer_configuration_takes_the_place_of_those_nobody_was_told_of,
    ],
    channels: [
        a_channel_is_made_changed_and_removed,
        there_are_no_more_channels_and_mutes_than_may_be,
        mutes_end_by_time_by_hand_and_with_their_channel,
        alerts_come_with_the_channels_and_mutes_of_their_moment,
    ],
    alert_rules: [
        a_rule_is_made_changed_and_removed,
        a_rule_is_looked_at_by_one_node_at_a_time,
        a_rule_is_held_as_long_as_it_is_as_it_was,
        devices_that_are_away_and_back_are_found,
        reported_numbers_are_read,
    ],
    audit: [
        an_entry_says_what_was_done_and_what_came_of_it,
        entries_are_found_by_who_what_and_when,
        what_happened_is_appended_once,
        old_entries_go_with_their_outcomes,
    ],
    artifacts: [
        an_artifact_becomes_known_with_its_release,
        only_one_of_a_name_fits_a_device,
        parallel_uploads_of_one_artifact_let_one_through,
        artifacts_have_room_in_all,
        artifacts_are_found_by_their_texts,
        devices_get_the_smallest_that_fits,
        what_a_deployment_uses_stays,
        a_release_ends_with_its_last_artifact,
        releases_have_tags_and_notes,
    ],
    deployments: [
        an_equal_deployment_goes_on_once,
        asking_again_changes_nothing,
        the_oldest_deployment_comes_first,
        a_device_gets_the_smallest_of_its_kind,
        a_device_that_has_it_is_left_alone_unless_forced,
        a_device_that_contradicts_itself_has_failed,
        devices_move_as_they_say,
        an_aborted_deployment_stops_its_devices,
        a_removed_device_is_over_with_everything,
        what_a_device_forgot_may_be_offered_again,
        a_log_is_replaced_by_the_next,
        deployments_are_found_by_what_they_are,
        whoever_passes_a_filter_is_told,
        a_device_that_is_removed_while_it_asks_stays_in_nothing,
        whoever_was_told_is_read_by_id,
        counts_are_those_of_the_rows_whatever_happens,
        parallel_polls_of_one_device_tell_it_once,
    ],
    deployment_parts: [
        a_part_is_one_row_that_is_found_by_what_it_is,
        parts_are_paged_in_any_order,
        parts_are_counted_by_their_fields,
        a_search_of_parts_is_bounded_in_time,
    ],
    rollout_phases: [
        a_phase_opens_when_the_one_before_is_over,
        a_phase_opens_at_its_time,
        too_many_failures_pause_a_deployment,
        failures_count_without_phases_too,
        who_failed_may_try_again,
        an_operator_pauses_and_resumes,
        a_newer_deployment_does_not_wait_for_a_phase,
        a_newer_deployment_does_not_wait_for_a_paused_one,
        a_device_that_is_removed_before_a_phase_opens_keeps_no_other_waiting,
        what_happens_to_a_deployment_is_told,
        alerts_pause_a_deployment,
        devices_that_stay_away_pause_a_deployment,
        phases_are_filled_whatever_happens,
    ],
    artifact_stores: [
        what_is_in_a_store_stays_there,
        a_store_that_does_not_work_is_not_taken,
        a_store_is_remembered_while_anything_is_in_it,
        stores_have_a_bound,
    ],
    uploads: [
        a_lost_upload_cannot_become_an_artifact,
        the_number_of_the_parts_is_kept,
        an_announced_upload_is_taken_once,
        an_upload_is_taken_over_only_so_often,
    ],
    wiping: [
        cleared_connections_are_gone_with_their_log,
        forgotten_sessions_are_gone_whether_they_are_over_or_not,
        expired_events_leave_their_numbers_taken,
    ],
    opening: [
        nodes_that_start_together_share_one_schema,
        all_nodes_get_the_same_signing_key,
        an_open_database_answers,
        a_closed_database_is_unavailable,
        a_full_pool_is_unavailable_soon,
    ],
}

on_every_presence! {
    a_route_is_found_while_its_node_is_alive,
    claims_displace_the_route_before,
    parallel_claims_get_distinct_growing_epochs,
    an_epoch_is_never_behind_the_clock,
    only_the_newest_connection_releases_its_route,
    many_routes_are_released_together,
    announcing_never_replaces_a_newer_route,
    announcing_thousands,
    a_node_that_leaves_takes_its_routes_along,
    counts_by_key_and_window,
}

on_every_object_store! {
    an_object_comes_back_as_it_was,
    more_than_was_expected_is_not_read,
    lists_whole_names_in_order,
    lists_and_removes_more_than_a_page,
    what_is_removed_is_gone,
    writers_of_one_object_do_not_mix,
    another_node_sees_the_same,
    an_object_is_written_piece_by_piece,
    an_object_given_up_leaves_nothing,
    ranges_are_read,
}

mod objects {
    #[tokio::test]
    async fn prefixes_keep_hubs_apart() {
        crate::cases::objects::prefixes_keep_hubs_apart().await;
    }

    #[tokio::test]
    async fn an_s3_that_refuses_us_stops_the_start() {
        crate::cases::objects::an_s3_that_refuses_us_stops_the_start().await;
    }

    #[tokio::test]
    async fn links_to_s3_need_nothing_else() {
        crate::cases::objects::links_to_s3_need_nothing_else().await;
    }

    #[tokio::test]
    async fn what_a_killed_writer_left_is_discarded() {
        crate::cases::objects::what_a_killed_writer_left_is_discarded().await;
    }

    #[tokio::test]
    async fn parts_have_a_number_before_the_first_is_sent() {
        crate::cases::objects::parts_have_a_number_before_the_first_is_sent().await;
    }

    #[tokio::test]
    async fn a_directory_that_is_gone_does_not_answer() {
        crate::cases::objects::a_directory_that_is_gone_does_not_answer().await;
    }

    #[tokio::test]
    async fn what_a_killed_writer_left_is_no_object() {
        crate::cases::objects::what_a_killed_writer_left_is_no_object().await;
    }
}

mod outages {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn s3_goes_away_and_comes_back() {
        crate::cases::objects::s3_goes_away_and_comes_back().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn redis_goes_away_and_comes_back() {
        crate::cases::outages::redis_goes_away_and_comes_back().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_redis_that_hangs_is_given_up_on() {
        crate::cases::outages::a_redis_that_hangs_is_given_up_on().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres_goes_away_and_comes_back() {
        crate::cases::outages::postgres_goes_away_and_comes_back().await;
    }

    #[tokio::test]
    async fn servers_that_are_not_there_stop_the_start() {
        crate::cases::outages::servers_that_are_not_there_stop_the_start().await;
    }
}
