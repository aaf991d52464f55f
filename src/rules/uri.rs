//! Connection strings and URLs: checked when the file is read, so that a slip is told at its line
//! and not by a driver that can't connect. Nothing of a login ever reaches a message.

use mongodb::options::ConnectionString;
use reqwest::Url;

use super::{address, model::Secret, node::Node, reader::Reader, secret};

/// A MongoDB connection string.
pub fn mongodb(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Secret> {
    let text = reader.text(node, what)?;
    if !text.starts_with("mongodb://") && !text.starts_with("mongodb+srv://") {
        reader
            .error(&node.span, format!("{what} takes a MongoDB connection string"))
            .label("expected `mongodb://…` or `mongodb+srv://…`");
        return None;
    }
    let Err(error) = ConnectionString::parse(&text) else { return Some(Secret::new(text)) };
    // The driver repeats what it dislikes. With the login replaced, what it says is harmless, where
    // the rest stands in the file as it is.
    let written = reader.text.get(node.span.clone()).unwrap_or_default();
    let rest = written.rsplit_once('@').map_or(written, |(_, rest)| rest);
    let substituted = node.scalar().is_some_and(|scalar| scalar.substituted) && rest.contains("${");
    let login = text.contains('@');
    let reason = match ConnectionString::parse(without_login(&text)) {
        _ if !login && !substituted && !address::secrets(&text).is_empty() => Some(
            "what stands behind a `:` is no port: is an `@` missing behind a login?".to_owned(),
        ),
        _ if substituted => Some("MongoDB's driver does not take what this stands for".to_owned()),
        _ if !login => Some(driver_words(&error)),
        Err(error) => Some(driver_words(&error)),
        Ok(_) => None,
    };
    let told =
        reader.error(&node.span, format!("{what} is no connection string that MongoDB takes"));
    match reason {
        Some(reason) => told.label(reason),
        None if login => told.label("the user name or the password is wrongly written").help(
            "in a connection string `:`, `/`, `?`, `#`, `[`, `]`, `@` and `%` of a user name or \
             password are percent-encoded: `@` is `%40`",
        ),
        None => told,
    };
    None
}

/// The same string with another user and password, and other values for what may be secret.
fn without_login(text: &str) -> String {
    let mut harmless = text.to_owned();
    if let (Some(scheme), Some(at)) = (text.find("://"), text.rfind('@'))
        && scheme + 3 <= at
    {
        harmless.replace_range(scheme + 3..at, "user:password");
    }
    let mut hide = secret::logins(&harmless);
    hide.sort_by_key(|span| std::cmp::Reverse(span.start));
    for span in hide {
        harmless.replace_range(span, "x");
    }
    harmless
}

fn driver_words(error: &mongodb::error::Error) -> String {
    match &*error.kind {
        mongodb::error::ErrorKind::InvalidArgument { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

/// A node's URL, taken apart.
pub struct NodeUrl {
    /// Without login and without a slash at its end.
    pub url: String,
    /// User and password, where the URL had them.
    pub login: Option<(String, Secret)>,
}

/// One of `urls:`.
pub fn node_url(reader: &mut Reader<'_>, node: &Node) -> Option<NodeUrl> {
    let text = reader.text(node, "`urls`")?;
    let example = "write the like of `http://127.0.0.1:9200`";
    let mut url = match Url::parse(&text) {
        Ok(url) => url,
        Err(_) if !text.contains("://") => {
            let error = reader.error(&node.span, "this is no URL");
            error.label("`http://` or `https://` is missing");
            return None;
        }
        Err(reason) => {
            // The reason repeats nothing of the URL.
            reader.error(&node.span, "this is no URL").label(reason.to_string()).help(example);
            return None;
        }
    };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        // `es1:9200` reads as a scheme and a path.
        let label = if text.contains("://") {
            "expected `http://` or `https://`"
        } else {
            "`http://` or `https://` is missing"
        };
        reader.error(&node.span, "an engine is reached by HTTP").label(label);
        return None;
    }
    if url.query().is_some() || url.fragment().is_some() {
        reader
            .error(&node.span, "a node's URL ends with its path")
            .label("there is a `?` or a `#` in it");
        return None;
    }
    let login = if url.username().is_empty() && url.password().is_none() {
        None
    } else {
        let (Some(user), Some(password)) =
            (decoded(url.username()), decoded(url.password().unwrap_or_default()))
        else {
            reader.error(&node.span, "the login in this URL is wrongly percent-encoded");
            return None;
        };
        Some((user, Secret::new(password)))
    };
    // Both work on every URL that has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Some(NodeUrl { url: url.as_str().trim_end_matches('/').to_owned(), login })
}

/// Percent-encoding undone; `None` where it is broken or is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let digits = std::str::from_utf8(after.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_never_stays_in_what_the_driver_is_asked_about() {
        for (text, expected) in [
            ("mongodb://u:p@ss@h:x", "mongodb://user:x@h:x"),
            ("mongodb://h/?proxyPassword=abc", "mongodb://h/?proxyPassword=x"),
            ("mongodb://h:port", "mongodb://h:port"),
        ] {
            assert_eq!(without_login(text), expected);
        }
    }

    #[test]
    fn percent_encoding() {
        assert_eq!(decoded("a%40b%C3%A9"), Some("a@bé".to_owned()));
        assert_eq!(decoded("a%4"), None);
        assert_eq!(decoded("a%zz"), None);
        assert_eq!(decoded("%ff"), None);
    }
}
