//! Statements that need no interpreter.
//!
//! Most scripts set fields to what can be made of other fields. Such a statement is turned, once, into what
//! it does to the document's bytes, and costs a fraction of what the interpreter takes for it: fields are
//! read where they lie, without making the engine's values of them.
//!
//! The document is in this one's hands until a statement comes that needs the engine, which then has it in
//! its scope.
//!
//! Nothing is decided here that the engine would decide otherwise. What a statement meets that is not
//! known here, be it a type, a number that does not fit or a field of nothing, is left to the engine,
//! which then runs that one statement on the same state: nothing is written before all that the statement
//! needs is known. So every error is the engine's, with its words and its place.
//!
//! Source of what operators do: Rhai's `get_builtin_binary_op_fn` (`src/func/builtin.rs`).

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;
use rhai::{
    AST, ASTFlags, ASTNode, Dynamic, EvalAltResult, Expr, FnCallExpr, ImmutableString, Scope, Stmt,
    Token,
};

use super::{
    Limits, moves,
    outcome::Ended,
    raw::{self, kind},
    value,
    view::{Found, Held, Name, Tag, View},
};

/// What the document is called.
const DOC: &str = "doc";

type Ran = Result<(), Box<EvalAltResult>>;

/// What one run does, in order.
pub(super) struct Steps {
    steps: Vec<Step>,
    /// Whether several fields are looked for, for all that is known.
    many: bool,
}

/// What one run works on.
pub(super) struct Hands<'s> {
    /// With what the engine knows.
    pub scope: &'s mut Scope<'static>,
    /// The document, while the engine does not have it.
    pub view: Option<View>,
}

impl Hands<'_> {
    /// The document. `None` where that is no document any more, or the script shares it.
    fn view(&mut self) -> Option<&mut View> {
        if self.view.is_none() {
            let doc = self.scope.get_mut(DOC).filter(|doc| doc.is::<View>() && !doc.is_shared())?;
            self.view = std::mem::take(doc).try_cast::<View>();
        }
        self.view.as_mut()
    }

    /// Gives the document to the engine.
    pub fn hand_over(&mut self) {
        let Some(view) = self.view.take() else { return };
        let view = Dynamic::from(view);
        match self.scope.get_mut(DOC) {
            Some(doc) => *doc = view,
            None => {
                self.scope.push_dynamic(DOC, view);
            }
        }
    }
}

enum Step {
    Direct(Direct),
    /// Statements that follow one another, by their places in the script.
    Interpreted(Range<usize>),
}

/// A statement that is carried out here.
struct Direct {
    /// For the engine, where it is left to it.
    statement: Stmt,
    action: Action,
}

enum Action {
    /// `doc.name = value`
    Set(Name, Value),
    /// `doc.remove("name")`
    Remove(ImmutableString, Name),
    /// `if condition { … } else { … }`
    If(Value, Vec<Direct>, Vec<Direct>),
    /// `remove()` or `skip()`
    End(Ended),
}

/// An expression.
enum Value {
    Constant(Constant),
    /// `doc.a.b`: `a`, and what comes behind it.
    Field((ImmutableString, Tag), Vec<ImmutableString>),
    /// A variable that the script has made.
    Variable(ImmutableString),
    Binary(Operator, Box<[Value; 2]>),
    All(Vec<Value>),
    Any(Vec<Value>),
    Not(Box<Value>),
    /// `a ?? b`
    First(Vec<Value>),
    /// A text with expressions in it.
    Text(Vec<Value>),
}

/// What stands in the script itself. Not the engine's own values, whose owners all threads would count
/// together with each document.
enum Constant {
    Unit,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Box<str>),
}

impl Constant {
    fn get(&self) -> Scalar<'_> {
        match self {
            Self::Unit => Scalar::Unit,
            Self::Bool(value) => Scalar::Bool(*value),
            Self::Int(value) => Scalar::Int(*value),
            Self::Float(value) => Scalar::Float(*value),
            Self::Text(text) => Scalar::Text(Text::Stored(text)),
        }
    }
}

