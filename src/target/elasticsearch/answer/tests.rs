//! The table, on bodies as Elasticsearch 7.10.2 and OpenSearch 2.18.0 wrote them (and as
//! Elasticsearch with security is documented to).

use rstest::rstest;

use super::*;

fn answer(status: u16, body: &str) -> Answer {
    Answer { status, after: None, location: None, body: Bytes::copy_from_slice(body.as_bytes()) }
}

/// One word for an outcome: what it is, for a retry its reason and pressure, for a refusal its words.
fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Applied => "applied".to_owned(),
        Outcome::Superseded => "superseded".to_owned(),
        Outcome::Retry(retry) => format!("retry {} {:?}", retry.reason, retry.pressure),
        Outcome::Behind { words, .. } => format!("behind {words}"),
        Outcome::Held(retry) => format!("held {}", retry.reason),
        Outcome::Rejected(words) => format!("rejected {words}"),
    }
}

#[rstest]
#[case::made(r#"{"status":201}"#, "applied")]
#[case::replaced(r#"{"status":200}"#, "applied")]
#[case::removed_what_was_not_there(r#"{"status":404}"#, "superseded")]
#[case::newer_is_there(
    r#"{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"[1]: version conflict, current version [100] is higher than the one provided [99]","index_uuid":"eeAfOGcPSWmuMTwTc53s2A","shard":"0","index":"t"}}"#,
    "superseded"
)]
#[case::queue_full_elasticsearch(
    r#"{"status":429,"error":{"type":"es_rejected_execution_exception","reason":"rejected execution of processing of [15][indices:data/write/bulk[s][p]]"}}"#,
    "retry throttled Less"
)]
#[case::queue_full_opensearch(
    r#"{"status":429,"error":{"type":"rejected_execution_exception","reason":"rejected execution of primary operation"}}"#,
    "retry throttled Less"
)]
#[case::queue_full_older(
    r#"{"status":503,"error":{"type":"es_rejected_execution_exception","reason":"rejected execution"}}"#,
    "retry throttled Less"
)]
#[case::heap_full(
    r#"{"status":429,"error":{"type":"circuit_breaking_exception","reason":"[parent] Data too large","durability":"TRANSIENT"}}"#,
    "retry throttled Less"
)]
#[case::disk_full(
    r#"{"status":429,"error":{"type":"cluster_block_exception","reason":"index [t] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark, index has read-only-allow-delete block];"}}"#,
    "retry blocked Same"
)]
#[case::disk_full_older(
    r#"{"status":403,"error":{"type":"cluster_block_exception","reason":"index [t] blocked by: [FORBIDDEN/12/index read-only / allow delete (api)];"}}"#,
    "retry blocked Same"
)]
#[case::writes_blocked(
    r#"{"status":403,"error":{"type":"cluster_block_exception","reason":"index [t] blocked by: [FORBIDDEN/8/index write (api)];"}}"#,
    "retry blocked Same"
)]
#[case::no_master(
    r#"{"status":503,"error":{"type":"cluster_block_exception","reason":"blocked by: [SERVICE_UNAVAILABLE/2/no master];"}}"#,
    "retry unavailable Same"
)]
#[case::closed(
    r#"{"status":400,"error":{"type":"index_closed_exception","reason":"closed","index_uuid":"4JIBhpQrSYaoBOg1ggxdRg","index":"tstrict"}}"#,
    "retry blocked Same"
)]
#[case::no_index(
    r#"{"status":404,"error":{"type":"index_not_found_exception","reason":"no such index [t-none]","resource.type":"index_expression","resource.id":"t-none","index_uuid":"_na_","index":"t-none"}}"#,
    "retry missing Same"
)]
#[case::no_alias(
    r#"{"status":404,"error":{"type":"index_not_found_exception","reason":"no such index [t] and [require_alias] request flag is [true] and [t] is not an alias","index_uuid":"_na_","index":"t"}}"#,
    "retry missing Same"
)]
#[case::no_write_index(
    r#"{"status":400,"error":{"type":"illegal_argument_exception","reason":"no write index is defined for alias [al]. The write index may be explicitly disabled using is_write_index=false or the alias points to multiple indices without one being designated as a write index"}}"#,
    "retry blocked Same"
)]
#[case::too_many_shards(
    r#"{"status":400,"error":{"type":"validation_exception","reason":"Validation Failed: 1: this action would add [2] total shards, but this cluster currently has [2]/[1] maximum shards open;"}}"#,
    "retry blocked Same"
)]
#[case::no_pipeline(
    r#"{"status":400,"error":{"type":"illegal_argument_exception","reason":"pipeline with id [nope] does not exist"}}"#,
    "retry blocked Same"
)]
#[case::not_allowed(
    r#"{"status":403,"error":{"type":"security_exception","reason":"action [indices:data/write/bulk[s]] is unauthorized for user [sync]"}}"#,
    "retry unauthorized Same"
)]
#[case::shard_away(
    r#"{"status":503,"error":{"type":"unavailable_shards_exception","reason":"[t][0] primary shard is not active Timeout: [1m], request: [BulkShardRequest [[t][0]] containing [3] requests]"}}"#,
    "retry unavailable Same"
)]
#[case::no_shard(
    r#"{"status":503,"error":{"type":"no_shard_available_action_exception","reason":"No shard available"}}"#,
    "retry unavailable Same"
)]
#[case::mapping_update_timed_out(
    r#"{"status":503,"error":{"type":"process_cluster_event_timeout_exception","reason":"failed to process cluster event (put-mapping) within 30s"}}"#,
    "retry unavailable Same"
)]
#[case::disk_error(
    r#"{"status":500,"error":{"type":"i_o_exception","reason":"No space left on device"}}"#,
    "retry unavailable Same"
)]
#[case::node_went(
    r#"{"status":500,"error":{"type":"node_disconnected_exception","reason":"[n1][127.0.0.1:9301][indices:data/write/bulk[s]] disconnected"}}"#,
    "retry unavailable Same"
)]
#[case::outage_among_the_causes(
    r#"{"status":500,"error":{"type":"illegal_argument_exception","reason":"x","caused_by":{"type":"already_closed_exception","reason":"engine is closed"}}}"#,
    "retry unavailable Same"
)]
#[case::item_too_large(r#"{"status":413}"#, "retry too_large TooLarge")]
#[case::item_timed_out(r#"{"status":408}"#, "retry timeout Same")]
#[case::no_status_known(r#"{"status":304}"#, "retry unexpected Same")]
#[case::field_of_another_type(
    r#"{"status":400,"error":{"type":"mapper_parsing_exception","reason":"failed to parse field [n] of type [long] in document with id '3'. Preview of field's value: 'abc'","caused_by":{"type":"illegal_argument_exception","reason":"For input string: \"abc\""}}}"#,
    "rejected mapper_parsing_exception: failed to parse field [n] of type [long] in document with id '3'. Preview of field's value: 'abc'; caused by illegal_argument_exception: For input string: \"abc\""
)]
#[case::elasticsearch_8(
    r#"{"status":400,"error":{"type":"document_parsing_exception","reason":"[1:6] failed to parse field [n] of type [long] in document with id '1'. Preview of field's value: 'abc'","caused_by":{"type":"illegal_argument_exception","reason":"For input string: \"abc\""}}}"#,
    "rejected document_parsing_exception: [1:6] failed to parse field [n] of type [long] in document with id '1'. Preview of field's value: 'abc'; caused by illegal_argument_exception: For input string: \"abc\""
)]
#[case::strict(
    r#"{"status":400,"error":{"type":"strict_dynamic_mapping_exception","reason":"mapping set to strict, dynamic introduction of [zz] within [_doc] is not allowed"}}"#,
    "rejected strict_dynamic_mapping_exception: mapping set to strict, dynamic introduction of [zz] within [_doc] is not allowed"
)]
#[case::too_many_fields(
    r#"{"status":400,"error":{"type":"illegal_argument_exception","reason":"Limit of total fields [1] has been exceeded"}}"#,
    "rejected illegal_argument_exception: Limit of total fields [1] has been exceeded"
)]
#[case::bad_index_name(
    r#"{"status":400,"error":{"type":"invalid_index_name_exception","reason":"Invalid index name [T], must be lowercase","index_uuid":"_na_","index":"T"}}"#,
    "rejected invalid_index_name_exception: Invalid index name [T], must be lowercase"
)]
#[case::pipeline_says_no(
    r#"{"status":500,"error":{"type":"fail_processor_exception","reason":"no way"}}"#,
    "rejected fail_processor_exception: no way"
)]
#[case::script_throws(
    r#"{"status":400,"error":{"type":"script_exception","reason":"runtime error","script_stack":["ctx.x = ctx.y.z","             ^---- HERE"],"script":"ctx.x = ctx.y.z","lang":"painless","position":{"offset":13,"start":0,"end":15},"caused_by":{"type":"null_pointer_exception","reason":"Cannot invoke \"Object.getClass()\""}}}"#,
    "rejected script_exception: runtime error; caused by null_pointer_exception: Cannot invoke \"Object.getClass()\""
)]
#[case::the_request_is_not_quoted(
    r#"{"status":400,"error":{"type":"mapper_parsing_exception","reason":"failed to parse","caused_by":{"type":"json_parse_exception","reason":"Non-standard token 'NaN': enable JsonParser.Feature.ALLOW_NON_NUMERIC_NUMBERS to allow\n at [Source: (byte[])\"POST /_bulk HTTP/1.1\r\nauthorization: Basic c2VjcmV0\r\n\r\n{}\"; line: 1, column: 9]"}}}"#,
    "rejected mapper_parsing_exception: failed to parse; caused by json_parse_exception: Non-standard token 'NaN': enable JsonParser.Feature.ALLOW_NON_NUMERIC_NUMBERS to allow"
)]
#[case::no_reason(r#"{"status":422}"#, "rejected status 422")]
#[case::an_error_that_is_text(r#"{"status":400,"error":"no"}"#, "rejected no")]
fn an_item(#[case] item: &str, #[case] expected: &str) {
    for action in ["index", "delete"] {
        let body = format!(r#"{{"took":1,"errors":true,"items":[{{"{action}":{item}}}]}}"#);
        let outcomes = outcomes(&answer(200, &body), 1).unwrap();
        assert_eq!(short(&outcomes[0]), expected);
    }
}

#[test]
fn items_keep_their_order() {
    let body = r#"{"took":116,"errors":true,"items":[{"index":{"status":201}},{"index":{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"newer"}}},{"delete":{"status":404}},{"index":{"status":429,"error":{"type":"es_rejected_execution_exception","reason":"full"}}},{"delete":{"status":200}}]}"#;
    let outcomes = outcomes(&answer(200, body), 5).unwrap();
    assert_eq!(
        outcomes.iter().map(short).collect::<Vec<_>>(),
        ["applied", "superseded", "superseded", "retry throttled Less", "applied"]
    );
}

#[rstest]
#[case::one_missing(r#"{"errors":false,"items":[{"index":{"status":201}}]}"#, "has 1 items for 2")]
#[case::none(r#"{"errors":false,"took":3}"#, "has 0 items for 2")]
#[case::cut_off(r#"{"errors":false,"items":[{"index":{"status":201}},{"ind"#, "can't be read")]
#[case::no_status(r#"{"items":[{"index":{}},{"index":{"status":201}}]}"#, "can't be read")]
#[case::a_page("<html><body>Welcome to nginx!</body></html>", "can't be read")]
#[case::nothing("", "can't be read")]
fn an_answer_that_is_none(#[case] body: &str, #[case] words: &str) {
    let retry = outcomes(&answer(200, body), 2).unwrap_err();
    assert_eq!((retry.reason, retry.pressure), ("garbled", Pressure::Same));
    assert!(retry.message.contains(words), "{}", retry.message);
}

#[rstest]
#[case::busy(429, "", "throttled", Pressure::Less, "HTTP 429")]
#[case::too_large(413, "", "too_large", Pressure::TooLarge, "HTTP 413")]
#[case::too_large_aws(
    413,
    r#"{"Message":"Request size exceeded 10485760 bytes"}"#,
    "too_large",
    Pressure::TooLarge,
    r#"HTTP 413: {"Message":"Request size exceeded 10485760 bytes"}"#
)]
#[case::proxy(
    502,
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n</html>",
    "unavailable",
    Pressure::Same,
    "HTTP 502: <html> <head><title>502 Bad Gateway</title></head> </html>"
)]
#[case::starting(
    503,
    r#"{"error":{"root_cause":[],"type":"cluster_block_exception","reason":"blocked by: [SERVICE_UNAVAILABLE/1/state not recovered / initialized];"},"status":503}"#,
    "unavailable",
    Pressure::Same,
    "HTTP 503: cluster_block_exception: blocked by: [SERVICE_UNAVAILABLE/1/state not recovered / initialized];"
)]
#[case::read_only(
    403,
    r#"{"error":{"root_cause":[],"type":"cluster_block_exception","reason":"blocked by: [FORBIDDEN/6/cluster read-only (api)];"},"status":403}"#,
    "blocked",
    Pressure::Same,
    "HTTP 403: cluster_block_exception: blocked by: [FORBIDDEN/6/cluster read-only (api)];"
)]
#[case::wrong_password(
    401,
    r#"{"error":{"root_cause":[{"type":"security_exception","reason":"unable to authenticate user [elastic] for REST request [/_bulk]","header":{"WWW-Authenticate":["Basic realm=\"security\" charset=\"UTF-8\"","ApiKey"]}}],"type":"security_exception","reason":"unable to authenticate user [elastic] for REST request [/_bulk]","header":{"WWW-Authenticate":["Basic realm=\"security\" charset=\"UTF-8\"","ApiKey"]}},"status":401}"#,
    "unauthorized",
    Pressure::Same,
    "HTTP 401: security_exception: unable to authenticate user [elastic] for REST request [/_bulk]"
)]
#[case::wrong_password_opensearch(
    401,
    "Unauthorized",
    "unauthorized",
    Pressure::Same,
    "HTTP 401: Unauthorized"
)]
#[case::not_allowed(
    403,
    r#"{"error":{"root_cause":[],"type":"security_exception","reason":"no permissions for [indices:data/write/bulk] and User [name=sync]"},"status":403}"#,
    "unauthorized",
    Pressure::Same,
    "HTTP 403: security_exception: no permissions for [indices:data/write/bulk] and User [name=sync]"
)]
#[case::slow_upload(408, "", "timeout", Pressure::Same, "HTTP 408")]
#[case::wrong_path(
    404,
    r#"{"error":"no handler found for uri [/nope/_bulkx] and method [POST]"}"#,
    "unexpected",
    Pressure::Same,
    "HTTP 404: no handler found for uri [/nope/_bulkx] and method [POST]"
)]
#[case::content_type(
    406,
    r#"{"error":"Content-Type header [text/plain] is not supported","status":406}"#,
    "unexpected",
    Pressure::Same,
    "HTTP 406: Content-Type header [text/plain] is not supported"
)]
#[case::plain_http_to_tls(
    400,
    "<html><body>The plain HTTP request was sent to HTTPS port</body></html>",
    "unexpected",
    Pressure::Same,
    "HTTP 400: <html><body>The plain HTTP request was sent to HTTPS port</body></html>"
)]
fn a_request_that_is_not_carried_out(
    #[case] status: u16,
    #[case] body: &str,
    #[case] reason: &str,
    #[case] pressure: Pressure,
    #[case] message: &str,
) {
    for items in [1, 2] {
        let retry = outcomes(&answer(status, body), items).unwrap_err();
        assert_eq!((retry.reason, retry.pressure), (reason, pressure));
        assert_eq!(retry.message, message);
    }
}

