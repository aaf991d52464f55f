//! The engine: what it offers, how a script is compiled, and how it is run.
//!
//! Each script has an engine of its own, because the getters and setters for the very names that it
//! mentions are registered there, which is what makes fields as fast as local variables. Strings are
//! not interned: the interner's lock costs more than it saves, most of all on several threads.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, PoisonError},
};

use rhai::{
    AST, ASTNode, Caches, Dynamic, Engine, EvalAltResult, Expr, GlobalRuntimeState,
    ImmutableString, Module, Position, Scope, Shared, Stmt,
    packages::{Package, StandardPackage},
};

use super::{
    Input, Limits, Outcome, ScriptError, UnknownCall,
    direct::{Hands, Steps},
    failure::refuse,
    functions, import, lookup, moves,
    outcome::{self, Ended},
    scope::{EventValue, MetaValue},
    view::View,
};

/// How deep expressions may nest in the text.
const EXPRESSION_DEPTH: usize = 64;
/// Calls that are remembered from one run to the next. A script has far fewer; but where it makes names
/// of functions from what documents hold, each document may bring another one.
const MOST_RESOLVED: usize = 1_000;
/// The names that the script finds in scope, which it can't give to variables of its own.
pub(super) const NAMES: [&str; 3] = ["doc", "event", "meta"];

static PACKAGES: LazyLock<Shared<Module>> =
    LazyLock::new(|| StandardPackage::new().as_shared_module());

/// A compiled script. Cheap to run, not to make; shared by all threads that run it.
pub struct Script {
    engine: Engine,
    ast: AST,
    limits: Limits,
    imports: Vec<PathBuf>,
    mentioned: Mentioned,
    moves: bool,
    skips: bool,
    unknown: Vec<UnknownCall>,
    steps: Steps,
    resolved: Resolved,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script")
            .field("limits", &self.limits)
            .field("imports", &self.imports)
            .field("may_move", &self.moves)
            .field("looks_up", &self.mentioned.lookup)
            .finish_non_exhaustive()
    }
}

impl Script {
    pub(super) fn imported(&self) -> &[PathBuf] {
        &self.imports
    }

    pub(super) fn reads_source(&self) -> bool {
        self.mentioned.lookup
    }

    pub(super) fn moves(&self) -> bool {
        self.moves
    }

    pub(super) fn skips(&self) -> bool {
        self.skips
    }

    pub(super) fn unknown(&self) -> &[UnknownCall] {
        &self.unknown
    }

    pub(super) fn called(&self) -> &BTreeSet<String> {
        &self.mentioned.calls
    }

    fn evaluate(&self, hands: &mut Hands<'_>) -> Result<(), Box<EvalAltResult>> {
        if !self.imports.is_empty() {
            // What a run imports is its own, and so is what its calls mean.
            hands.hand_over();
            return self.engine.run_ast_with_scope(hands.scope, &self.ast);
        }
        let mut interpreter = Interpreter { script: self, state: None };
        let mut interpret =
            |scope: &mut Scope<'static>, statements: &[Stmt]| interpreter.run(scope, statements);
        self.steps.run(hands, self.ast.statements(), &self.limits, &mut interpret)
    }

    /// How many calls are remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        let mut kept = self.resolved.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter_mut().map(|caches| caches.fn_resolution_cache_mut().dict.len()).sum()
    }

    /// How many statements are left to the interpreter from the start.
    #[cfg(test)]
    pub(super) fn interpreted(&self) -> usize {
        self.steps.interpreted()
    }

    /// Has the interpreter run all of it.
    #[cfg(test)]
    pub(super) fn interpret_all(&mut self) {
        self.steps = Steps::none(&self.ast);
    }

    /// Claims that the script moves nothing, to test what happens where that is wrong.
    #[cfg(test)]
    pub(super) fn forget_moves(&mut self) {
        self.moves = false;
    }
}

/// The engine within one run, from the first statement that needs it on.
struct Interpreter<'a> {
    script: &'a Script,
    state: Option<(GlobalRuntimeState, Caches)>,
}

impl Interpreter<'_> {
    /// Runs statements. Which function a call means depends on its name and the types of its
    /// arguments alone (no operator can be called by its name), and engine and script are the same
    /// in each run: so what one has found out holds for the next.
    fn run(
        &mut self,
        scope: &mut Scope<'_>,
        statements: &[Stmt],
    ) -> Result<(), Box<EvalAltResult>> {
        let Script { engine, ast, resolved, .. } = self.script;
        let (global, caches) = self.state.get_or_insert_with(|| {
            let mut global = engine.new_global_runtime_state();
            global.lib.push(ast.shared_lib().clone());
            (global, resolved.take())
        });
        #[expect(deprecated, reason = "the one way to run an AST with caches that outlive the run")]
        engine.eval_statements_raw(global, caches, scope, statements).map(drop)
    }
}