#[derive(Clone, Copy)]
enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

impl Steps {
    /// How a script is run.
    pub fn of(ast: &AST, limits: &Limits) -> Self {
        let all = ast.statements();
        if !may_be_cut(ast) {
            return Self::none(ast);
        }
        let mut steps = Vec::new();
        for (at, statement) in all.iter().enumerate() {
            match (Direct::of(statement), steps.last_mut()) {
                (Some(direct), _) => steps.push(Step::Direct(direct)),
                (None, Some(Step::Interpreted(range))) => range.end = at + 1,
                (None, _) => steps.push(Step::Interpreted(at..at + 1)),
            }
        }
        // What is carried out here is not counted: one script is far below any sensible limit.
        let mut nodes = 0;
        ast.walk(&mut |_| {
            nodes += 1;
            true
        });
        match nodes > limits.operations {
            true => Self::none(ast),
            false => {
                let many = !matches!(&*steps, [Step::Direct(direct)] if direct.looks_once());
                Self { steps, many }
            }
        }
    }

    /// Leaves all of it to the engine.
    pub fn none(ast: &AST) -> Self {
        let steps = vec![Step::Interpreted(0..ast.statements().len())];
        Self { steps, many: false }
    }

    /// Whether several fields of the document are looked for, for all that is known.
    pub fn look_for_many(&self) -> bool {
        self.many
    }

    /// Carries them out. `interpret` runs statements in the engine, each time going on from the state
    /// that the last time has left.
    pub fn run<'a>(
        &'a self,
        hands: &mut Hands<'_>,
        all: &'a [Stmt],
        limits: &Limits,
        interpret: &mut dyn FnMut(&mut Scope<'static>, &[Stmt]) -> Ran,
    ) -> Ran {
        for step in &self.steps {
            match step {
                Step::Direct(direct) => direct.run(hands, limits, interpret)?,
                Step::Interpreted(range) => {
                    hands.hand_over();
                    interpret(hands.scope, &all[range.clone()])?;
                }
            }
        }
        Ok(())
    }

    /// How many statements, at the outermost level, are left to the engine from the start.
    #[cfg(test)]
    pub fn interpreted(&self) -> usize {
        let count = |step: &Step| match step {
            Step::Direct(_) => 0,
            Step::Interpreted(range) => range.len(),
        };
        self.steps.iter().map(count).sum()
    }
}

/// Functions that are carried out here, or without a call.
const KNOWN: [&str; 3] = ["remove", "skip", "to_string"];

/// Whether statements may be run one by one. Not where one of them can end the script, which the engine
/// tells to nobody; nor where the script gives one of the names that are known here another meaning.
fn may_be_cut(ast: &AST) -> bool {
    let mut may = !ast.iter_functions().any(|function| KNOWN.contains(&function.name))
        && !moves::may_call(ast, &|name| name == "exit");
    for statement in ast.statements() {
        statement.walk(&mut Vec::new(), &mut |path| {
            may &= match path.last() {
                Some(ASTNode::Stmt(Stmt::Return(_, flags, _))) => flags.contains(ASTFlags::BREAK),
                _ => true,
            };
            true
        });
    }
    may
}

impl Direct {
    fn of(statement: &Stmt) -> Option<Self> {
        let action = match statement {
            Stmt::Assignment(assignment) if !assignment.0.is_op_assignment() => {
                let mut path = field(&assignment.1.lhs)?;
                let name = path.pop().filter(|_| path.is_empty())?;
                Action::Set(Name::of(&name), Value::of(&assignment.1.rhs)?)
            }
            Stmt::Expr(expression) => removal(expression)?,
            Stmt::FnCall(call, _) if is_plain(call) && call.args.is_empty() => {
                match call.name.as_str() {
                    "remove" => Action::End(Ended::Remove),
                    "skip" => Action::End(Ended::Skip),
                    _ => return None,
                }
            }
            Stmt::If(parts, _) => {
                let all = |block: &[Stmt]| block.iter().map(Self::of).collect::<Option<_>>();
                let condition = Value::of(&parts.expr)?;
                Action::If(
                    condition,
                    all(parts.body.statements())?,
                    all(parts.branch.statements())?,
                )
            }
            _ => return None,
        };
        Some(Self { statement: statement.clone(), action })
    }

