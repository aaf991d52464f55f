//! What of a text that stands where an address is expected may be shown.
//!
//! Whoever mistypes a scheme, leaves it out or forgets the `@` has written a password all the same, so
//! that nothing here relies on the text being an address: what is behind a host has to be a port to be
//! shown. It takes part in [`super::secret`], and knows no YAML.

use super::diagnostic::Span;

/// What addresses begin with.
const SCHEMES: [&str; 4] = ["mongodb", "mongodb+srv", "http", "https"];

/// The ranges of a text that may hold a login.
pub fn secrets(text: &str) -> Vec<Span> {
    let mut found = Vec::new();
    let plain = without_references(text, &mut found);
    let begins = scheme(&plain);
    let rest = &plain[begins..];
    // A password that should have been encoded may hold anything, so that the last `@` counts.
    let login = match rest.rfind('@') {
        Some(at) => Some(rest[..at].find(':').map_or(0, |colon| colon + 1)..at),
        None => no_port(rest).map(|from| from..rest.len()),
    };
    found.extend(login.map(|login| begins + login.start..begins + login.end));
    found.retain(|span| !span.is_empty());
    found
}

/// Whether a text is nothing but a host with a port, a port or a word of YAML's own.
pub fn is_plain(text: &str) -> bool {
    let port = |text: &str| is_port(text) && !text.is_empty();
    let host = |host: &str| {
        host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '[' | ']' | ':'))
    };
    matches!(text, "" | "~" | "null" | "true" | "false" | "on" | "off" | "yes" | "no")
        || port(text)
        || text.rsplit_once(':').is_some_and(|(name, after)| host(name) && port(after))
        || text.parse::<std::net::IpAddr>().is_ok()
}

/// Where a line of any text has what looks like a login: behind the first `:` that no space follows, up
/// to the last `@`.
pub fn in_line(line: &str) -> Option<Span> {
    let at = line.rfind('@')?;
    let before = &line[..at];
    let colon = before.match_indices(':').find(|(colon, _)| {
        before[colon + 1..].chars().next().is_some_and(|next| !next.is_whitespace())
    })?;
    Some(colon.0 + 1..at)
}

/// The text with every `${…}` made digits, which may stand anywhere; of their defaults, what is secret.
fn without_references(text: &str, found: &mut Vec<Span>) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(begins) = text[at..].find("${").map(|offset| at + offset) {
        let Some(ends) = text[begins..].find('}').map(|offset| begins + offset + 1) else { break };
        plain.push_str(&text[at..begins]);
        if let Some(default) = text[begins..ends].find(":-").map(|offset| begins + offset + 2) {
            let value = &text[default..ends - 1];
            if plain.ends_with(':') && !is_port(value) {
                found.push(default..ends - 1);
            }
            found.extend(
                secrets(value).into_iter().map(|span| default + span.start..default + span.end),
            );
        }
        plain.extend(std::iter::repeat_n('0', ends - begins));
        at = ends;
    }
    plain.push_str(&text[at..]);
    plain
}

/// Behind the scheme, or what is likely to have been meant as one.
fn scheme(text: &str) -> usize {
    let name = text
        .find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '+' | '.' | '-'))
        .unwrap_or(text.len());
    if text[name..].starts_with("://") {
        return name + 3;
    }
    let written = text[..name].to_ascii_lowercase();
    let meant = SCHEMES.iter().any(|scheme| {
        written.len() > 2 && strsim::damerau_levenshtein(&written, scheme) <= scheme.len() / 4
    });
    if !meant {
        return 0;
    }
    let signs = text[name..].bytes().take(3).take_while(|sign| b":;/\\".contains(sign)).count();
    name + signs
}

/// Where, in what stands behind a scheme, something follows a host that is no port.
fn no_port(text: &str) -> Option<usize> {
    let authority = &text[..text.find(['/', '?', '#']).unwrap_or(text.len())];
    let mut begins = 0;
    for host in authority.split(',') {
        // Colons in brackets are those of an address.
        let name = match host.find(']') {
            Some(end) if host.starts_with('[') && is_ip(&host[1..end]) => end + 1,
            _ => 0,
        };
        if let Some(colon) = host[name..].find(':').map(|offset| name + offset + 1)
            && !is_port(&host[colon..])
            && !is_template(&host[colon..])
        {
            return Some(begins + colon);
        }
        begins += host.len() + 1;
    }
    None
}

fn is_ip(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.' | b'%'))
}

/// What is put in for a reference has any length.
fn is_port(text: &str) -> bool {
    let digits = text.trim_start_matches('0');
    digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A `{field}`, whose name is no secret.
fn is_template(text: &str) -> bool {
    text.starts_with('{') && text.find('}') == Some(text.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let mut hide = secrets(text);
        hide.sort_by_key(|span| std::cmp::Reverse(span.start));
        let mut shown = text.to_owned();
        hide.into_iter().for_each(|span| shown.replace_range(span, "*"));
        shown
    }

    #[test]
    fn a_password_is_hidden_however_the_address_is_mistyped() {
        for (text, expected) in [
            ("mongodb//u:S3cr3tPw@h", "mongodb//u:*@h"),
            ("mongodb:/u:S3cr3tPw@h", "mongodb:/u:*@h"),
            ("mongodb;//u:S3cr3tPw@h", "mongodb;//u:*@h"),
            ("mongo://u:S3cr3tPw@h", "mongo://u:*@h"),
            ("u:S3cr3tPw@h:27017", "u:*@h:27017"),
            ("u:S3cr3t@Pw@h:27017", "u:*@h:27017"),
            ("mongodb://u:S3cr3tPw", "mongodb://u:*"),
            ("mongodb://u:S3cr3t/Pw", "mongodb://u:*"),
            ("mongodb://u:1S3cr3tPw,h", "mongodb://u:*"),
            ("http//u:S3cr3tPw@h", "http//u:*@h"),
            ("http:/u:S3cr3tPw@h", "http:/u:*@h"),
            ("http:S3cr3tPw@h", "http:*@h"),
            ("S3cr3tPw@h", "*@h"),
            ("${URI:-mongodb//u:S3cr3tPw@h}", "${URI:-mongodb//u:*@h}"),
            ("mongodb://u:${PW:-S3cr3tPw}", "mongodb://u:${PW:-*}"),
            ("u:\nS3cr3tPw@h", "u:*@h"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn what_holds_no_login_is_shown() {
        for text in [
            "",
            "localhost",
            "localhost:27017",
            "mongodb://a:27017,b:27018/db?replicaSet=rs0",
            "mongodb//a:27017",
            "mongodb+srv://cluster.example.com/?tls=true",
            "http://[::1]:9200/path:x",
            "http://h:${PORT}/",
            "http://h:${PORT:-9200}/",
            "${URI}",
            "https://example.com:8443/{collection}:{_id}",
            "https://example.com:{port}/x",
        ] {
            assert_eq!(shown(text), text);
        }
    }

    #[test]
    fn a_word_is_not_certainly_an_address() {
        for (text, plain) in [
            ("127.0.0.1:7800", true),
            ("[::1]:7800", true),
            ("7800", true),
            ("false", true),
            ("S3cr3tPw", false),
            ("u:S3cr3tPw", false),
            ("u:1@h:7800", false),
        ] {
            assert_eq!(is_plain(text), plain, "{text}");
        }
    }
}