impl Drop for Interpreter<'_> {
    fn drop(&mut self) {
        if let Some((_, caches)) = self.state.take() {
            self.script.resolved.give_back(caches);
        }
    }
}

/// Which functions the calls of a script mean, as far as runs have come to them: one for each thread
/// that runs it at a time.
#[derive(Default)]
struct Resolved(Mutex<Vec<Caches>>);

impl Resolved {
    fn take(&self) -> Caches {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, mut caches: Caches) {
        if caches.fn_resolution_cache_mut().dict.len() > MOST_RESOLVED {
            return;
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(caches);
    }
}

fn new_engine(limits: &Limits) -> Engine {
    let mut engine = Engine::new_raw();
    engine.set_max_strings_interned(0);
    engine.register_global_module(PACKAGES.clone());
    functions::register(&mut engine, limits);
    engine.disable_symbol("eval");
    engine.set_strict_variables(true);
    engine.set_max_operations(limits.operations);
    engine.set_max_call_levels(limits.call_depth);
    engine.set_max_expr_depths(EXPRESSION_DEPTH, EXPRESSION_DEPTH);
    engine.set_max_string_size(limits.string);
    engine.set_max_array_size(limits.array);
    engine.set_max_map_size(limits.map);
    engine
}

/// The names that are in scope, for the check of variables at compile time.
fn declared() -> Scope<'static> {
    let mut scope = Scope::new();
    for name in NAMES {
        scope.push_dynamic(name, Dynamic::UNIT);
    }
    scope
}

pub(super) fn compile(
    text: &str,
    limits: Limits,
    folder: Option<&Path>,
) -> Result<Script, ScriptError> {
    let mut engine = new_engine(&limits);
    let ast = engine
        .compile_with_scope(&declared(), text)
        .map_err(|error| ScriptError::parse(&error, None))?;
    let mut mentioned = Mentioned::default();
    inspect(&ast, &mut mentioned, None)?;
    let imports = import::resolve(&mut engine, &ast, folder, &limits, &mut mentioned)?;
    register_names(&mut engine, std::mem::take(&mut mentioned.properties));
    let moves = moves::may_move(&ast);
    // What an imported function does is not looked into: it may skip.
    let skips = moves::may_skip(&ast) || !imports.is_empty();
    let unknown = unknown_calls(&ast);
    let steps = Steps::of(&ast, &limits);
    let resolved = Resolved::default();
    Ok(Script { engine, ast, limits, imports, mentioned, moves, skips, unknown, steps, resolved })
}

