//! `mongosync check`: what a rule file means, and what keeps a run from doing it.

use serde::Serialize;

use super::{Error, arguments::CheckArguments, console::Console, print};
use crate::{
    check::{Account, account_text, certificates, findings_text, hints, online},
    finding::{Finding, NOT_REACHED, Severity},
    rules,
    status::masked,
};

/// What programs read.
#[derive(Serialize)]
struct Output<'a> {
    /// The file as it was named.
    file: String,
    /// Whether nothing keeps a run from doing what the file says.
    ok: bool,
    /// Nothing where the file is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    means: Option<&'a Account>,
    /// The file's own first, in its order.
    findings: &'a [Finding],
}

/// Runs the command.
///
/// # Errors
/// All errors of the file, in one; where it has none, [`Error::Found`].
pub async fn run(arguments: CheckArguments, console: &Console) -> Result<(), Error> {
    let file = arguments.file.display().to_string();
    let environment = |name: &str| std::env::var(name).ok();
    let loaded = match rules::load(&arguments.file, &environment) {
        Ok(loaded) => loaded,
        Err(report) => {
            if arguments.json {
                let findings = &report.findings();
                print_json(&Output { file, ok: false, means: None, findings })?;
            }
            return Err(Error::Rules(report));
        }
    };
    console.warnings(&loaded.warnings);
    let account = Account::of(&loaded.rules);
    let mut findings = hints(&loaded.rules);
    match arguments.online {
        true => findings.extend(online(&loaded.rules, arguments.wait).await),
        // Who asks the targets reads them too.
        false => findings.extend(certificates(&loaded.rules)),
    }
    let end = end(&findings);
    match arguments.json {
        true => {
            let all = [loaded.warnings.findings(), findings].concat();
            print_json(&Output { file, ok: end.is_ok(), means: Some(&account), findings: &all })?;
        }
        false => {
            let text = format!(
                "{file}: no errors in the file\n\n{}{}",
                account_text(&account),
                findings_text(&findings)
            );
            print(&masked(&text))?;
        }
    }
    end
}

fn print_json(output: &Output<'_>) -> Result<(), Error> {
    let mut value = serde_json::to_value(output)
        .map_err(|error| Error::Internal(format!("the output can't be written: {error}")))?;
    mask(&mut value);
    print(&format!("{value:#}\n"))
}

/// What a server says may repeat a connection string.
fn mask(value: &mut serde_json::Value) {
    use serde_json::Value as Json;
    match value {
        Json::String(text) => *text = masked(text).into_owned(),
        Json::Array(items) => items.iter_mut().for_each(mask),
        Json::Object(fields) => fields.values_mut().for_each(mask),
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

/// What was found as the command's end: warnings are none.
fn end(findings: &[Finding]) -> Result<(), Error> {
    let errors = || findings.iter().filter(|finding| finding.severity == Severity::Error);
    let mut not_reached: Vec<String> = errors()
        .filter(|finding| finding.code == NOT_REACHED)
        .map(|finding| finding.part.to_string())
        .collect();
    not_reached.dedup();
    let errors = errors().filter(|finding| finding.code != NOT_REACHED).count();
    match (errors, not_reached.is_empty()) {
        (0, true) => Ok(()),
        _ => Err(Error::Found { errors, not_reached }),
    }
}
