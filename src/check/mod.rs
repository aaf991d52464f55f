//! What a rule file means, and what its servers say to it, without a run: nothing is copied, and
//! nothing is written to the source or to a target.
//!
//! It stands beside the flow and knows its stages from outside, as `pipeline` does from inside.
//! [`account`] says what the file means, [`hints`] what in it a person should know, [`online`] asks the
//! servers. All of it comes out as data; [`text`] makes lines of it.

mod account;
mod checkpoint;
mod hints;
mod online;
mod source;
mod text;

pub use account::Account;
pub use hints::{certificates, hints};
pub use online::online;
pub use text::{account as account_text, findings as findings_text};

#[cfg(test)]
mod tests;
