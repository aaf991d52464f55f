//! `webhook:`, a target of `targets:`.

use std::time::Duration;

use reqwest::Url;

use super::{
    destination::template_error,
    keys,
    model::{
        DeliverySettings, Header, MOST_HEADERS, OnRejected, SigningSecret, TargetKind, Tls,
        Webhook, WebhookFormat, WebhookUrl, header_fault, is_step,
    },
    node::{Entry, Node, Value},
    reader::{Reader, shown_key},
    secret,
    targets::{Keys, delivery, tls},
    template::{Part, Template},
};

/// What its delivery is where the file says nothing.
const DELIVERY: DeliverySettings = DeliverySettings {
    max_bytes: 1 << 20,
    max_actions: 1,
    max_delay: Duration::ZERO,
    concurrency: 8,
    timeout: Duration::from_secs(15),
    retry_initial: Duration::from_millis(500),
    retry_max: Duration::from_secs(300),
    give_up_after: None,
    on_rejected: OnRejected::DeadLetter,
};

/// Reads one.
pub fn webhook(reader: &mut Reader<'_>, node: &Node) -> Option<(TargetKind, DeliverySettings)> {
    let fields = reader.fields(node, "`webhook`", &keys::WEBHOOK)?;
    let url = match fields.get("url") {
        Some(node) => url(reader, node),
        None => {
            if fields.lacks("url") {
                reader
                    .error(fields.owner, "`webhook` has no `url`")
                    .help("add where it is told to, such as `url: https://example.com/hook`");
            }
            None
        }
    };
    let method = match fields.get("method") {
        Some(node) => {
            let words = keys::WEBHOOK_METHODS.map(|method| (method, method));
            reader.word(node, "`method`", &words)
        }
        None => Some("POST"),
    };
    let headers = fields.get("headers").map_or(Some(Vec::new()), |node| headers(reader, node));
    let secrets = fields.get("secret").map_or(Some(Vec::new()), |node| secrets(reader, node));
    let format = match fields.get("format") {
        Some(node) => {
            let words =
                [WebhookFormat::Standard, WebhookFormat::CloudEvents, WebhookFormat::Document]
                    .map(|format| (format.as_str(), format));
            reader.word(node, "`format`", &words)
        }
        None => Some(WebhookFormat::Standard),
    };
    let tls = fields.get("tls").map_or(Some(Tls::default()), |node| tls(reader, node));
    let extended_json = match fields.get("json") {
        Some(node) => reader.word(node, "`json`", &[("plain", false), ("extended", true)]),
        None => Some(false),
    };
    let tables = Keys { batch: &keys::WEBHOOK_BATCH, retry: &keys::WEBHOOK_RETRY };
    let delivery = delivery(reader, fields, DELIVERY, tables);
    let webhook = Webhook {
        url: url?,
        method: method?.to_owned(),
        headers: headers?,
        secrets: secrets?,
        format: format?,
        tls: tls?,
        extended_json: extended_json?,
    };
    Some((TargetKind::Webhook(webhook), delivery?))
}

/// `url:`
fn url(reader: &mut Reader<'_>, node: &Node) -> Option<WebhookUrl> {
    let text = reader.text(node, "`url`")?;
    let substituted = node.scalar().is_some_and(|scalar| scalar.substituted);
    let Some((scheme, rest)) = text.split_once("://") else {
        reader.error(&node.span, "this is no URL").label("`http://` or `https://` is missing");
        return None;
    };
    if !matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") {
        reader
            .error(&node.span, "a webhook is reached by HTTP")
            .label("expected `http://` or `https://`");
        return None;
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // A password that should have been encoded may hold a `/`.
    if authority.contains('@')
        || (authority.contains(':') && path.contains('@') && !port(authority))
    {
        reader
            .error(&node.span, "a login can't stand in the URL of a webhook")
            .help("send it as a header: `headers: { Authorization: \"Basic …\" }`");
        return None;
    }
    if authority.contains(['{', '}']) {
        reader.error(&node.span, "a template can't choose the host").help(
            "a document would decide where others are sent to; templates stand behind the host",
        );
        return None;
    }
    let forbidden = |c: char| c == '#' || c == '\\' || c.is_control() || c.is_whitespace();
    // What is taken for a part of the host here, and for the beginning of the path elsewhere.
    if authority.contains(forbidden) {
        reader
            .error(&node.span, "`url` holds what no host can hold")
            .label("a `\\`, a space or the like")
            .help("a path begins with `/`");
        return None;
    }
    let origin = match Url::parse(&format!("{scheme}://{authority}")) {
        Ok(url) => url.origin().ascii_serialization(),
        Err(reason) => {
            // The reason repeats nothing of the URL.
            reader
                .error(&node.span, "this is no URL")
                .label(reason.to_string())
                .help("write the like of `https://example.com/hook`");
            return None;
        }
    };
    let literal = |part: &Part| matches!(part, Part::Literal(text) if text.contains(forbidden));
    let template = match Template::parse(path) {
        Ok(template) => template,
        Err(mut error) => {
            error.offset += text.len() - path.len();
            template_error(reader, node, &error);
            return None;
        }
    };
    if template.parts().iter().any(literal) {
        reader
            .error(&node.span, "`url` holds what no URL that is sent to can hold")
            .label("a `#`, a `\\`, a space or the like")
            .help("a `#` is `%23`, a space is `%20`");
        return None;
    }
    if template.parts().contains(&Part::Operation) {
        let span = if substituted { node.span.clone() } else { reader.part(node, "{op}") };
        reader
            .error(&span, "`url` can't depend on `{op}`")
            .help("a removal is told to the place that a put was told to");
        return None;
    }
    let folders = path.split('?').next().unwrap_or_default();
    if folders.split('/').any(is_step) {
        reader
            .error(&node.span, "`url` holds the folder `.` or `..`")
            .help("write the path that they lead to");
        return None;
    }
    Some(WebhookUrl { origin, path: template, shown: !substituted })
}

