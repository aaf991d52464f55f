//! One HTTP request to a search engine on loopback, written by hand.
//!
//! Place in the flow: tells when an engine is ready, and serves tests that look at an engine
//! without the product's own client. It must not grow into a client: no TLS, no keep-alive.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const LONGEST: Duration = Duration::from_secs(60);

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status code.
    pub status: u16,
    /// The whole body as text.
    pub body: String,
}

/// Sends one request and reads the whole answer; `body` goes out as JSON, or as NDJSON where it
/// ends with a line feed (`_bulk`).
///
/// # Errors
/// A connection that is refused or breaks, an answer that is not HTTP, or none within 60 s. A
/// status of 4xx or 5xx is an answer, not an error.
pub(crate) async fn request(port: u16, method: &str, path: &str, body: &str) -> Result<Response> {
    let exchange = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(head(port, method, path, body).as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        parse(&answer)
    };
    timeout(LONGEST, exchange)
        .await
        .with_context(|| format!("no answer within {LONGEST:?}"))
        .flatten()
        .with_context(|| format!("{method} http://127.0.0.1:{port}{path}"))
}

/// HTTP/1.0, because its answers are never chunked and end with the connection.
fn head(port: u16, method: &str, path: &str, body: &str) -> String {
    let kind = if body.ends_with('\n') { "application/x-ndjson" } else { "application/json" };
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {kind}\r\n\
         Content-Length: {length}\r\n\r\n"
    )
}

fn parse(answer: &[u8]) -> Result<Response> {
    let text = str::from_utf8(answer).context("the answer is not UTF-8")?;
    let (head, body) = text.split_once("\r\n\r\n").context("the answer ends inside its head")?;
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("not an HTTP status line: {:?}", head.lines().next()))?;
    Ok(Response { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let found = |status, body: &str| Some(Response { status, body: body.to_owned() });
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}", found(200, "{}")),
            ("HTTP/1.0 404 Not Found\r\n\r\n", found(404, "")),
            ("HTTP/1.1 200 OK\r\n\r\na\r\n\r\nb", found(200, "a\r\n\r\nb")),
            ("HTTP/1.1 200 OK\r\nA: b\r\n", None),
            ("SSH-2.0\r\n\r\n", None),
            ("", None),
        ] {
            assert_eq!(parse(answer.as_bytes()).ok(), expected, "{answer:?}");
        }
    }

    #[test]
    fn a_body_that_ends_with_a_line_feed_is_ndjson() {
        assert!(
            head(1, "POST", "/_bulk", "{}\n").contains("Content-Type: application/x-ndjson\r\n")
        );
        assert!(head(1, "PUT", "/a", "{}").contains("Content-Type: application/json\r\n"));
    }
}