    fn run(
        &self,
        hands: &mut Hands<'_>,
        limits: &Limits,
        interpret: &mut dyn FnMut(&mut Scope<'static>, &[Stmt]) -> Ran,
    ) -> Ran {
        match &self.action {
            Action::Set(name, value) => {
                if set(hands, limits, name, value).is_some() {
                    return Ok(());
                }
            }
            Action::Remove(text, name) => {
                if remove(hands, limits, text, name).is_some() {
                    return Ok(());
                }
            }
            Action::If(condition, then, otherwise) => {
                if let Some(met) = with_given(hands, limits, |given| condition.truth(given)) {
                    let branch = if met { then } else { otherwise };
                    return branch
                        .iter()
                        .try_for_each(|direct| direct.run(hands, limits, interpret));
                }
            }
            Action::End(ended) => return Err(ended.clone().error()),
        }
        hands.hand_over();
        interpret(hands.scope, std::slice::from_ref(&self.statement))
    }

    /// Whether it looks for one field of the document at the most.
    fn looks_once(&self) -> bool {
        match &self.action {
            Action::Set(_, value) => matches!(value, Value::Constant(_)),
            Action::Remove(..) | Action::End(_) => true,
            Action::If(condition, then, otherwise) => {
                condition.fields() <= 1
                    && then.iter().chain(otherwise).all(|it| matches!(it.action, Action::End(_)))
            }
        }
    }
}

fn set(hands: &mut Hands<'_>, limits: &Limits, name: &Name, value: &Value) -> Option<()> {
    let (held, depth) = with_given(hands, limits, |given| value.get(given)?.held(limits))?;
    hands.view()?.put(name, held, depth).ok()
}

fn remove(hands: &mut Hands<'_>, limits: &Limits, text: &str, name: &Name) -> Option<()> {
    let view = hands.view()?;
    let is_small = is_small(view.find(text, name.tag()).ok()?, limits);
    is_small.then(|| view.discard(name).ok()).flatten()
}

fn with_given<T>(
    hands: &mut Hands<'_>,
    limits: &Limits,
    work: impl FnOnce(&Given<'_>) -> Option<T>,
) -> Option<T> {
    hands.view()?;
    let Hands { scope, view } = hands;
    work(&Given { view: view.as_ref()?, scope, limits })
}

/// `doc.remove("name")`, of a field of the document itself.
fn removal(expression: &Expr) -> Option<Action> {
    let Expr::Dot(parts, ASTFlags::NONE, _) = expression else { return None };
    let (Expr::Variable(variable, ..), Expr::MethodCall(call, _)) = (&parts.lhs, &parts.rhs) else {
        return None;
    };
    match call.args.as_slice() {
        [Expr::StringConstant(name, _)]
            if variable.1 == "doc"
                && variable.2.is_empty()
                && is_plain(call)
                && call.name == "remove" =>
        {
            (!name.contains('.')).then(|| Action::Remove(name.clone(), Name::of(name)))
        }
        _ => None,
    }
}

/// Whether the engine, which looks into what a call gives back, would find nothing in it that passes a
/// limit. Arrays that nest too deep are larger than this.
fn is_small(found: Found<'_>, limits: &Limits) -> bool {
    const SMALL: usize = 800;
    let most = SMALL.min(limits.string).min(limits.array);
    match found {
        Found::Nothing => true,
        Found::Stored(kind::ARRAY, _, (start, end)) => end - start <= most,
        Found::Stored(kind::STRING, _, (start, end)) => end - start <= limits.string,
        Found::Stored(..) => true,
        Found::Set(value) => !is_sized(value, limits),
    }
}

/// Whether the engine would look into a value of its own, or its text is too long.
fn is_sized(value: &Dynamic, limits: &Limits) -> bool {
    let is_long = |text: &ImmutableString| text.len() > limits.string;
    value.is_array()
        || value.is_map()
        || value.is_blob()
        || value.read_lock::<ImmutableString>().is_some_and(|text| is_long(&text))
}

fn is_plain(call: &FnCallExpr) -> bool {
    call.namespace.is_empty() && call.op_token.is_none() && !call.capture_parent_scope
}

/// The names in `doc.a.b`.
fn field(expression: &Expr) -> Option<Vec<ImmutableString>> {
    let Expr::Dot(parts, ASTFlags::NONE, _) = expression else { return None };
    let Expr::Variable(variable, ..) = &parts.lhs else { return None };
    if variable.1 != "doc" || !variable.2.is_empty() {
        return None;
    }
    let mut names = Vec::new();
    let mut rest = &parts.rhs;
    loop {
        match rest {
            Expr::Property(property, _) => {
                names.push(property.2.clone());
                return Some(names);
            }
            Expr::Dot(parts, ASTFlags::NONE, _) => {
                let Expr::Property(property, _) = &parts.lhs else { return None };
                names.push(property.2.clone());
                rest = &parts.rhs;
            }
            _ => return None,
        }
    }
}

impl Value {
    fn of(expression: &Expr) -> Option<Self> {
        let all = |items: &[Expr]| items.iter().map(Self::of).collect::<Option<Vec<_>>>();
        Some(match expression {
            Expr::BoolConstant(value, _) => Self::Constant(Constant::Bool(*value)),
            Expr::IntegerConstant(value, _) => Self::Constant(Constant::Int(*value)),
            Expr::FloatConstant(value, _) => Self::Constant(Constant::Float(**value)),
            Expr::StringConstant(text, _) => Self::Constant(Constant::Text(text.as_str().into())),
            Expr::Unit(_) => Self::Constant(Constant::Unit),
            Expr::Variable(variable, ..) if variable.2.is_empty() => {
                Self::Variable(variable.1.clone())
            }
            Expr::Dot(..) => {
                let mut path = field(expression)?;
                let first = path.remove(0);
                let tag = Tag::of(first.as_bytes());
                Self::Field((first, tag), path)
            }
            Expr::And(items, _) => Self::All(all(items)?),
            Expr::Or(items, _) => Self::Any(all(items)?),
            Expr::Coalesce(items, _) => Self::First(all(items)?),
            Expr::InterpolatedString(items, _) => Self::Text(all(items)?),
            Expr::FnCall(call, _) if call.namespace.is_empty() => {
                match (call.op_token.as_ref()?, call.args.as_slice()) {
                    (Token::Bang, [value]) => Self::Not(Box::new(Self::of(value)?)),
                    (token, [left, right]) => {
                        let sides = Box::new([Self::of(left)?, Self::of(right)?]);
                        Self::Binary(Operator::of(token)?, sides)
                    }
                    _ => return None,
                }
            }
            _ => return None,
        })
    }

    /// How many fields of the document it looks for, at the most.
    fn fields(&self) -> usize {
        match self {
            Self::Constant(_) | Self::Variable(_) => 0,
            Self::Field(..) => 1,
            Self::Binary(_, sides) => sides.iter().map(Self::fields).sum(),
            Self::Not(value) => value.fields(),
            Self::All(items) | Self::Any(items) | Self::First(items) | Self::Text(items) => {
                items.iter().map(Self::fields).sum()
            }
        }
    }

    /// What it comes to; `None` where that is left to the engine.
    fn get<'a>(&'a self, given: &Given<'a>) -> Option<Got<'a>> {
        match self {
            Self::Variable(name) => {
                // The document as a whole is not in the scope now.
                let value = given.scope.get(name).filter(|_| name != DOC)?;
                (!value.is_shared()).then_some(Got::Held(Cow::Borrowed(value)))
            }
            Self::Field(first, rest) => given.field(first, rest),
            Self::First(items) => {
                let mut last = Got::Plain(Scalar::Unit);
                for item in items {
                    last = item.get(given)?;
                    if !last.is_unit() {
                        break;
                    }
                }
                Some(last)
            }
            _ => self.scalar(given).map(Got::Plain),
        }
    }

    fn truth(&self, given: &Given<'_>) -> Option<bool> {
        match self.scalar(given)? {
            Scalar::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The same of what operators know.
    fn scalar<'a>(&'a self, given: &Given<'a>) -> Option<Scalar<'a>> {
        match self {
            Self::Constant(constant) => Some(constant.get()),
            Self::Variable(_) | Self::Field(..) | Self::First(_) => self.get(given)?.scalar(),
            Self::Binary(operator, sides) => {
                let (left, right) = (sides[0].scalar(given)?, sides[1].scalar(given)?);
                operator.apply(left, right, given.limits)
            }
            Self::All(items) => Self::until(items, false, given),
            Self::Any(items) => Self::until(items, true, given),
            Self::Not(value) => value.truth(given).map(|it| Scalar::Bool(!it)),
            Self::Text(items) => {
                let mut text = String::new();
                for item in items {
                    // The engine looks after each piece, and holds no more than one over it either.
                    if text.len() > given.limits.string {
                        return None;
                    }
                    match item.scalar(given)? {
                        Scalar::Text(more) => text.push_str(more.as_str()),
                        Scalar::Int(number) => {
                            text.push_str(itoa::Buffer::new().format(number));
                        }
                        _ => return None,
                    }
                }
                fits(text, given.limits)
            }
        }
    }

    /// Goes through conditions up to the first that is `end`.
    fn until<'a>(items: &'a [Self], end: bool, given: &Given<'a>) -> Option<Scalar<'a>> {
        for item in items {
            if item.truth(given)? == end {
                return Some(Scalar::Bool(end));
            }
        }
        Some(Scalar::Bool(!end))
    }
}

/// What expressions are made of.
struct Given<'a> {
    view: &'a View,
    scope: &'a Scope<'a>,
    limits: &'a Limits,
}

impl<'a> Given<'a> {
    fn field(
        &self,
        (first, tag): &(ImmutableString, Tag),
        rest: &[ImmutableString],
    ) -> Option<Got<'a>> {
        let found = self.view.find(first, *tag).ok()?;
        let mut got = match found {
            Found::Nothing => Got::Plain(Scalar::Unit),
            Found::Stored(kind, bytes, range) => Got::Stored(kind, bytes, range),
            Found::Set(value) => Got::Held(Cow::Borrowed(value)),
        };
        for name in rest {
            let Got::Stored(kind::DOCUMENT, bytes, (start, end)) = got else { return None };
            let found = raw::find(&bytes[start..end], name.as_bytes()).ok()?;
            got = match found {
                None => Got::Plain(Scalar::Unit),
                Some(it) => Got::Stored(it.kind, bytes, (start + it.value.0, start + it.value.1)),
            };
        }
        // The engine looks at how long a text is that it is given.
        let is_too_long = match &got {
            Got::Stored(kind::STRING, _, (start, end)) => end - start > self.limits.string,
            Got::Held(value) => is_sized(value, self.limits),
            _ => false,
        };
        (!is_too_long).then_some(got)
    }
}

/// A value as it was come by.
enum Got<'a> {
    /// It lies there in these bytes.
    Stored(u8, &'a Bytes, (usize, usize)),
    /// The engine's own.
    Held(Cow<'a, Dynamic>),
    Plain(Scalar<'a>),
}

/// What operators know.
enum Scalar<'a> {
    Unit,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Text<'a>),
}

enum Text<'a> {
    Stored(&'a str),
    Held(ImmutableString),
    Made(String),
}

impl Text<'_> {
    fn as_str(&self) -> &str {
        match self {
            Self::Stored(text) => text,
            Self::Held(text) => text.as_str(),
            Self::Made(text) => text,
        }
    }

    /// With more behind it: what was made here grows, mostly within the room that it has.
    fn and(self, more: &str) -> String {
        /// What mostly follows: another text, and what stands between the two.
        const ROOM: usize = 32;
        match self {
            Self::Made(mut text) => {
                text.push_str(more);
                text
            }
            Self::Stored(_) | Self::Held(_) => {
                let text = self.as_str();
                let mut all = String::with_capacity(text.len() + more.len() + ROOM);
                all.push_str(text);
                all.push_str(more);
                all
            }
        }
    }
}

impl<'a> Got<'a> {
    fn scalar(self) -> Option<Scalar<'a>> {
        match self {
            Self::Plain(scalar) => Some(scalar),
            Self::Stored(kind, bytes, (start, end)) => {
                let stored = &bytes[start..end];
                Some(match kind {
                    kind::STRING => Scalar::Text(Text::Stored(raw::text(stored)?)),
                    kind::INT32 | kind::INT64 => Scalar::Int(raw::integer(kind, stored)?),
                    kind::DOUBLE => Scalar::Float(f64::from_le_bytes(raw::fixed(stored))),
                    kind::BOOLEAN => Scalar::Bool(stored[0] != 0),
                    kind::NULL | kind::UNDEFINED => Scalar::Unit,
                    _ => return None,
                })
            }
            Self::Held(value) => Some(if value.is_unit() {
                Scalar::Unit
            } else if let Ok(value) = value.as_bool() {
                Scalar::Bool(value)
            } else if let Ok(value) = value.as_int() {
                Scalar::Int(value)
            } else if let Ok(value) = value.as_float() {
                Scalar::Float(value)
            } else {
                Scalar::Text(Text::Held(value.into_owned().into_immutable_string().ok()?))
            }),
        }
    }

    fn is_unit(&self) -> bool {
        match self {
            Self::Stored(kind, ..) => matches!(*kind, kind::NULL | kind::UNDEFINED),
            Self::Held(value) => value.is_unit(),
            Self::Plain(scalar) => matches!(scalar, Scalar::Unit),
        }
    }

    /// As a field holds it, and how deep that nests. Nothing whose size the engine would look into; texts
    /// as they are written, since few of them are looked at again.
    fn held(self, limits: &Limits) -> Option<(Held, usize)> {
        let value = match self {
            Self::Stored(kind::ARRAY, ..) => return None,
            Self::Stored(kind::STRING, bytes, (start, end)) => {
                let text = Bytes::copy_from_slice(&bytes[start..end]);
                return Some((Held::Stored(kind::STRING, text), 1));
            }
            Self::Stored(kind, bytes, range) => value::read(kind, bytes, range, limits.map).ok()?,
            Self::Held(value) => value.into_owned(),
            Self::Plain(Scalar::Unit) => Dynamic::UNIT,
            Self::Plain(Scalar::Bool(value)) => Dynamic::from_bool(value),
            Self::Plain(Scalar::Int(value)) => Dynamic::from_int(value),
            Self::Plain(Scalar::Float(value)) => Dynamic::from_float(value),
            Self::Plain(Scalar::Text(Text::Held(text))) => text.into(),
            Self::Plain(Scalar::Text(text)) => {
                let text = text.as_str();
                if text.len() > limits.string {
                    return None;
                }
                let mut stored = Vec::with_capacity(text.len() + 5);
                value::write_text(text, &mut stored).ok()?;
                return Some((Held::Stored(kind::STRING, stored.into()), 1));
            }
        };
        if is_sized(&value, limits) {
            return None;
        }
        let depth = 1 + value::depth(&value).ok()?;
        Some((Held::Set(value), depth))
    }
}

fn fits<'a>(text: String, limits: &Limits) -> Option<Scalar<'a>> {
    (text.len() <= limits.string).then_some(Scalar::Text(Text::Made(text)))
}

impl Operator {
    fn of(token: &Token) -> Option<Self> {
        Some(match token {
            Token::Plus => Self::Add,
            Token::Minus => Self::Subtract,
            Token::Multiply => Self::Multiply,
            Token::Divide => Self::Divide,
            Token::Modulo => Self::Remainder,
            Token::EqualsTo => Self::Equal,
            Token::NotEqualsTo => Self::Unequal,
            Token::LessThan => Self::Less,
            Token::LessThanEqualsTo => Self::LessOrEqual,
            Token::GreaterThan => Self::More,
            Token::GreaterThanEqualsTo => Self::MoreOrEqual,
            _ => return None,
        })
    }