/// Calls of functions that neither the language, nor mongosync, nor the script has.
fn unknown_calls(ast: &AST) -> Vec<UnknownCall> {
    // A map may hold a function, and a variable may be one.
    let mut own: BTreeSet<String> =
        ast.iter_functions().map(|function| function.name.to_owned()).collect();
    let mut calls: Vec<(String, Position)> = Vec::new();
    ast.walk(&mut |path| {
        match path.last() {
            Some(
                ASTNode::Expr(Expr::FnCall(call, position) | Expr::MethodCall(call, position))
                | ASTNode::Stmt(Stmt::FnCall(call, position)),
            ) if call.op_token.is_none() && call.namespace.is_empty() => {
                calls.push((call.name.to_string(), *position));
            }
            Some(ASTNode::Expr(Expr::Property(property, _))) => {
                own.insert(property.2.to_string());
            }
            Some(ASTNode::Expr(Expr::Map(map, _))) => {
                own.extend(map.0.iter().map(|(name, _)| name.name.to_string()));
            }
            Some(ASTNode::Expr(Expr::DynamicConstant(value, _))) => {
                if let Some(map) = value.read_lock::<rhai::Map>() {
                    own.extend(map.keys().map(ToString::to_string));
                }
            }
            Some(ASTNode::Stmt(Stmt::Var(definition, ..))) => {
                own.insert(definition.0.name.to_string());
            }
            _ => {}
        }
        true
    });
    let is_known = |name: &str| {
        own.contains(name)
            || functions::standard::NAMES.contains(&name)
            || functions::reference::FUNCTIONS.iter().any(|function| function.name == name)
            // Names that the language makes for itself.
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    calls.retain(|(name, _)| !is_known(name));
    let place = |(name, position): (String, Position)| UnknownCall {
        name,
        line: position.line(),
        column: position.position(),
    };
    calls.into_iter().map(place).collect()
}

/// What a script and the files that it imports mention by name.
#[derive(Default)]
pub(super) struct Mentioned {
    /// Properties, such as `doc.price`.
    properties: BTreeSet<ImmutableString>,
    /// Functions that are called; those without arguments with `()` behind the name.
    calls: BTreeSet<String>,
    event: bool,
    meta: bool,
    /// A function that reads the source.
    lookup: bool,
}

/// Adds what a script mentions.
///
/// # Errors
/// Where the script makes a variable that hides one of those in scope.
pub(super) fn inspect(
    ast: &AST,
    mentioned: &mut Mentioned,
    file: Option<&Path>,
) -> Result<(), ScriptError> {
    let mut hidden = None;
    ast.walk(&mut |path| {
        mentioned.lookup |= path.last().is_some_and(names_lookup);
        match path.last() {
            Some(ASTNode::Expr(Expr::Property(property, _))) => {
                mentioned.properties.insert(property.2.clone());
            }
            Some(ASTNode::Expr(Expr::FnCall(call, _)) | ASTNode::Stmt(Stmt::FnCall(call, _))) => {
                let ending = if call.args.is_empty() { "()" } else { "" };
                mentioned.calls.insert(format!("{}{ending}", call.name));
            }
            Some(ASTNode::Expr(Expr::Variable(variable, ..))) => {
                mentioned.event |= variable.1 == "event";
                mentioned.meta |= variable.1 == "meta";
            }
            Some(ASTNode::Stmt(Stmt::Var(definition, ..))) => {
                let ident = &definition.0;
                if NAMES.contains(&ident.name.as_str()) {
                    hidden.get_or_insert((ident.name.to_string(), ident.pos));
                }
            }
            _ => {}
        }
        true
    });
    match hidden {
        Some((name, position)) => Err(ScriptError::at(
            format!("a variable can't be called {name}: that is what the script is given"),
            position,
            file,
        )),
        None => Ok(()),
    }
}

/// Whether a function that reads the source is called here, or pointed to.
fn names_lookup(node: &ASTNode<'_>) -> bool {
    let known = |name: &str| functions::source::NAMES.contains(&name);
    // `Fn(name)`, of a name that is a constant of its own.
    let is_text = matches!(node, ASTNode::Expr(Expr::StringConstant(text, _)) if known(text));
    is_text || moves::names(node, &known)
}

fn register_names(engine: &mut Engine, names: BTreeSet<ImmutableString>) {
    for name in names {
        let field = name.clone();
        engine.register_get(name.as_str(), move |view: &mut View| view.get(&field));
        let field = name.clone();
        engine.register_set(name.as_str(), move |view: &mut View, value: Dynamic| {
            view.set(&field, value)
        });
    }
}

pub(super) fn run(script: &Script, input: Input<'_>) -> Result<Outcome, ScriptError> {
    let limits = &script.limits;
    let mut scope = Scope::new();
    let many = script.steps.look_for_many();
    let view = input
        .document
        .map(|document| View::of_document(document.bytes().clone(), limits.map, many));
    if view.is_none() {
        scope.push_dynamic("doc", Dynamic::UNIT);
    }
    if script.mentioned.event {
        let event = EventValue::new(&input.event, limits.map)
            .map_err(|error| ScriptError::run(*error, limits, None))?;
        scope.push_constant("event", event);
    }
    if script.mentioned.meta {
        scope.push("meta", MetaValue::default());
    }
    let mut hands = Hands { scope: &mut scope, view };
    let mut run = || script.evaluate(&mut hands);
    let ran = match script.mentioned.lookup {
        true => lookup::with(input.reads.cloned(), &mut run),
        false => run(),
    };
    if let Err(error) = ran {
        return match ended(*error) {
            Ok(ended) => Ok(ended.outcome()),
            Err(error) => Err(ScriptError::run(error, limits, None)),
        };
    }
    outcome::of(&hands, input.document, input.event.happened.is_some(), script.moves)
        .map_err(|error| ScriptError::run(*error, limits, None))
}

/// Whether an error is the end that the script asked for, however deep in calls it did.
fn ended(error: EvalAltResult) -> Result<Ended, EvalAltResult> {
    match error {
        EvalAltResult::ErrorInFunctionCall(name, source, inner, position) => {
            ended(*inner).map_err(|inner| {
                EvalAltResult::ErrorInFunctionCall(name, source, inner.into(), position)
            })
        }
        EvalAltResult::ErrorTerminated(token, position) => {
            token.try_cast_result().map_err(|token| EvalAltResult::ErrorTerminated(token, position))
        }
        error => Err(error),
    }
}

/// What a function that is taken away says.
pub(super) fn forbid(engine: &mut Engine) {
    fn refused() -> Box<EvalAltResult> {
        refuse("a script can't sleep")
    }
    engine.register_fn("sleep", |_: i64| -> Result<(), Box<EvalAltResult>> { Err(refused()) });
    engine.register_fn("sleep", |_: f64| -> Result<(), Box<EvalAltResult>> { Err(refused()) });
}
