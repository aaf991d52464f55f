//! What targets that are reached by HTTP share: certificates and proxies, how long a connection may
//! take, and how a failure reads. It knows no address, tries nothing twice, and shows no secret.

use std::{
    error::Error,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Url, header::HeaderMap, redirect};

use super::{Pressure, Retry};
use crate::rules::model::Tls;

/// A node that does not take a connection for so long is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections are closed by us before the usual 60 s of proxies, which then reset them under
/// the next request.
const IDLE: Duration = Duration::from_secs(50);
/// A connection of HTTP/2, which many requests share, is given up where a ping is not answered: one
/// that a middlebox has forgotten would fail each of them until then.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings of a target can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// An address is not one.
    #[error("`{url}` is not an address: {reason}")]
    Address {
        /// As it was written.
        url: String,
        /// Why not.
        reason: String,
    },
    /// A certificate's or key's file can't be read.
    #[error("{path} can't be read")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} does not hold {expected} in PEM form")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// Only the program that brings the target has it.
    #[error("it is a program's own, and not at hand here")]
    Own,
    /// A password, key or token holds what no HTTP header may.
    #[error("a login or a header holds characters that can't be sent")]
    Credentials,
    /// The HTTP client can't be made of these settings.
    #[error("no connection can be made with these `tls` settings")]
    Client(#[source] Box<dyn Error + Send + Sync>),
}

/// Whether the files that the settings name can be used.
///
/// # Errors
/// Where one can't be read, or holds something else.
pub fn check_certificates(tls: &Tls) -> Result<(), SetupError> {
    Certificates::read(tls).map(drop)
}

/// Certificates, read from their files once.
pub(super) struct Certificates {
    /// In PEM form; empty where the system's own are enough.
    pub authorities: Vec<u8>,
    /// Certificate and key, one after the other.
    pub client: Option<Vec<u8>>,
    /// Whether any certificate is accepted.
    pub insecure: bool,
}

impl Certificates {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// Where one can't be read, or holds something else.
    pub fn read(tls: &Tls) -> Result<Self, SetupError> {
        let authorities = match &tls.ca {
            Some(path) => read_pem(path, "certificates", |pem| {
                reqwest::Certificate::from_pem_bundle(pem).is_ok_and(|found| !found.is_empty())
            })?,
            None => Vec::new(),
        };
        let client = match &tls.client {
            Some((certificate, key)) => {
                let mut pem = read_pem(certificate, "a certificate", |pem| {
                    reqwest::Certificate::from_pem_bundle(pem).is_ok_and(|found| !found.is_empty())
                })?;
                pem.push(b'\n');
                pem.extend(read_pem(key, "a private key without a passphrase", |key| {
                    let both = [&pem, key].concat();
                    reqwest::Identity::from_pem(&both).is_ok()
                })?);
                Some(pem)
            }
            None => None,
        };
        Ok(Self { authorities, client, insecure: tls.insecure })
    }

    /// A client that sends documents to `address`: it follows no redirect, which would carry them to
    /// where the rule file does not say. `timeout` is for one request, from connecting to the last
    /// byte of the answer.
    ///
    /// # Errors
    /// Where the certificates do not fit together.
    pub fn client(
        &self,
        headers: HeaderMap,
        timeout: Duration,
        address: &Url,
    ) -> Result<reqwest::Client, SetupError> {
        self.build(headers, timeout, address).map_err(|error| SetupError::Client(error.into()))
    }

    fn build(
        &self,
        headers: HeaderMap,
        timeout: Duration,
        address: &Url,
    ) -> Result<reqwest::Client, reqwest::Error> {
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE)
            .tcp_keepalive(IDLE)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .timeout(timeout)
            // An answer is a few kilobytes: not worth the other side's time to compress it.
            .no_gzip()
            .danger_accept_invalid_certs(self.insecure);
        for authority in reqwest::Certificate::from_pem_bundle(&self.authorities)? {
            builder = builder.add_root_certificate(authority);
        }
        if let Some(pem) = &self.client {
            builder = builder.identity(reqwest::Identity::from_pem(pem)?);
        }
        if is_loopback(address) {
            builder = builder.no_proxy();
        }
        builder.build()
    }
}

