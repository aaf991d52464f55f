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
pub const SITUATIONS: &[(&str, &[Row])] = &[
    ("How another tool loses data", LOSSES),
    ("The target fails", TARGET),
    ("The source fails", SOURCE),
    ("The history is lost", HISTORY),
    ("The checkpoint store fails", STORE),
    ("mongosync ends at a chosen point", POINTS),
    ("Size", SIZE),
    ("Everything at random", RANDOM),
];

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

const TARGET: &[Row] = &[
    row(
        "bulk requests answered 401",
        "500 documents changed in every way meanwhile; every other time kill -9 too",
        "each_refusal_is_waited_for",
    ),
    row("bulk requests answered 403", "the same", "each_refusal_is_waited_for"),
    row("bulk requests answered 404", "the same", "each_refusal_is_waited_for"),
    row("bulk requests answered 408", "the same", "each_refusal_is_waited_for"),
    row("bulk requests answered 429", "the same", "each_refusal_is_waited_for"),
    row("bulk requests answered 429 with Retry-After", "the same", "each_refusal_is_waited_for"),
    row("bulk requests answered 500", "the same", "each_refusal_is_waited_for"),
    row("bulk requests answered 502", "the same", "each_refusal_is_waited_for"),
    row("bulk requests answered 503", "the same", "each_refusal_is_waited_for"),
    row("bulk requests answered 504", "the same", "each_refusal_is_waited_for"),
    row("bulk requests answered 301", "the same", "each_refusal_is_waited_for"),
    row("bulk requests answered 200, and no JSON", "the same", "each_refusal_is_waited_for"),
    row("bulk requests answered 200, for no item", "the same", "each_refusal_is_waited_for"),
    row("connections cut before a bulk is written", "the same", "each_refusal_is_waited_for"),
    row("bulks written, their answers lost", "the same", "each_refusal_is_waited_for"),
    row(
        "every third bulk of a copy fails, each in another way",
        "6,000 documents in three lanes, 600 operations meanwhile",
        "a_copy_to_a_target_that_fails_at_every_third_request",
    ),
    row(
        "429 for single items of a bulk",
        "a third of 2,000 documents, twice each; no other is sent again",
        "items_that_are_refused_for_now_are_sent_again_alone",
    ),
    row(
        "429 to bulks of more than 40 items",
        "a copy of 1,500 documents",
        "an_engine_that_takes_little_at_once_gets_little_at_once",
    ),
    row(
        "413 to bulks of more than 20 kB",
        "1,500 updates",
        "an_engine_that_takes_little_at_once_gets_little_at_once",
    ),
    row(
        "some items refused for good, some for now, some requests fail",
        "1,000 documents; a dead letter for each that is refused for good, and for no other",
        "only_what_is_refused_for_good_becomes_a_dead_letter",
    ),
    row(
        "nobody listens at the target's address at the start",
        "a copy",
        "a_network_to_the_target_that_fails",
    ),
    row(
        "nobody listens at the target's address any more",
        "changes of every kind meanwhile",
        "a_network_to_the_target_that_fails",
    ),
    row(
        "requests to the target vanish on the way",
        "changes of every kind meanwhile",
        "a_network_to_the_target_that_fails",
    ),
    row(
        "answers of the target vanish on the way",
        "changes of every kind meanwhile",
        "a_network_to_the_target_that_fails",
    ),
    row(
        "requests to the target arrive when nobody waits any more",
        "changes of every kind meanwhile",
        "a_network_to_the_target_that_fails",
    ),
    row(
        "answers of the target arrive when nobody waits any more",
        "changes of every kind meanwhile",
        "a_network_to_the_target_that_fails",
    ),
    row(
        "connections to the target reset again and again",
        "changes of every kind meanwhile",
        "a_network_to_the_target_that_fails",
    ),
    row(
        "a slow line to the target",
        "changes of every kind meanwhile",
        "a_network_to_the_target_that_fails",
    ),
    row("the index is closed", "and opened again", "an_index_that_takes_nothing_is_waited_for"),
    row(
        "the index is blocked for writes",
        "and freed again",
        "an_index_that_takes_nothing_is_waited_for",
    ),
    row(
        "a write lands after newer ones of the same documents",
        "a bulk held until its answer is no longer waited for, then newer updates and deletes, then the bulk",
        "a_write_that_lands_late_changes_nothing",
    ),
    row(
        "one lane's bulk under way, the others' done, kill -9",
        "the position stays before the one that is held",
        "no_position_passes_what_one_lane_still_holds",
    ),
    row(
        "one of two targets is away, then back",
        "the other goes on",
        "another_target_goes_on_while_one_is_away",
    ),
];

