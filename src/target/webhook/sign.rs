//! Signatures by the Standard Webhooks specification: base64 of HMAC-SHA256 over `id.timestamp.body`,
//! one for each secret, so that the receiver may change over from one to the next.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::rules::model::SigningSecret;

/// The value of `webhook-signature`; `None` where there is no secret.
pub(super) fn signature(
    secrets: &[SigningSecret],
    id: &str,
    timestamp: &str,
    body: &[u8],
) -> Option<String> {
    let signatures: Vec<String> = secrets
        .iter()
        .map(|secret| {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret.key())
                .expect("a key of any length is one for HMAC");
            for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
                mac.update(part);
            }
            format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
        })
        .collect();
    (!signatures.is_empty()).then(|| signatures.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries.
    #[test]
    fn the_known_example() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        assert_eq!(
            signature(&[secret], id, "1614265330", body).unwrap(),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn one_for_each_secret() {
        let secret = |byte: u8| {
            let text = format!("whsec_{}", BASE64_STANDARD.encode([byte; 32]));
            SigningSecret::parse(&text).unwrap()
        };
        let both = signature(&[secret(1), secret(2)], "msg_1", "1", b"{}").unwrap();
        let (first, second) = both.split_once(' ').unwrap();
        assert_ne!(first, second);
        assert_eq!(Some(first.to_owned()), signature(&[secret(1)], "msg_1", "1", b"{}"));
        assert_eq!(signature(&[], "msg_1", "1", b"{}"), None);
    }
}
