//! Dates: milliseconds since 1970, always in UTC.

use std::fmt::Write as _;

use bson::DateTime;
use chrono::{
    Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike, Utc,
    format::{Item, StrftimeItems},
};
use rhai::{ImmutableString, Module};

use super::{getter, identifier::ordered, pure};
use crate::{
    change::text::rfc3339,
    transform::failure::{Answer, refuse},
};

type Calendar = chrono::DateTime<Utc>;

pub(super) fn register(module: &mut Module) {
    module.set_custom_type::<DateTime>("DateTime");
    pure(module, "now", DateTime::now);
    pure(module, "parse_date", |text: ImmutableString| parse(&text));
    pure(module, "parse_date", |text: ImmutableString, format: ImmutableString| {
        parse_as(&text, &format)
    });
    pure(module, "date_from_millis", |millis: i64| DateTime::from_millis(millis));
    pure(module, "date_from_millis", |millis: f64| nearest(millis));
    pure(module, "date_from_seconds", |seconds: f64| nearest(seconds * 1000.0));
    pure(module, "date_from_seconds", |seconds: i64| -> Answer<DateTime> {
        seconds.checked_mul(1000).map(DateTime::from_millis).ok_or_else(beyond)
    });
    pure(module, "format_date", |date: DateTime, format: ImmutableString| format_as(date, &format));
    pure(module, "to_string", |date: &mut DateTime| text(*date));
    pure(module, "to_debug", |date: &mut DateTime| text(*date));
    ordered!(module, DateTime, Ord::cmp);

    field(module, "year", |date| date.year().into());
    field(module, "month", |date| date.month().into());
    field(module, "day", |date| date.day().into());
    field(module, "hour", |date| date.hour().into());
    field(module, "minute", |date| date.minute().into());
    field(module, "second", |date| date.second().into());
    field(module, "millisecond", |date| date.timestamp_subsec_millis().into());
    field(module, "weekday", |date| date.weekday().number_from_monday().into());
    field(module, "day_of_year", |date| date.ordinal().into());
    field(module, "week", |date| date.iso_week().week().into());
    getter(module, "millis", |date: &mut DateTime| date.timestamp_millis());
    getter(module, "seconds", |date: &mut DateTime| date.timestamp_millis().div_euclid(1000));

    pure(module, "+", |date: DateTime, seconds: i64| add(date, millis(seconds)?));
    pure(module, "-", |date: DateTime, seconds: i64| {
        add(date, millis(seconds)?.checked_neg().ok_or_else(beyond)?)
    });
    pure(module, "+", |date: DateTime, seconds: f64| add(date, float_millis(seconds)?));
    pure(module, "-", |date: DateTime, seconds: f64| add(date, float_millis(-seconds)?));
    pure(module, "-", |a: DateTime, b: DateTime| {
        (a.timestamp_millis() as f64 - b.timestamp_millis() as f64) / 1000.0
    });
    pure(module, "start_of_day", |date: &mut DateTime| start(*date, Some));
    pure(module, "start_of_month", |date: &mut DateTime| start(*date, |day| day.with_day(1)));
    pure(module, "start_of_year", |date: &mut DateTime| start(*date, |day| day.with_ordinal(1)));
}

fn beyond() -> Box<rhai::EvalAltResult> {
    refuse("the date is out of range")
}

/// The date of so many milliseconds, rounded.
fn nearest(millis: f64) -> Answer<DateTime> {
    // What is not within is cut, and NaN becomes 0: neither is that number of milliseconds.
    let whole = millis.round() as i64;
    let is_it = whole as f64 == millis.round() && whole != i64::MAX;
    if is_it { Ok(DateTime::from_millis(whole)) } else { Err(beyond()) }
}

fn calendar(date: DateTime) -> Answer<Calendar> {
    Calendar::from_timestamp_millis(date.timestamp_millis()).ok_or_else(beyond)
}

fn field(module: &mut Module, name: &str, read: fn(Calendar) -> i64) {
    getter(module, name, move |date: &mut DateTime| calendar(*date).map(read));
}

fn millis(seconds: i64) -> Answer<i64> {
    seconds.checked_mul(1000).ok_or_else(beyond)
}

fn float_millis(seconds: f64) -> Answer<i64> {
    let millis = (seconds * 1000.0).round();
    // The bounds are those between which a float is an integer of 64 bits.
    if (-9.2e18..9.2e18).contains(&millis) { Ok(millis as i64) } else { Err(beyond()) }
}

fn add(date: DateTime, millis: i64) -> Answer<DateTime> {
    let sum = date.timestamp_millis().checked_add(millis);
    sum.map(DateTime::from_millis).ok_or_else(beyond)
}

fn start(date: DateTime, day: fn(NaiveDate) -> Option<NaiveDate>) -> Answer<DateTime> {
    let day = day(calendar(date)?.date_naive()).ok_or_else(beyond)?;
    Ok(at(day.and_time(NaiveTime::MIN)))
}

fn at(date: NaiveDateTime) -> DateTime {
    DateTime::from_millis(date.and_utc().timestamp_millis())
}

/// RFC 3339 with milliseconds; milliseconds since 1970 where that can't say it.
pub(super) fn text(date: DateTime) -> String {
    match rfc3339(date.timestamp_millis()) {
        Some(text) => String::from_utf8_lossy(&text).into_owned(),
        None => date.timestamp_millis().to_string(),
    }
}

fn parse(text: &str) -> Answer<DateTime> {
    let trimmed = text.trim();
    if let Ok(date) = chrono::DateTime::parse_from_rfc3339(trimmed) {
        return Ok(DateTime::from_millis(date.timestamp_millis()));
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"] {
        if let Ok(date) = NaiveDateTime::parse_from_str(trimmed, format) {
            return Ok(at(date));
        }
    }
    NaiveDate::parse_from_str(trimmed, "%Y-%m-%d")
        .map(|date| at(date.and_time(NaiveTime::MIN)))
        .map_err(|_| refuse(format!("{text:?} is no date in the form of 2026-11-21T02:10:29Z")))
}

fn items(format: &str) -> Answer<Vec<Item<'_>>> {
    let items: Vec<_> = StrftimeItems::new(format).collect();
    if items.iter().any(|item| matches!(item, Item::Error)) {
        return Err(refuse(format!("{format:?} is no date format: it is like %Y-%m-%d %H:%M:%S")));
    }
    Ok(items)
}

fn parse_as(text: &str, format: &str) -> Answer<DateTime> {
    items(format)?;
    let zoned = chrono::DateTime::parse_from_str(text, format)
        .map(|date| DateTime::from_millis(date.timestamp_millis()));
    let local = || NaiveDateTime::parse_from_str(text, format).map(at);
    let day =
        || NaiveDate::parse_from_str(text, format).map(|date| at(date.and_time(NaiveTime::MIN)));
    zoned
        .or_else(|_| local())
        .or_else(|_| day())
        .map_err(|_| refuse(format!("{text:?} is no date in the form of {format:?}")))
}

fn format_as(date: DateTime, format: &str) -> Answer<String> {
    let items = items(format)?;
    let mut out = String::new();
    let written = write!(out, "{}", calendar(date)?.format_with_items(items.iter()));
    written.map_err(|_| refuse(format!("the date can't be written as {format:?}")))?;
    Ok(out)
}
