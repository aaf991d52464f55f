//! What an endpoint might say back and nobody is to read: headers, keys and paths that are secrets.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;

use super::address::segment;
use crate::rules::{
    model::Webhook,
    template::{Part, Template},
};

/// A text that is shorter is no secret, and may be a part of any other word.
const SHORTEST: usize = 6;

/// Texts that are left out of what is told, the longest first: what is left of one would tell the rest.
pub(super) struct Unspeakable(Vec<String>);

impl Unspeakable {
    /// Those of a webhook.
    pub fn of(settings: &Webhook) -> Self {
        let mut texts: Vec<String> = Vec::new();
        for secret in &settings.secrets {
            texts.push(secret.expose().trim_start_matches("whsec_").to_owned());
        }
        for header in settings.headers.iter().filter(|header| !header.shown) {
            for text in literals(&header.value) {
                match text.split_once(' ') {
                    // `Bearer` is no secret, what follows it is.
                    Some((scheme, rest)) if header.name.ends_with("authorization") => {
                        texts.push(rest.to_owned());
                        texts.extend(rest.split([' ', ',', '=']).map(str::to_owned));
                        texts.extend(password(scheme, rest));
                    }
                    _ => {
                        texts.push(text.to_owned());
                        texts.extend(text.split([' ', ',', ';']).map(str::to_owned));
                    }
                }
            }
        }
        // A query is never shown.
        let mut secret = !settings.url.shown;
        for text in literals(&settings.url.path) {
            let (folders, query) = text
                .split_once('?')
                .map_or((text, None), |(folders, query)| (folders, Some(query)));
            let (hidden, query) = if secret { (Some(text), None) } else { (None, query) };
            for text in hidden.into_iter().chain(query) {
                texts.extend(text.split(['/', '?', '&', '=']).map(str::to_owned));
            }
            secret |= folders.len() < text.len();
        }
        Self::texts(texts)
    }

    /// These, in every form in which others write them.
    pub fn texts(texts: Vec<String>) -> Self {
        let mut all: Vec<String> = texts.iter().flat_map(|text| forms(text)).collect();
        all.retain(|text| text.len() >= SHORTEST);
        all.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all.dedup();
        Self(all)
    }

    /// Without them.
    pub fn left_out(&self, words: &str) -> String {
        let mut words = words.to_owned();
        for text in &self.0 {
            if words.contains(text) {
                words = words.replace(text, "…");
            }
        }
        words
    }

    /// The same of words that break off: they may end with the beginning of one.
    pub fn left_out_of_part(&self, words: &str) -> String {
        let mut words = words;
        // What is left may end with a beginning again: a text may be repeated in itself.
        loop {
            let begun = |text: &String| {
                let mut ends = text.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
                ends.find(|end| words.ends_with(&text[..*end]))
            };
            let Some(begun) = self.0.iter().filter_map(begun).max() else {
                return self.left_out(words);
            };
            words = &words[..words.len() - begun];
        }
    }
}

/// What a login by name and password is made from.
fn password(scheme: &str, login: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(login.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (_, password) = text.split_once(':')?;
    scheme.eq_ignore_ascii_case("basic").then(|| password.to_owned())
}

/// A text as it is, as URLs have it and as they mean it, and as programs write it into JSON.
fn forms(text: &str) -> Vec<String> {
    let decoded = percent_decode_str(text).decode_utf8_lossy().into_owned();
    let mut forms = Vec::new();
    for text in [text, &decoded] {
        let quoted = serde_json::to_string(text).expect("a text makes JSON");
        let quoted = quoted[1..quoted.len() - 1].to_owned();
        let encoded = segment(text);
        forms.push(quoted.replace('/', "\\/"));
        forms.push(in_html(&quoted));
        forms.push(with_small_digits(&encoded));
        forms.extend([text.to_owned(), quoted, encoded]);
    }
    forms
}

/// As JSON is written that may stand in a page.
fn in_html(quoted: &str) -> String {
    quoted.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e")
}

/// Either case of hex digits is read as the same.
fn with_small_digits(encoded: &str) -> String {
    let mut pieces = encoded.split('%');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |out, piece| {
        let (digits, rest) = piece.split_at(2);
        format!("{out}%{}{rest}", digits.to_ascii_lowercase())
    })
}

fn literals(template: &Template) -> impl Iterator<Item = &str> {
    template.parts().iter().filter_map(|part| match part {
        Part::Literal(text) => Some(text.as_str()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Unspeakable {
        Unspeakable::texts(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn a_secret_is_left_out_however_it_is_written() {
        for (secrets, words, expected) in [
            (&["hunter2"][..], "no hunter2, no", "no …, no"),
            // The longer one first: the shorter one is a part of it.
            (&["hunter2", "hunter2-and-more"], "hunter2-and-more hunter2", "… …"),
            (&["a/b\"c&d"], r#"{"error":"a/b\"c&d"}"#, r#"{"error":"…"}"#),
            (&["a/b\"c&d"], r#"{"error":"a\/b\"c&d"}"#, r#"{"error":"…"}"#),
            (&["a/b\"c&d"], r#"{"error":"a/b\"c\u0026d"}"#, r#"{"error":"…"}"#),
            (&["A/b\"c&d"], "no A%2Fb%22c%26d, A%2fb%22c%26d", "no …, …"),
            // The file has it encoded, and the endpoint reads it.
            (&["hunter%2F2"], "no hunter/2, no hunter%2F2", "no …, no …"),
            (&["short"], "a short word", "a short word"),
        ] {
            assert_eq!(of(secrets).left_out(words), expected, "{secrets:?}");
        }
    }

    #[test]
    fn words_that_break_off_show_no_beginning_of_a_secret() {
        let unspeakable = of(&["hunter2", "hunter2-and-more"]);
        for (words, expected) in [
            ("no hunter2-and", "no "),
            ("no hunter", "no "),
            ("no h", "no "),
            ("no", "no"),
            ("no hunter2", "no "),
            ("hunter2 no", "… no"),
        ] {
            assert_eq!(unspeakable.left_out_of_part(words), expected);
        }
        // It repeats itself.
        let unspeakable = of(&["abcabc"]);
        for words in ["no abcabc", "no abcabcabc", "no abcab", "no ab"] {
            assert_eq!(unspeakable.left_out_of_part(words), "no ", "{words}");
        }
    }

    /// It is left out where the URL is shown, so it is not to be said back either.
    #[test]
    fn a_query_is_a_secret_wherever_it_stands() {
        use crate::rules::{model::TargetKind, parse};
        let url = "https://h/folders/x?token=abcdef123456&{_id}&other=fedcba654321";
        let text = format!(
            "source: mongodb://h/?replicaSet=rs0\ntargets: {{ notify: {{ webhook: {{ url: \"{url}\" }} }} \
             }}\nrules: [{{ namespace: shop.orders, delivery: documents, to: notify }}]\n"
        );
        let loaded = parse(&text, std::path::Path::new("rules.yaml"), &|_| None);
        let rules = loaded.unwrap_or_else(|report| panic!("{report}")).rules;
        let TargetKind::Webhook(webhook) = &rules.targets[0].kind else { panic!("a webhook") };
        let said = Unspeakable::of(webhook)
            .left_out("no POST /folders/x?token=abcdef123456&7&other=fedcba654321");
        assert_eq!(said, "no POST /folders/x?token=…&7&other=…");
    }
}
