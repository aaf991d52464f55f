//! How messages are worded: the name that is nearest to an unknown one, lists of names, text and
//! characters as they may stand in a sentence.

/// The known name nearest to `written`, where one is near enough to be meant.
pub fn near<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let plain = |name: &str| -> String {
        name.chars()
            .filter(|c| !matches!(c, '_' | '-' | '.'))
            .flat_map(char::to_lowercase)
            .collect()
    };
    let sought = plain(written);
    if sought.is_empty() || sought.len() > 200 {
        return None;
    }
    known
        .into_iter()
        .map(|name| {
            let candidate = plain(name);
            let distance = strsim::damerau_levenshtein(&sought, &candidate);
            // A third of the letters may be wrong; of two or three letters, one.
            let allowed = (candidate.chars().count().min(sought.chars().count()) / 3).max(1);
            // `urls` for `url`, `mapping` for `mappings`, `uri` for `uris`.
            let begins = sought.len() > 3
                && (candidate.starts_with(&sought) || sought.starts_with(&candidate));
            (if begins { distance.min(1) } else { distance }, allowed, name)
        })
        .filter(|(distance, allowed, _)| distance <= allowed)
        .min_by_key(|(distance, ..)| *distance)
        .map(|(_, _, name)| name)
}

/// Names for a message: `a`, `b`, `c`.
pub fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Names of which one is to be taken: `a`, `b` or `c`.
pub fn choice(names: &[&str]) -> String {
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or `{last}`", list(rest)),
        _ => list(names),
    }
}

/// Text in backticks, without control characters, and not at any length.
pub fn shown_text(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == LONGEST {
            shown.push('…');
            break;
        }
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    format!("`{shown}`")
}

/// A character that is at fault, for a message.
pub fn shown_character(character: char) -> String {
    match character {
        ' ' => "a space".to_owned(),
        control if control.is_control() => format!("`{}`", control.escape_default()),
        other => format!("`{other}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let known = ["max_bytes", "max_actions", "max_delay", "concurrency", "to", "urls"];
        for (written, expected) in [
            ("max_byte", Some("max_bytes")),
            ("maxBytes", Some("max_bytes")),
            ("max-actions", Some("max_actions")),
            ("concurency", Some("concurrency")),
            ("tp", Some("to")),
            ("url", Some("urls")),
            ("parallelism", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(near(written, known), expected, "{written}");
        }
    }
}