    fn apply<'a>(self, left: Scalar<'_>, right: Scalar<'_>, limits: &Limits) -> Option<Scalar<'a>> {
        match (left, right) {
            (Scalar::Int(left), Scalar::Int(right)) => self.of_ints(left, right),
            (Scalar::Float(left), Scalar::Float(right)) => Some(self.of_floats(left, right)),
            (Scalar::Float(left), Scalar::Int(right)) => Some(self.of_floats(left, right as f64)),
            (Scalar::Int(left), Scalar::Float(right)) => Some(self.of_floats(left as f64, right)),
            (Scalar::Text(left), Scalar::Text(right)) => match self {
                Self::Add => fits(left.and(right.as_str()), limits),
                _ => self.of_ordered(left.as_str(), right.as_str()),
            },
            (Scalar::Bool(left), Scalar::Bool(right)) => self.of_ordered(&left, &right),
            (Scalar::Unit, Scalar::Unit) => match self {
                Self::Equal => Some(Scalar::Bool(true)),
                _ => self.of_strangers(),
            },
            // The engine does not know these two together: never equal, and in no order.
            _ => match self {
                Self::Unequal => Some(Scalar::Bool(true)),
                _ => self.of_strangers(),
            },
        }
    }

    fn of_ints<'a>(self, left: i64, right: i64) -> Option<Scalar<'a>> {
        let result = match self {
            Self::Add => left.checked_add(right),
            Self::Subtract => left.checked_sub(right),
            Self::Multiply => left.checked_mul(right),
            Self::Divide => left.checked_div(right),
            Self::Remainder => left.checked_rem(right),
            _ => return self.of_ordered(&left, &right),
        };
        result.map(Scalar::Int)
    }

