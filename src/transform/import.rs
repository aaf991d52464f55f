//! `import`: files beside the rule file, read and compiled when the script is.
//!
//! At run time no file is read: an import finds the compiled module. Paths are texts in the script,
//! relative to the rule file's folder wherever they stand, and stay in it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

use rhai::{
    AST, ASTNode, Engine, Expr, Module, Position, Scope, Stmt,
    module_resolvers::StaticModuleResolver,
};

use super::{
    Limits, ScriptError,
    engine::{self, Mentioned},
};

struct Imports<'a> {
    engine: &'a mut Engine,
    limits: &'a Limits,
    folder: Option<PathBuf>,
    mentioned: &'a mut Mentioned,
    resolver: StaticModuleResolver,
    done: BTreeSet<String>,
    files: Vec<PathBuf>,
    /// The files that import each other down to the present one.
    open: Vec<PathBuf>,
}

/// Compiles what the script imports, directly or not, and lets the engine find it. Adds what is
/// mentioned there. Gives the files.
pub(super) fn resolve(
    engine: &mut Engine,
    ast: &AST,
    folder: Option<&Path>,
    limits: &Limits,
    mentioned: &mut Mentioned,
) -> Result<Vec<PathBuf>, ScriptError> {
    let mut imports = Imports {
        engine,
        limits,
        folder: folder.map(Path::to_owned),
        mentioned,
        resolver: StaticModuleResolver::new(),
        done: BTreeSet::new(),
        files: Vec::new(),
        open: Vec::new(),
    };
    imports.follow(ast, None)?;
    let Imports { engine, resolver, files, .. } = imports;
    engine.set_module_resolver(resolver);
    Ok(files)
}

/// The paths that a script imports.
fn paths(ast: &AST, file: Option<&Path>) -> Result<Vec<(String, Position)>, ScriptError> {
    let (mut paths, mut odd) = (Vec::new(), None);
    ast.walk(&mut |nodes| {
        if let Some(ASTNode::Stmt(Stmt::Import(import, position))) = nodes.last() {
            match &import.0 {
                Expr::StringConstant(path, _) => paths.push((path.to_string(), *position)),
                _ => odd = Some(*position),
            }
        }
        odd.is_none()
    });
    match odd {
        None => Ok(paths),
        Some(position) => {
            Err(ScriptError::at("what is imported has to be a text as it stands", position, file))
        }
    }
}

impl Imports<'_> {
    fn follow(&mut self, ast: &AST, file: Option<&Path>) -> Result<(), ScriptError> {
        for (path, position) in paths(ast, file)? {
            if !self.done.contains(&path) {
                self.import(&path, position, file)?;
                self.done.insert(path);
            }
        }
        Ok(())
    }

    fn import(
        &mut self,
        path: &str,
        position: Position,
        from: Option<&Path>,
    ) -> Result<(), ScriptError> {
        let fail = |words: String| ScriptError::at(words, position, from);
        let found = locate(self.folder.as_deref(), path).map_err(fail)?;
        if self.open.contains(&found) {
            return Err(fail(format!("{path} imports itself, directly or through another file")));
        }
        let text = fs::read_to_string(&found)
            .map_err(|error| fail(format!("{path} can't be read: {error}")))?;
        let mut ast =
            self.engine.compile(&text).map_err(|error| ScriptError::parse(&error, Some(&found)))?;
        ast.set_source(found.to_string_lossy().as_ref());
        engine::inspect(&ast, self.mentioned, Some(&found))?;
        self.open.push(found.clone());
        self.follow(&ast, Some(&found))?;
        self.open.pop();
        self.engine.set_module_resolver(self.resolver.clone());
        let module = Module::eval_ast_as_new(Scope::new(), &ast, self.engine)
            .map_err(|error| ScriptError::run(*error, self.limits, Some(&found)))?;
        self.resolver.insert(path, module);
        if !self.files.contains(&found) {
            self.files.push(found);
        }
        Ok(())
    }
}

/// The file that a path names.
fn locate(folder: Option<&Path>, path: &str) -> Result<PathBuf, String> {
    let folder = folder
        .ok_or_else(|| format!("{path} can't be imported: the rules are not read from a file"))?;
    let inside = !path.is_empty()
        && !path.contains(['\\', '\0'])
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if !inside {
        return Err(format!("{path} can't be imported: it is not a path below the rule file"));
    }
    let file = match Path::new(path).extension() {
        Some(extension) if extension == "rhai" => path.to_owned(),
        _ => format!("{path}.rhai"),
    };
    let missing = |error: std::io::Error| format!("{file} can't be imported: {error}");
    // A rule file that is named without a folder lies in this one.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let folder = folder.canonicalize().map_err(missing)?;
    let found = folder.join(&file).canonicalize().map_err(missing)?;
    if !found.starts_with(&folder) {
        return Err(format!("{file} can't be imported: it lies outside the rule file's folder"));
    }
    Ok(found)
}