const SOURCE: &[Row] = &[
    row(
        "getMore fails with InterruptedAtShutdown",
        "by the server's own fail point, in a copy of 2,000 documents and among changes",
        "each_error_of_the_source_is_got_over",
    ),
    row(
        "getMore fails with ShutdownInProgress",
        "the same",
        "each_error_of_the_source_is_got_over",
    ),
    row("getMore fails with CursorNotFound", "the same", "each_error_of_the_source_is_got_over"),
    row(
        "getMore fails with NotWritablePrimary",
        "the same",
        "each_error_of_the_source_is_got_over",
    ),
    row(
        "getMore fails with ChangeStreamFatalError",
        "the same",
        "each_error_of_the_source_is_got_over",
    ),
    row("getMore loses its connection", "the same", "each_error_of_the_source_is_got_over"),
    row("find fails with PrimarySteppedDown", "the same", "each_error_of_the_source_is_got_over"),
    row("find loses its connection", "the same", "each_error_of_the_source_is_got_over"),
    row(
        "aggregate fails with FailedToSatisfyReadPreference",
        "the same",
        "each_error_of_the_source_is_got_over",
    ),
    row("aggregate loses its connection", "the same", "each_error_of_the_source_is_got_over"),
    row(
        "replies of the source that never come",
        "of the stream and of a copy, then of a lookup; connections stay open",
        "a_reply_that_never_comes_is_not_waited_for",
    ),
    row(
        "the source's connections are cut all through a copy",
        "eight times, in turn by FIN and RST, with changes",
        "a_network_to_the_source_that_fails",
    ),
    row(
        "the source's connections are reset among changes",
        "eight times",
        "a_network_to_the_source_that_fails",
    ),
    row(
        "nobody listens at the source's address for a while",
        "changes meanwhile, by another way",
        "a_network_to_the_source_that_fails",
    ),
    row(
        "the line to the source is dead for a while",
        "bytes wait on their way, until the source is waited for; then they arrive",
        "a_network_to_the_source_that_fails",
    ),
    row(
        "the line to the source has died, and nobody is told",
        "bytes are lost on their way, until the source is waited for; connections stay open",
        "a_network_to_the_source_that_fails",
    ),
    row(
        "what is sent to the source is lost, and what it says comes",
        "connections are made all the while, and none is ever answered",
        "a_network_to_the_source_that_fails",
    ),
    row(
        "a slow line to the source",
        "each answer late by 30 ms",
        "a_network_to_the_source_that_fails",
    ),
    row(
        "the primary steps down while a copy runs",
        "three nodes, operations of every kind all the time",
        "a_replica_set_that_fails_over",
    ),
    row(
        "kill -9 of the primary among changes, and its return",
        "the same",
        "a_replica_set_that_fails_over",
    ),
    row(
        "the primary steps down, mongosync is killed meanwhile",
        "the same",
        "a_replica_set_that_fails_over",
    ),
    row(
        "the whole replica set is down for a while",
        "all three killed and started again",
        "a_replica_set_that_fails_over",
    ),
    row(
        "writes that the source rolls back, during a copy and changes",
        "200 writes and 100 deletes that only the old primary had",
        "what_the_source_rolls_back_is_never_delivered",
    ),
];

const HISTORY: &[Row] = &[
    row(
        "the oplog rolls over while a namespace is quiet",
        "an oplog of 16 MB; a stop, changes, a start: nothing is copied again",
        "an_oplog_that_forgets",
    ),
    row(
        "the oplog rolls over while mongosync does not run",
        "changes of every kind before it; the rule is copied again and what is gone is swept",
        "an_oplog_that_forgets",
    ),
    row(
        "the oplog rolls over while the target is away",
        "503 to every bulk; a warning; kill -9 and a start",
        "an_oplog_that_forgets",
    ),
    row(
        "the source is another replica set than before",
        "with other documents under the same names",
        "another_replica_set_in_the_place_of_the_source",
    ),
];