    /// Floats that are all but equal are equal to the engine.
    fn of_floats<'a>(self, left: f64, right: f64) -> Scalar<'a> {
        let largest = match left * right == 0.0 {
            true => 1.0,
            false => left.abs().max(right.abs()),
        };
        let (apart, near) = ((left - right) / largest, f64::EPSILON);
        let is = match self {
            Self::Add => return Scalar::Float(left + right),
            Self::Subtract => return Scalar::Float(left - right),
            Self::Multiply => return Scalar::Float(left * right),
            Self::Divide => return Scalar::Float(left / right),
            Self::Remainder => return Scalar::Float(left % right),
            Self::Equal => (left - right).abs() / largest <= near,
            Self::Unequal => (left - right).abs() / largest > near,
            Self::Less => (right - left) / largest > near,
            Self::LessOrEqual => (right - left) / largest > -near,
            Self::More => apart > near,
            Self::MoreOrEqual => apart > -near,
        };
        Scalar::Bool(is)
    }

    fn of_ordered<'a, T: Ord + ?Sized>(self, left: &T, right: &T) -> Option<Scalar<'a>> {
        Some(Scalar::Bool(match self {
            Self::Equal => left == right,
            Self::Unequal => left != right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::More => left > right,
            Self::MoreOrEqual => left >= right,
            _ => return None,
        }))
    }

    /// What the engine answers where it compares what can't be compared.
    fn of_strangers<'a>(self) -> Option<Scalar<'a>> {
        match self {
            Self::Add | Self::Subtract | Self::Multiply | Self::Divide | Self::Remainder => None,
            _ => Some(Scalar::Bool(false)),
        }
    }
}