/// Whether an authority ends with a port, or with the beginning of a password.
fn port(authority: &str) -> bool {
    let after = authority.rsplit(':').next().unwrap_or_default();
    after.ends_with(']') || after.bytes().all(|byte| byte.is_ascii_digit())
}

/// `headers:`
fn headers(reader: &mut Reader<'_>, node: &Node) -> Option<Vec<Header>> {
    let fields = reader.any_fields(node, "`headers`", "a map from names to values")?;
    if fields.entries().is_empty() {
        reader.error(fields.owner, "`headers` is empty");
        return None;
    }
    if fields.entries().len() > MOST_HEADERS {
        reader
            .error(fields.owner, format!("`headers` holds more than {MOST_HEADERS}"))
            .help("no endpoint takes so many");
        return None;
    }
    let mut headers: Vec<Header> = Vec::new();
    let mut complete = true;
    for entry in fields.entries() {
        let Some(header) = header(reader, entry) else {
            complete = false;
            continue;
        };
        if headers.iter().any(|earlier| earlier.name == header.name) {
            let message = format!("the header {} stands twice", shown_key(entry));
            reader
                .error(&entry.key_span, message)
                .help("capitals make no difference in the name of a header");
            complete = false;
        }
        headers.push(header);
    }
    complete.then_some(headers)
}

fn header(reader: &mut Reader<'_>, entry: &Entry) -> Option<Header> {
    let name = entry.key.to_ascii_lowercase();
    let shown = shown_key(entry);
    if let Some(fault) = header_fault(&name) {
        reader
            .error(&entry.key_span, format!("a webhook can't have the header {shown}"))
            .label(fault);
        return None;
    }
    let node = &entry.value;
    if let Value::Map(_) = node.value {
        reader.mismatch(node, &shown, "text").help("text that begins with `{` needs quotes");
        return None;
    }
    let text = reader.text(node, &shown)?;
    let value = match Template::parse(&text) {
        Ok(value) => value,
        Err(error) => {
            template_error(reader, node, &error);
            return None;
        }
    };
    let stays = |c: char| c == ' ' || c.is_ascii_graphic();
    let fault = value.parts().iter().any(|part| match part {
        Part::Literal(text) => !text.chars().all(stays),
        _ => false,
    });
    if fault || text.trim().len() != text.len() {
        let error = reader.error(&node.span, format!("{shown} holds what no header can hold"));
        match text.contains(['\r', '\n']) {
            true => error.label("there is a line break in it").help(
                "a value that is read from a file may end with one; in YAML, `>` and `|` add one and \
                 `>-` and `|-` do not",
            ),
            false => error.label("letters, digits and signs of ASCII, no space at either end"),
        };
        return None;
    }
    let substituted = node.scalar().is_some_and(|scalar| scalar.substituted);
    Some(Header { shown: !substituted && !secret::is_secret_header(&name), name, value })
}

/// `secret:`, one or several.
fn secrets(reader: &mut Reader<'_>, node: &Node) -> Option<Vec<SigningSecret>> {
    let nodes = match &node.value {
        Value::List(_) => reader.list(node, "`secret`", "signing secrets")?,
        _ => std::slice::from_ref(node),
    };
    let secrets: Vec<_> = nodes
        .iter()
        .map(|node| {
            let text = reader.text(node, "`secret`")?;
            SigningSecret::parse(&text)
                .map_err(|error| {
                    reader
                        .error(&node.span, "this is no signing secret of Standard Webhooks")
                        .label(error.to_string())
                        .help("make one with `echo \"whsec_$(openssl rand -base64 32)\"`");
                })
                .ok()
        })
        .collect();
    secrets.into_iter().collect()
}
