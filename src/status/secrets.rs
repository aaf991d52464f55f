//! Keeps passwords out of what people see.

use std::borrow::Cow;

/// The text with the password of every URI in it replaced by `…`.
///
/// It masks rather too much than too little: all from the colon after the user's name to the last
/// `@` before white space or a quote.
pub fn masked(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(scheme) = rest.find("://") {
        let (head, tail) = rest.split_at(scheme + 3);
        let end = tail
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>'))
            .unwrap_or(tail.len());
        let uri = &tail[..end];
        out.push_str(head);
        match uri.rfind('@').and_then(|at| Some((uri[..at].find(':')?, at))) {
            Some((colon, at)) => {
                out.push_str(&uri[..=colon]);
                out.push('…');
                out.push_str(&uri[at..]);
            }
            None => out.push_str(uri),
        }
        rest = &tail[end..];
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked() {
        let rows = [
            ("no uri at all, a:b@c", "no uri at all, a:b@c"),
            ("mongodb://h:27017/?replicaSet=rs0", "mongodb://h:27017/?replicaSet=rs0"),
            ("mongodb://me@h/db", "mongodb://me@h/db"),
            ("can't reach mongodb://me:pw@h1,h2/db now", "can't reach mongodb://me:…@h1,h2/db now"),
            ("mongodb+srv://me:p%40w@h", "mongodb+srv://me:…@h"),
            ("mongodb://me:p@/:w@h/", "mongodb://me:…@h/"),
            (
                r#""https://u:p@es:9200/", "https://v:q@es""#,
                r#""https://u:…@es:9200/", "https://v:…@es""#,
            ),
            ("://", "://"),
        ];
        for (text, expected) in rows {
            assert_eq!(masked(text), expected);
        }
    }
}