#[test]
fn a_redirect_names_its_goal() {
    let location = Some("https://elsewhere:9200/_bulk".to_owned());
    let retry = refusal(&Answer { location, ..answer(307, "") });
    assert_eq!(retry.reason, "redirected");
    assert!(retry.message.contains("https://elsewhere:9200/_bulk"), "{}", retry.message);
}

#[test]
fn what_the_server_asks_for_is_passed_on() {
    let after = Some(Duration::from_secs(7));
    assert_eq!(refusal(&Answer { after, ..answer(503, "") }).after, after);
}

/// Nobody knows which item made the engine refuse the whole request, until it is alone.
#[test]
fn a_request_that_cannot_be_taken_apart_is_halved() {
    let body = r#"{"error":{"root_cause":[],"type":"action_request_validation_exception","reason":"Validation Failed: 1: id is too long;"},"status":400}"#;
    let words = "action_request_validation_exception: Validation Failed: 1: id is too long;";
    let retry = outcomes(&answer(400, body), 2).unwrap_err();
    assert_eq!((retry.reason, retry.pressure), ("unexpected", Pressure::Split));
    assert_eq!(retry.message, words);
    let alone = outcomes(&answer(400, body), 1).unwrap();
    assert_eq!(alone, [Outcome::Rejected(words.to_owned())]);
}

#[test]
fn long_words_are_cut() {
    let reason = "ä".repeat(5000);
    let body = format!(r#"{{"status":400,"error":{{"type":"x","reason":"{reason}"}}}}"#);
    let body = format!(r#"{{"items":[{{"index":{body}}}]}}"#);
    let Outcome::Rejected(words) = outcomes(&answer(200, &body), 1).unwrap().remove(0) else {
        panic!("a 400 is a refusal");
    };
    assert!(words.len() <= MAX_WORDS + '…'.len_utf8() && words.ends_with('…'));
}
