//! Whether a script may give a document another place, or leave the target as it is: decided from its
//! text, when it is compiled.
//!
//! The answer is used to leave out a read of where the document lay before, so a wrong "no" would
//! leave a copy behind in the target. So every mention of `doc` has to be one of the few that are
//! known to be harmless; whatever is not known moves.

use rhai::{AST, ASTNode, BinaryExpr, Dynamic, Expr, FnCallExpr, FnPtr, Stmt};

/// Methods that read `doc`.
const READS: [&str; 11] = [
    "contains",
    "is_null",
    "get",
    "len",
    "is_empty",
    "keys",
    "values",
    "to_map",
    "to_string",
    "to_json",
    "type_of",
];
/// Methods that write the field that their first argument names.
const WRITES: [&str; 2] = ["set", "remove"];
/// Functions and operators that read their arguments.
const TAKES: [&str; 11] = [
    "to_json",
    "type_of",
    "print",
    "debug",
    "to_string",
    "to_debug",
    "==",
    "!=",
    "contains",
    "!",
    "is_null",
];

/// Whether a run may change `_id`, make several documents or set `meta`.
pub(super) fn may_move(ast: &AST) -> bool {
    let own: Vec<String> = ast.iter_functions().map(|function| function.name.to_owned()).collect();
    let known = |name: &str| !own.iter().any(|function| function == name);
    let mut harmless = true;
    ast.walk(&mut |path| {
        let (node, above) = path.split_last().expect("a path has its node");
        harmless &= match node {
            ASTNode::Expr(Expr::Variable(variable, ..)) => match variable.1.as_str() {
                "meta" => false,
                "doc" => is_harmless(node, above, &known),
                _ => true,
            },
            // Only the script as a whole has no caller; in a function `this` may be the document.
            ASTNode::Stmt(Stmt::Share(names)) => names.iter().all(|(name, _)| name.name != "doc"),
            _ => true,
        };
        harmless
    });
    !harmless
}

/// Whether a run may call `skip()`, by its name or by a function pointer.
pub(super) fn may_skip(ast: &AST) -> bool {
    may_call(ast, &|name| name == "skip")
}

/// Whether a run may call a function of such a name, of its own or by a function pointer. Never falsely
/// false.
pub(super) fn may_call(ast: &AST, is: &dyn Fn(&str) -> bool) -> bool {
    let mut calls = false;
    ast.walk(&mut |path| {
        calls |= path.last().is_some_and(|node| names(node, is));
        if let Some(
            ASTNode::Expr(Expr::FnCall(call, _) | Expr::MethodCall(call, _))
            | ASTNode::Stmt(Stmt::FnCall(call, _)),
        ) = path.last()
        {
            // `Fn(name)` makes a pointer to whatever the name says.
            calls |= call.name == "Fn";
        }
        !calls
    });
    calls
}

/// Whether a function of such a name is called here, or pointed to.
pub(super) fn names(node: &ASTNode<'_>, is: &dyn Fn(&str) -> bool) -> bool {
    match node {
        ASTNode::Expr(Expr::FnCall(call, _) | Expr::MethodCall(call, _))
        | ASTNode::Stmt(Stmt::FnCall(call, _)) => is(&call.name),
        ASTNode::Expr(Expr::DynamicConstant(value, _)) => holds(value, is),
        _ => false,
    }
}

/// Whether a constant points to such a function, or what lies in it: the parser makes one of
/// `Fn("name")`, and then of `[Fn("name")]`.
fn holds(value: &Dynamic, is: &dyn Fn(&str) -> bool) -> bool {
    if let Some(pointer) = value.read_lock::<FnPtr>() {
        return is(pointer.fn_name()) || pointer.curry().iter().any(|value| holds(value, is));
    }
    if let Ok(array) = value.as_array_ref() {
        return array.iter().any(|value| holds(value, is));
    }
    value.as_map_ref().is_ok_and(|map| map.values().any(|value| holds(value, is)))
}

fn is_harmless(node: &ASTNode<'_>, above: &[ASTNode<'_>], known: &impl Fn(&str) -> bool) -> bool {
    let ASTNode::Expr(doc) = node else { return false };
    let Some((parent, higher)) = above.split_last() else { return true };
    let is_doc = |expr: &Expr| std::ptr::eq(expr, *doc);
    match parent {
        ASTNode::Expr(chain @ (Expr::Dot(parts, ..) | Expr::Index(parts, ..)))
            if is_doc(&parts.lhs) =>
        {
            let assigned = higher.last().is_some_and(|node| match node {
                ASTNode::Stmt(Stmt::Assignment(assignment)) => {
                    std::ptr::eq(&assignment.1.lhs, *chain)
                }
                _ => false,
            });
            chain_is_harmless(chain, parts, assigned, known)
        }
        // As an index or within a method's arguments it is copied, but those are seldom and odd.
        ASTNode::Expr(Expr::Dot(..) | Expr::Index(..) | Expr::MethodCall(..)) => false,
        ASTNode::Expr(Expr::FnCall(call, _)) | ASTNode::Stmt(Stmt::FnCall(call, _)) => {
            !call.is_qualified() && TAKES.contains(&call.name.as_str()) && known(&call.name)
        }
        ASTNode::Expr(
            Expr::InterpolatedString(..)
            | Expr::And(..)
            | Expr::Or(..)
            | Expr::Coalesce(..)
            | Expr::Array(..)
            | Expr::Map(..),
        ) => true,
        ASTNode::Stmt(Stmt::Assignment(assignment)) => is_doc(&assignment.1.rhs),
        ASTNode::Stmt(
            Stmt::Var(..) | Stmt::If(..) | Stmt::Switch(..) | Stmt::For(..) | Stmt::Expr(..),
        ) => true,
        _ => false,
    }
}

/// `doc.…` and `doc[…]`.
fn chain_is_harmless(
    chain: &Expr,
    parts: &BinaryExpr,
    assigned: bool,
    known: &impl Fn(&str) -> bool,
) -> bool {
    let (first, ends) = match (&parts.rhs, is_last(chain)) {
        (Expr::Dot(rest, ..) | Expr::Index(rest, ..), false) => (&rest.lhs, false),
        (last, _) => (last, true),
    };
    match (chain, first) {
        (Expr::Dot(..), Expr::Property(property, _)) => property.2 != "_id" || (ends && !assigned),
        (Expr::Dot(..), Expr::MethodCall(call, _)) => call_is_harmless(call, known),
        (Expr::Index(..), Expr::StringConstant(name, _)) => name != "_id" || (ends && !assigned),
        _ => false,
    }
}

/// Whether what stands on the right of a chain is one index and not a chain that goes on.
fn is_last(chain: &Expr) -> bool {
    match chain {
        Expr::Dot(_, options, _) | Expr::Index(_, options, _) => {
            options.contains(rhai::ASTFlags::BREAK)
        }
        _ => true,
    }
}

fn call_is_harmless(call: &FnCallExpr, known: &impl Fn(&str) -> bool) -> bool {
    let name = call.name.as_str();
    let elsewhere = |at: usize| match call.args.get(at) {
        Some(Expr::StringConstant(path, _)) => path.split('.').next() != Some("_id"),
        _ => false,
    };
    if !known(name) || call.is_qualified() {
        return false;
    }
    READS.contains(&name)
        || (WRITES.contains(&name) && elsewhere(0))
        || (name == "rename" && elsewhere(0) && elsewhere(1))
}