fn read_pem(
    path: &Path,
    expected: &'static str,
    usable: impl FnOnce(&[u8]) -> bool,
) -> Result<Vec<u8>, SetupError> {
    let pem = fs::read(path)
        .map_err(|source| SetupError::Unreadable { path: path.to_owned(), source })?;
    if usable(&pem) { Ok(pem) } else { Err(SetupError::Pem { path: path.to_owned(), expected }) }
}

/// Proxies of the environment are honoured, as by any other client on the same host, but not for
/// loopback addresses, which mean something else on the proxy.
pub fn is_loopback(address: &Url) -> bool {
    let host = address.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

/// No answer: why, in words.
pub(super) fn failure(error: &(dyn Error + 'static)) -> Retry {
    let mut timed_out = false;
    let mut words: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        // These two repeat the address, and the cause of the one is the text of the other.
        if let Some(error) = error.downcast_ref::<reqwest::Error>() {
            timed_out |= error.is_timeout();
        } else if !error.is::<elasticsearch::Error>() {
            let text = error.to_string();
            if words.last() != Some(&text) {
                words.push(text);
            }
        }
        next = error.source();
    }
    let message = match (words.is_empty(), timed_out) {
        (false, _) => words.join(": "),
        (true, true) => "no answer in time".to_owned(),
        (true, false) => "the answer broke off".to_owned(),
    };
    let reason = if timed_out { "timeout" } else { "network" };
    Retry { reason, message, after: None, pressure: Pressure::Same }
}

/// An address as it may be shown: what stands before an `@` in the authority is left out.
pub(super) fn without_login(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rsplit_once('@').map_or(0, |(login, _)| login.len() + 1);
    format!("{scheme}://{}", &rest[host..])
}

/// `Retry-After` as a time from `now`: seconds or a date. A date that has passed is no time.
pub(super) fn retry_after(value: &str, now: chrono::DateTime<chrono::Utc>) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = chrono::DateTime::parse_from_rfc2822(value).ok()?;
    Some((at.to_utc() - now).to_std().unwrap_or_default())
}

/// Text that is no longer than so many bytes, with an ellipsis where something was left out.
pub(super) fn cut(mut text: String, at: usize) -> String {
    if text.len() > at {
        text.truncate(text.floor_char_boundary(at));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("http://localhost:9200", true)]
    #[case("http://es.localhost:9200", true)]
    #[case("https://127.0.0.1", true)]
    #[case("https://127.9.9.9", true)]
    #[case("http://[::1]:9200", true)]
    #[case("http://10.0.0.1:9200", false)]
    #[case("https://localhost.example.com", false)]
    #[case("http://[2001:db8::1]:9200", false)]
    fn proxies_are_not_for_loopback(#[case] url: &str, #[case] loopback: bool) {
        assert_eq!(is_loopback(&Url::parse(url).unwrap()), loopback);
    }

    #[rstest]
    #[case("https://ann:pa@ss@es1:9200/x?y=a@b", "https://es1:9200/x?y=a@b")]
    #[case("https://es1/@x", "https://es1/@x")]
    #[case("https://ann@es1", "https://es1")]
    #[case("/_bulk", "/_bulk")]
    #[case("", "")]
    fn addresses_are_shown_without_login(#[case] url: &str, #[case] shown: &str) {
        assert_eq!(without_login(url), shown);
    }

    #[rstest]
    #[case("7", Some(7))]
    #[case(" 120 ", Some(120))]
    #[case("Sat, 21 Nov 2026 02:10:59 GMT", Some(30))]
    #[case("Sat, 21 Nov 2026 02:00:00 GMT", Some(0))]
    #[case("soon", None)]
    #[case("-1", None)]
    #[case("", None)]
    fn reads_retry_after(#[case] value: &str, #[case] seconds: Option<u64>) {
        let now = chrono::DateTime::parse_from_rfc3339("2026-11-21T02:10:29Z").unwrap().to_utc();
        assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs));
    }
}
