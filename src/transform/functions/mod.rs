//! What a script can call beside the language's own packages, one file a subject.
//!
//! All of it stands in one module that every engine shares, but for what keeps something a script
//! of its own (the compiled patterns) or depends on its limits.
//!
//! No function here reads a file or panics, and only those of `source` may wait; what can't be done is an error with words, to
//! which the engine adds the line.

mod date;
mod digest;
mod document;
mod identifier;
mod json;
mod number;
mod pattern;
pub(super) mod reference;
pub(super) mod source;
pub(super) mod standard;

use std::sync::LazyLock;

use rhai::{Dynamic, Engine, FuncRegistration, Module, RhaiNativeFunc, Shared};

use super::{Limits, engine, scope};

static MODULE: LazyLock<Shared<Module>> = LazyLock::new(|| {
    let mut module = Module::new();
    document::register(&mut module);
    identifier::register(&mut module);
    date::register(&mut module);
    number::register(&mut module);
    digest::register(&mut module);
    json::register(&mut module);
    scope::register(&mut module);
    module.build_index();
    module.into()
});

/// Offers all of it to a script.
pub(super) fn register(engine: &mut Engine, limits: &Limits) {
    engine.register_global_module(MODULE.clone());
    pattern::register(engine);
    source::register(engine, limits);
    engine::forbid(engine);
    engine.on_print(|text| tracing::info!(target: "script", "{text}"));
    engine.on_debug(|text, _, _| tracing::debug!(target: "script", "{text}"));
}

/// A function or a method that changes nothing.
fn pure<A: 'static, const N: usize, const X: bool, R, const F: bool>(
    module: &mut Module,
    name: &str,
    function: impl RhaiNativeFunc<A, N, X, R, F> + Send + Sync + 'static,
) where
    R: rhai::Variant + Clone,
{
    FuncRegistration::new(name)
        .in_global_namespace()
        .with_purity(true)
        .set_into_module(module, function);
}

/// A method that changes what it is called on.
fn method<A: 'static, const N: usize, const X: bool, R, const F: bool>(
    module: &mut Module,
    name: &str,
    function: impl RhaiNativeFunc<A, N, X, R, F> + Send + Sync + 'static,
) where
    R: rhai::Variant + Clone,
{
    FuncRegistration::new(name)
        .in_global_namespace()
        .with_purity(false)
        .set_into_module(module, function);
}

/// `value.name`.
pub(super) fn getter<A: 'static, const X: bool, R, const F: bool>(
    module: &mut Module,
    name: &str,
    function: impl RhaiNativeFunc<A, 1, X, R, F> + Send + Sync + 'static,
) where
    R: rhai::Variant + Clone,
{
    FuncRegistration::new_getter(name).with_purity(true).set_into_module(module, function);
}

/// `value.name = …`.
pub(super) fn setter<A: 'static, const X: bool, R, const F: bool>(
    module: &mut Module,
    name: &str,
    function: impl RhaiNativeFunc<A, 2, X, R, F> + Send + Sync + 'static,
) where
    R: rhai::Variant + Clone,
{
    FuncRegistration::new_setter(name).set_into_module(module, function);
}

/// `value[index]`.
pub(super) fn indexer<A: 'static, const X: bool, R, const F: bool>(
    module: &mut Module,
    function: impl RhaiNativeFunc<A, 2, X, R, F> + Send + Sync + 'static,
) where
    R: rhai::Variant + Clone,
{
    FuncRegistration::new_index_getter().with_purity(true).set_into_module(module, function);
}

/// `value[index] = …`.
pub(super) fn set_indexer<A: 'static, const X: bool, R, const F: bool>(
    module: &mut Module,
    function: impl RhaiNativeFunc<A, 3, X, R, F> + Send + Sync + 'static,
) where
    R: rhai::Variant + Clone,
{
    FuncRegistration::new_index_setter().set_into_module(module, function);
}

/// A text as the engine has it.
fn text(text: impl AsRef<str>) -> Dynamic {
    Dynamic::from(rhai::ImmutableString::from(text.as_ref()))
}