const POINTS: &[Row] = &[
    row(
        "a bulk has arrived, and is not written",
        "kill -9 there, then SIGTERM there; changes before, meanwhile and after",
        "an_end_between_a_change_and_its_position",
    ),
    row(
        "a bulk is written, and not answered",
        "the same",
        "an_end_between_a_change_and_its_position",
    ),
    row(
        "a position has arrived, and is not written",
        "the same",
        "an_end_between_a_change_and_its_position",
    ),
    row(
        "a position is written, and not answered",
        "the same",
        "an_end_between_a_change_and_its_position",
    ),
    row(
        "kill -9 before each write to the store",
        "a new file, killed at its first write, then at its second, to the end of the copy; changes in between",
        "a_kill_at_each_write_to_the_store_from_the_first_on",
    ),
    row(
        "kill -9 after each write to the store",
        "the same, the write done and not answered",
        "a_kill_at_each_write_to_the_store_from_the_first_on",
    ),
    row(
        "kill -9 while documents move between indices",
        "at the writes of their old and new places",
        "an_end_while_documents_move",
    ),
    row(
        "kill -9 before each write while a place is given on",
        "a document leaves the place that another was refused for: killed at the first write that comes of it, then at the second, to the last",
        "an_end_while_a_place_is_given_on",
    ),
    row(
        "kill -9 after each write while a place is given on",
        "the same, the write done and not answered",
        "an_end_while_a_place_is_given_on",
    ),
    row(
        "kill -9 while dead letters are written, and taken away",
        "before and after each",
        "an_end_while_a_dead_letter_is_written",
    ),
    row(
        "SIGTERM with a bulk under way, which is answered",
        "changes before, and a start",
        "a_stop_with_a_request_under_way",
    ),
    row(
        "SIGINT with a bulk under way, which is answered",
        "the same",
        "a_stop_with_a_request_under_way",
    ),
    row(
        "SIGTERM with a bulk under way, which is not answered",
        "the same",
        "a_stop_with_a_request_under_way",
    ),
    row("a second SIGTERM with a bulk under way", "the same", "a_stop_with_a_request_under_way"),
    row("a second SIGINT with a bulk under way", "the same", "a_stop_with_a_request_under_way"),
    row(
        "SIGTERM while it starts, plans, copies, waits and stands by",
        "one after the other, then a whole run",
        "a_stop_at_any_stage",
    ),
    row(
        "a frozen process wakes up after another has taken over",
        "SIGSTOP with a bulk under way, which lands after newer ones; SIGCONT",
        "a_frozen_process_that_wakes_up_changes_nothing",
    ),
    row(
        "twelve short runs, by turns kill -9, SIGTERM and a second process",
        "each ended three bulks after its start, with changes",
        "many_short_runs_come_to_the_same_end",
    ),
];

const STORE: &[Row] = &[
    row(
        "a full disk under a store in a file, kill -9, room",
        "3,000 documents whose places are stored; no file may grow over 200 kB",
        "a_store_in_a_file_on_a_full_disk",
    ),
    row(
        "a full disk under a store in a file, then room",
        "the same process goes on",
        "a_store_in_a_file_on_a_full_disk",
    ),
    row(
        "the store fails with OutOfDiskSpace",
        "from the first call on, among changes, and until kill -9",
        "each_error_of_a_store_in_mongodb_is_got_over",
    ),
    row(
        "the store fails with NotWritablePrimary",
        "the same",
        "each_error_of_a_store_in_mongodb_is_got_over",
    ),
    row(
        "the store fails with MaxTimeMSExpired",
        "the same",
        "each_error_of_a_store_in_mongodb_is_got_over",
    ),
    row(
        "the store's writes get no majority in time",
        "the same",
        "each_error_of_a_store_in_mongodb_is_got_over",
    ),
    row(
        "the store loses its connections",
        "the same",
        "each_error_of_a_store_in_mongodb_is_got_over",
    ),
    row(
        "the store fails with Unauthorized, and mongosync ends",
        "exit code 1, then a start with rights",
        "a_store_that_refuses_for_good_ends_the_process",
    ),
    row(
        "nobody listens at the store's address at the start",
        "a copy",
        "a_store_that_is_away_is_waited_for",
    ),
    row(
        "nobody listens at the store's address for longer than the lease",
        "changes meanwhile",
        "a_store_that_is_away_is_waited_for",
    ),
    row(
        "what is sent to the store is lost, and what it says comes",
        "connections are made all the while, and none is ever answered",
        "a_store_that_is_away_is_waited_for",
    ),
    row(
        "SIGTERM while the store is away",
        "changes meanwhile, a start when it is back",
        "a_store_that_is_away_is_waited_for",
    ),
];

const SIZE: &[Row] = &[
    row(
        "documents of 16 MiB among small ones, copied and changed",
        "four of them",
        "documents_of_16_mib_arrive",
    ),
    row(
        "a target that takes 2 MiB a second, memory under 256 MiB",
        "100 MiB are copied, and every document changes meanwhile",
        "memory_is_bounded_while_the_target_is_slow",
    ),
];

const RANDOM: &[Row] = &[
    row(
        "operations and faults at random, one node",
        "writes of every kind, renames, drops and $out; faults of the target, the source, the \
         store and the process between and during them; two seeds",
        "operations_and_faults_at_random",
    ),
    row(
        "operations and faults at random, three nodes",
        "the same with elections of a new primary",
        "operations_and_elections_at_random",
    ),
];
