//! The situations, in groups.

/// One row.
pub struct Row {
    /// The situation.
    pub name: &'static str,
    /// What is done.
    pub done: &'static str,
    /// The test that does it.
    pub test: &'static str,
}

const fn row(name: &'static str, done: &'static str, test: &'static str) -> Row {
    Row { name, done, test }
}

/// All of them.
pub const SITUATIONS: &[(&str, &[Row])] = &[("How another tool loses data", LOSSES)];

const LOSSES: &[Row] = &[
    row(
        "delete and insertion of one _id, also in one transaction",
        "40 documents, five times each, some deleted at the end",
        "a_document_that_is_deleted_and_inserted_again_is_there",
    ),
    row(
        "503, then kill -9",
        "500 insertions while the bulk endpoint answers 503; kill -9; a start while it still does",
        "a_target_that_answers_503_until_after_the_end",
    ),
    row(
        "503, then SIGTERM",
        "300 insertions, the same",
        "a_target_that_answers_503_until_after_the_end",
    ),
    row(
        "0.5 % of the documents refused by the mapping",
        "20 of 4,000 in the copy, more by changes; mended and deleted later",
        "what_the_mapping_refuses_does_not_hold_up_the_rest",
    ),
    row(
        "every bulk refused during a copy",
        "403 to everything, a stop, a start without it",
        "a_target_that_refuses_every_request_is_waited_for",
    ),
    row(
        "_ids of every type in one collection",
        "60,000 of ten types, and those that are alike: 1 and \"1\", true and \"true\", null, \
         sub-documents",
        "sixty_thousand_ids_of_every_type_stay_apart",
    ),
    row(
        "updates and deletes while a slow copy runs",
        "2,000 operations while 5,000 documents are copied at 3 MiB/s, into an index that forgets \
         deletes at once",
        "a_copy_to_a_slow_target_while_documents_change",
    ),
    row(
        "SIGTERM at the end of the copy, with a backlog of changes",
        "every document changes during a slow copy; a stop as soon as it is complete",
        "a_stop_at_the_end_of_the_copy_with_a_backlog",
    ),
    row(
        "a copy's cursor lost half-way",
        "each second reply of 12 is CursorNotFound, for the stream too",
        "a_cursor_that_the_server_ends_half_way_is_opened_again",
    ),
    row(
        "a change event over 16 MiB, and 200 changes behind it",
        "an update of 10,000 fields with long paths",
        "a_change_whose_event_is_over_16_mib_and_those_behind_it",
    ),
    row(
        "started idle, stopped, 50 insertions, started",
        "three times, once by kill -9",
        "what_is_inserted_between_two_idle_runs_arrives",
    ),
    row(
        "a document leaves the filter",
        "by either field of it, and comes back; also while nothing runs",
        "a_document_that_leaves_the_filter_leaves_the_target",
    ),
    row(
        "413 from the engine",
        "bodies over 1 MiB, some documents larger than that",
        "a_request_too_large_for_the_engine_is_sent_in_parts",
    ),
    row(
        "a time-series collection in the namespaces",
        "beside three collections that a pattern takes",
        "a_pattern_takes_what_comes_later_and_passes_over_the_rest",
    ),
    row("$unset", "with $pop, deep inside", "a_field_that_is_unset_is_gone"),
];
