//! The functions as data: the handbook's table and a test are made from it.

/// One function, as a user reads about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// How it is called.
    pub signature: &'static str,
    /// What it does.
    pub text: &'static str,
    /// An expression; it does not depend on the document.
    pub example: &'static str,
    /// The text of the example's value.
    pub result: &'static str,
}

macro_rules! functions {
    ($($name:literal, $signature:literal, $text:literal, $example:literal => $result:literal;)*) => {
        &[$(Function {
            name: $name, signature: $signature, text: $text, example: $example, result: $result,
        }),*]
    };
}

/// All functions beside Rhai's own, by subject.
pub const FUNCTIONS: &[Function] = functions! {
    "contains", "doc.contains(name)", "Whether the field is there, null or not; also `name in doc`.",
        "doc.contains(\"_id\")" => "true";
    "is_null", "doc.is_null(name)", "Whether the field is there and null.",
        "doc.is_null(\"missing\")" => "false";
    "get", "doc.get(path)", "The value at a dotted path, `()` where there is none.",
        "doc.get(\"a.b.0\") == ()" => "true";
    "set", "doc.set(path, value)", "Sets the end of a dotted path and makes the documents on the way.",
        "doc.set(\"a.b\", 1) == ()" => "true";
    "remove", "doc.remove(path)", "Takes a field out and gives what it held.",
        "doc.remove(\"missing\") == ()" => "true";
    "rename", "doc.rename(from, to)", "Gives a field another name, with its value as it was stored; false where it is not there.",
        "doc.rename(\"missing\", \"b\")" => "false";
    "len", "doc.len()", "How many fields there are.",
        "doc.len()" => "1";
    "is_empty", "doc.is_empty()", "Whether there are no fields.",
        "doc.is_empty()" => "false";
    "keys", "doc.keys()", "The names of the fields, in order.",
        "doc.keys()" => "[\"_id\"]";
    "values", "doc.values()", "The values of the fields, in order.",
        "doc.values().len()" => "1";
    "mixin", "doc.mixin(map)", "Sets every field of a map or a document; also `doc += map`.",
        "doc.mixin(#{ a: 1 }) == ()" => "true";
    "to_map", "doc.to_map()", "The document as a map, which has its names in the order of their characters.",
        "type_of(doc.to_map())" => "map";
    "type_of_field", "doc.type_of_field(name)", "The BSON type by its MongoDB name, or `missing`.",
        "doc.type_of_field(\"_id\")" => "objectId";
    "remove", "remove()", "Ends the script: the document is not wanted in the target.",
        "type_of(Fn(\"remove\"))" => "Fn";
    "skip", "skip()", "Ends the script: the target is left as it is.",
        "type_of(Fn(\"skip\"))" => "Fn";
    "fail", "fail(text)", "Ends the script: the document goes to the dead letters with this reason.",
        "type_of(Fn(\"fail\"))" => "Fn";
    "lookup", "lookup(\"db.collection\", query)", "Reads the source: a document of that collection that a MongoDB query finds, `()` where there is none.",
        "lookup(\"shop.categories\", #{ _id: \"lighting\" }).name" => "Lighting";
    "lookup_all", "lookup_all(\"db.collection\", query, limit)", "Likewise an array of those that it finds, in no particular order, `limit` of them at the most.",
        "lookup_all(\"shop.categories\", #{ department: \"Home\" }, 100).len()" => "2";
    "log_info", "log_info(text)", "Writes to the log.",
        "log_info(\"seen\") == ()" => "true";
    "log_warn", "log_warn(text)", "Writes a warning to the log.",
        "log_warn(\"odd\") == ()" => "true";
    "object_id", "object_id()", "A new ObjectId, another one each time.",
        "object_id() == object_id()" => "false";
    "object_id", "object_id(text)", "The ObjectId with these 24 hex characters.",
        "object_id(\"64b007090102030405060708\").timestamp" => "2023-07-13T14:15:37.000Z";
    "uuid", "uuid()", "A new random UUID.",
        "uuid() == uuid()" => "false";
    "uuid", "uuid(text)", "The UUID with this text.",
        "uuid(\"00112233445566778899AABBCCDDEEFF\")" => "00112233-4455-6677-8899-aabbccddeeff";
    "hex", "value.hex()", "The bytes of an ObjectId, a UUID or a binary value as hex characters.",
        "uuid(\"00112233-4455-6677-8899-aabbccddeeff\").hex()" => "00112233445566778899aabbccddeeff";
    "now", "now()", "The time of this machine.",
        "now() > parse_date(\"2020-01-01\")" => "true";
    "parse_date", "parse_date(text)", "Reads RFC 3339, or a date with or without a time, which is then in UTC.",
        "parse_date(\"2026-11-21T03:10:29+01:00\")" => "2026-11-21T02:10:29.000Z";
    "parse_date", "parse_date(text, format)", "Reads a date in a format of `%` letters.",
        "parse_date(\"21.11.2026\", \"%d.%m.%Y\")" => "2026-11-21T00:00:00.000Z";
    "format_date", "format_date(date, format)", "Writes a date in UTC in a format of `%` letters.",
        "format_date(parse_date(\"2026-11-21\"), \"%Y.%m\")" => "2026.11";
    "date_from_millis", "date_from_millis(number)", "The date so many milliseconds after 1970.",
        "date_from_millis(0)" => "1970-01-01T00:00:00.000Z";
    "date_from_seconds", "date_from_seconds(number)", "The date so many seconds after 1970.",
        "date_from_seconds(86400)" => "1970-01-02T00:00:00.000Z";
    "year", "date.year", "Likewise `month`, `day`, `hour`, `minute`, `second`, `millisecond`, `weekday` (Monday is 1), `day_of_year`, `week`, and `millis` and `seconds` since 1970.",
        "parse_date(\"2026-11-21\").year" => "2026";
    "+", "date + seconds", "A later date; `date - seconds` an earlier one, `date - date` the seconds between.",
        "parse_date(\"2026-11-21\") + 1.5" => "2026-11-21T00:00:01.500Z";
    "start_of_day", "date.start_of_day()", "The first moment of the day in UTC.",
        "parse_date(\"2026-11-21T02:10:29Z\").start_of_day()" => "2026-11-21T00:00:00.000Z";
    "start_of_month", "date.start_of_month()", "The first moment of the month in UTC.",
        "parse_date(\"2026-11-21\").start_of_month()" => "2026-11-01T00:00:00.000Z";
    "start_of_year", "date.start_of_year()", "The first moment of the year in UTC.",
        "parse_date(\"2026-11-21\").start_of_year()" => "2026-01-01T00:00:00.000Z";
    "decimal", "decimal(text or number)", "A Decimal128, for `+ - * /` and comparisons with decimals and numbers, rounded to 34 digits, half to even.",
        "decimal(\"0.10\") + decimal(\"0.20\")" => "0.30";
    "round", "decimal.round(digits)", "Rounds to so many digits after the point, half to even.",
        "decimal(\"2.345\").round(2)" => "2.34";
    "abs", "decimal.abs()", "The number without its sign.",
        "decimal(\"-2.5\").abs()" => "2.5";
    "to_int", "decimal.to_int()", "The integer, without what is after the point.",
        "decimal(\"12.9\").to_int()" => "12";
    "to_float", "decimal.to_float()", "The nearest double.",
        "decimal(\"0.5\").to_float()" => "0.5";
    "sha256", "sha256(value)", "The hash of a text or of binary data, as hex characters.",
        "sha256(\"a\")" => "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
    "hmac_sha256", "hmac_sha256(key, value)", "The keyed hash, as hex characters.",
        "hmac_sha256(\"key\", \"The quick brown fox jumps over the lazy dog\")" => "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8";
    "base64", "base64(value)", "Base64 of a text or of binary data.",
        "base64(\"hello\")" => "aGVsbG8=";
    "base64_decode", "base64_decode(text)", "The binary value that a base64 text stands for.",
        "base64_decode(\"aGVsbG8=\").to_text()" => "hello";
    "to_text", "binary.to_text()", "The bytes as text in UTF-8.",
        "base64_decode(\"w6k=\").to_text()" => "é";
    "parse_json", "parse_json(text)", "The value that a JSON text stands for.",
        "parse_json(\"{\\\"a\\\":[1,2.5,null]}\").a[1]" => "2.5";
    "to_json", "to_json(value)", "A value as JSON on one line, as targets that speak JSON get it.",
        "to_json([1, 2.0, \"x\", ()])" => "[1,2.0,\"x\",null]";
    "matches", "matches(text, pattern)", "Whether a regular expression is found in the text.",
        "matches(\"SKU-12\", `^SKU-\\d+$`)" => "true";
    "replace_re", "replace_re(text, pattern, with)", "Replaces all matches; `$1` and `${name}` stand for groups.",
        "replace_re(\"a1b22\", `\\d+`, \"<$0>\")" => "a<1>b<22>";
    "slug", "slug(text)", "Lower-case words with hyphens, for addresses.",
        "slug(\"  Crème Brûlée & Co.  \")" => "creme-brulee-co";
};
