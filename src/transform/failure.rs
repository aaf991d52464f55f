//! What went wrong in a script, as the engine reports it and as a person is to read it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use rhai::{Dynamic, EvalAltResult, ParseError, Position};

use super::Limits;

/// What a function of the engine answers.
pub(super) type Answer<T> = Result<T, Box<EvalAltResult>>;

/// An error that the engine gives the place of the call.
pub(super) fn refuse(words: impl fmt::Display) -> Box<EvalAltResult> {
    EvalAltResult::ErrorRuntime(words.to_string().into(), Position::NONE).into()
}

/// Why a script can't be compiled, or why it failed on one document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScriptError {
    /// What is wrong, without the place.
    pub message: String,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The character in the line, from 1.
    pub column: Option<usize>,
    /// The imported file that line and column are of; `None` for the script itself.
    pub file: Option<PathBuf>,
}

impl std::error::Error for ScriptError {}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}, ", file.display())?;
        }
        match (self.line, self.column) {
            (Some(line), Some(column)) => write!(f, "line {line}, column {column}: ")?,
            (Some(line), None) => write!(f, "line {line}: ")?,
            (None, _) if self.file.is_some() => write!(f, "the file: ")?,
            (None, _) => {}
        }
        f.write_str(&self.message)
    }
}

impl ScriptError {
    /// An error at a place of the script, or of an imported file.
    pub(super) fn at(message: impl Into<String>, position: Position, file: Option<&Path>) -> Self {
        Self {
            message: message.into(),
            line: position.line(),
            column: position.position(),
            file: file.map(Path::to_owned),
        }
    }

    /// The parser's error.
    pub(super) fn parse(error: &ParseError, file: Option<&Path>) -> Self {
        Self::at(error.err_type().to_string(), error.position(), file)
    }

    /// The engine's error at run time; the innermost place is the one that is said.
    pub(super) fn run(error: EvalAltResult, limits: &Limits, file: Option<&Path>) -> Self {
        match error {
            EvalAltResult::ErrorInFunctionCall(_, source, inner, position) => {
                let source = (!source.is_empty()).then(|| PathBuf::from(&source));
                let mut error = Self::run(*inner, limits, source.as_deref().or(file));
                error.place(position);
                error
            }
            EvalAltResult::ErrorInModule(_, inner, position) => {
                let mut error = Self::run(*inner, limits, file);
                error.place(position);
                error
            }
            error => {
                let position = error.position();
                Self::at(words(error, limits), position, file)
            }
        }
    }

    fn place(&mut self, position: Position) {
        if self.line.is_none() {
            (self.line, self.column) = (position.line(), position.position());
        }
    }
}

fn words(mut error: EvalAltResult, limits: &Limits) -> String {
    let passed = |what: &str, key: &str, limit: u64| {
        format!("{what} than {limit}, the limit `limits.{key}`")
    };
    match error {
        EvalAltResult::ErrorTooManyOperations(_) => {
            passed("the script takes more operations", "operations", limits.operations)
        }
        EvalAltResult::ErrorStackOverflow(_) => {
            passed("functions call each other deeper", "call_depth", limits.call_depth as u64)
        }
        EvalAltResult::ErrorDataTooLarge(what, _) if what.contains("string") => {
            passed("a text has more bytes", "string", limits.string as u64)
        }
        EvalAltResult::ErrorDataTooLarge(what, _) if what.contains("array") => {
            passed("an array has more items", "array", limits.array as u64)
        }
        EvalAltResult::ErrorDataTooLarge(..) => {
            passed("a map has more entries", "map", limits.map as u64)
        }
        EvalAltResult::ErrorRuntime(thrown, _) => thrown_words(thrown),
        EvalAltResult::ErrorParsing(kind, _) => kind.to_string(),
        _ => {
            error.set_position(Position::NONE);
            error.to_string()
        }
    }
}

fn thrown_words(thrown: Dynamic) -> String {
    if thrown.is_unit() {
        return "the script threw an error without words".to_owned();
    }
    thrown.to_string()
}
