//! Hashes and base64.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use rhai::{Dynamic, ImmutableString, Module};
use sha2::{Digest, Sha256};

use super::pure;
use crate::{
    change::text::write_hex,
    transform::{
        failure::{Answer, refuse},
        value::Binary,
    },
};

pub(super) fn register(module: &mut Module) {
    pure(module, "sha256", |value: Dynamic| -> Answer<String> {
        Ok(hex(&Sha256::digest(bytes(&value)?)))
    });
    pure(module, "hmac_sha256", |key: Dynamic, value: Dynamic| -> Answer<String> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&bytes(&key)?).map_err(refuse)?;
        mac.update(&bytes(&value)?);
        Ok(hex(&mac.finalize().into_bytes()))
    });
    pure(module, "base64", |value: Dynamic| -> Answer<String> { Ok(encode(&bytes(&value)?)) });
    pure(module, "base64_decode", |text: ImmutableString| -> Answer<Binary> {
        let decoded = STANDARD
            .decode(text.as_bytes())
            .map_err(|error| refuse(format!("the text is not base64: {error}")))?;
        Ok(Binary::generic(decoded.into()))
    });
    pure(module, "to_text", |binary: &mut Binary| -> Answer<String> {
        String::from_utf8(binary.bytes().to_vec())
            .map_err(|_| refuse("the bytes are not text in UTF-8"))
    });
}

/// Base64 with padding.
pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn hex(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len() * 2);
    write_hex(bytes, &mut out);
    String::from_utf8(out).expect("hex digits are ASCII")
}

/// The bytes of a binary value; of anything else those of its text.
fn bytes(value: &Dynamic) -> Answer<Vec<u8>> {
    if let Some(binary) = value.read_lock::<Binary>() {
        return Ok(binary.bytes().to_vec());
    }
    if let Ok(blob) = value.as_blob_ref() {
        return Ok(blob.to_vec());
    }
    if let Ok(text) = value.as_immutable_string_ref() {
        return Ok(text.as_bytes().to_vec());
    }
    super::json::plain(value).map(String::into_bytes)
}
