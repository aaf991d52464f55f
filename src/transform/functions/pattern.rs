//! Regular expressions and what is made of texts.
//!
//! Patterns are compiled once a script; those that a script makes up as it goes are bounded in number.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use regex::{Regex, RegexBuilder};
use rhai::{Engine, ImmutableString};

use crate::transform::failure::{Answer, refuse};

/// How many patterns a script keeps compiled.
const KEPT: usize = 256;
/// The most memory that one compiled pattern takes.
const PATTERN_SIZE: usize = 1 << 20;

#[derive(Clone, Default)]
struct Patterns(Arc<RwLock<HashMap<ImmutableString, Regex>>>);

impl Patterns {
    fn get(&self, pattern: &ImmutableString) -> Answer<Regex> {
        let kept = self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(regex) = kept.get(pattern) {
            return Ok(regex.clone());
        }
        drop(kept);
        let regex = RegexBuilder::new(pattern)
            .size_limit(PATTERN_SIZE)
            .build()
            .map_err(|error| refuse(format!("the pattern {pattern:?} can't be used: {error}")))?;
        let mut kept = self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(pattern.clone(), regex.clone());
        Ok(regex)
    }
}

pub(super) fn register(engine: &mut Engine) {
    let patterns = Patterns::default();
    let most = engine.max_string_size();
    let kept = patterns.clone();
    engine.register_fn("matches", move |text: &str, pattern: ImmutableString| -> Answer<bool> {
        Ok(kept.get(&pattern)?.is_match(text))
    });
    engine.register_fn(
        "replace_re",
        move |text: &str, pattern: ImmutableString, with: &str| -> Answer<String> {
            replace(&patterns.get(&pattern)?, text, with, most)
        },
    );
    engine.register_fn("slug", slug);
}

/// Replaces all matches, and stops where the result grows over the limit, before it takes memory.
fn replace(regex: &Regex, text: &str, with: &str, most: usize) -> Answer<String> {
    let (mut out, mut copied) = (String::new(), 0);
    for captures in regex.captures_iter(text) {
        let whole = captures.get_match();
        out.push_str(&text[copied..whole.start()]);
        captures.expand(with, &mut out);
        copied = whole.end();
        if most > 0 && out.len() > most {
            return Err(refuse(format!(
                "a text has more bytes than {most}, the limit `limits.string`"
            )));
        }
    }
    out.push_str(&text[copied..]);
    Ok(out)
}

/// Lower-case letters and digits of any script, with one hyphen for every run of other characters;
/// the accents of Latin letters are taken off.
fn slug(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars().flat_map(char::to_lowercase) {
        match letter {
            'ä' | 'æ' => out.push_str("ae"),
            'ö' | 'œ' => out.push_str("oe"),
            'ü' => out.push_str("ue"),
            'ß' => out.push_str("ss"),
            'à'..='å' | 'ā' | 'ă' | 'ą' => out.push('a'),
            'ç' | 'ć' | 'č' => out.push('c'),
            'ď' | 'đ' => out.push('d'),
            'è'..='ë' | 'ē' | 'ę' | 'ě' => out.push('e'),
            'ì'..='ï' | 'ī' | 'ı' => out.push('i'),
            'ł' => out.push('l'),
            'ñ' | 'ń' | 'ň' => out.push('n'),
            'ò'..='õ' | 'ø' | 'ō' | 'ő' => out.push('o'),
            'ř' => out.push('r'),
            'ś' | 'š' | 'ş' => out.push('s'),
            'ť' | 'ţ' => out.push('t'),
            'ù'..='û' | 'ū' | 'ů' | 'ű' => out.push('u'),
            'ý' | 'ÿ' => out.push('y'),
            'ź' | 'ż' | 'ž' => out.push('z'),
            // What a lower-cased letter such as a dotted I leaves behind.
            '\u{300}'..='\u{36f}' | '\'' | '’' => {}
            letter if letter.is_alphanumeric() => out.push(letter),
            _ if out.is_empty() || out.ends_with('-') => {}
            _ => out.push('-'),
        }
    }
    out.truncate(out.trim_end_matches('-').len());
    out
}
