//! The functions as data: the handbook's table and a test are made from it.

/// One function, as a user reads about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// How it is called.
    pub signature: &'static str,
    /// What it does.
    pub text: &'static str,
    /// An expression; it does not depend on the document.
    pub example: &'static str,
    /// The text of the example's value.
    pub result: &'static str,
}

/// All functions beside Rhai's own, by subject.
pub const FUNCTIONS: &[Function] = &[];
