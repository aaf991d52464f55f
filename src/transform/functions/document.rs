//! What can be done with a document as a whole, and how a script ends.

use rhai::{Array, Dynamic, EvalAltResult, ImmutableString, Map, Module};

use super::{indexer, json, method, pure, set_indexer};
use crate::transform::{
    failure::{Answer, refuse},
    outcome::Ended,
    raw,
    value::{self, Other},
    view::{View, malformed},
};

pub(super) fn register(module: &mut Module) {
    module.set_custom_type::<View>("document");
    indexer(module, |view: &mut View, name: ImmutableString| view.get(&name));
    set_indexer(module, |view: &mut View, name: ImmutableString, value: Dynamic| {
        view.set(&name, value)
    });
    pure(module, "contains", |view: &mut View, name: ImmutableString| view.contains(&name));
    pure(module, "is_null", |view: &mut View, name: ImmutableString| view.is_null(&name));
    pure(module, "get", |view: &mut View, path: ImmutableString| get(view, &path));
    pure(module, "len", |view: &mut View| view.names().map(|names| names.len() as i64));
    pure(module, "is_empty", |view: &mut View| view.names().map(|names| names.is_empty()));
    pure(module, "keys", |view: &mut View| -> Answer<Array> {
        Ok(view.names()?.into_iter().map(Dynamic::from).collect())
    });
    pure(module, "values", |view: &mut View| -> Answer<Array> {
        view.names()?.iter().map(|name| view.get(name)).collect()
    });
    pure(module, "to_map", |view: &mut View| to_map(view));
    pure(module, "to_string", |view: &mut View| json::of(&Dynamic::from(view.clone())));
    pure(module, "to_debug", |view: &mut View| json::of(&Dynamic::from(view.clone())));
    pure(module, "type_of_field", |view: &mut View, name: ImmutableString| -> Answer<String> {
        if !view.contains(&name)? {
            return Ok("missing".to_owned());
        }
        Ok(raw::name(value::stored(&view.get(&name)?)?.0).to_owned())
    });
    method(module, "set", |view: &mut View, path: ImmutableString, value: Dynamic| {
        set(view, &path, value)
    });
    method(module, "remove", |view: &mut View, path: ImmutableString| remove(view, &path));
    method(module, "rename", |view: &mut View, from: ImmutableString, to: ImmutableString| {
        view.rename(&from, &to)
    });
    for name in ["mixin", "+="] {
        method(module, name, |view: &mut View, map: Map| merge(view, map));
        method(module, name, |view: &mut View, other: View| -> Answer<()> {
            for name in other.names()? {
                view.set(&name, other.get(&name)?)?;
            }
            Ok(())
        });
    }
    register_equality(module);
    module.set_iter_result(std::any::TypeId::of::<View>(), |value| {
        let view = value.cast::<View>();
        let names = view.names();
        match names {
            Err(error) => Box::new(std::iter::once(Err(error))),
            Ok(names) => Box::new(names.into_iter().map(move |name| {
                let mut field = Map::new();
                field.insert("value".into(), view.get(&name)?);
                field.insert("name".into(), name.into());
                Ok(Dynamic::from_map(field))
            })),
        }
    });
    register_ends(module);
}

fn register_equality(module: &mut Module) {
    pure(module, "==", |a: View, b: View| equal(&Dynamic::from(a), &Dynamic::from(b)));
    pure(module, "!=", |a: View, b: View| {
        equal(&Dynamic::from(a), &Dynamic::from(b)).map(|equal| !equal)
    });
    pure(module, "==", |a: View, b: Map| equal(&Dynamic::from(a), &Dynamic::from(b)));
    pure(module, "!=", |a: View, b: Map| {
        equal(&Dynamic::from(a), &Dynamic::from(b)).map(|equal| !equal)
    });
    pure(module, "==", |a: Map, b: View| equal(&Dynamic::from(a), &Dynamic::from(b)));
    pure(module, "!=", |a: Map, b: View| {
        equal(&Dynamic::from(a), &Dynamic::from(b)).map(|equal| !equal)
    });
    module.set_custom_type::<Other>("bson value");
    pure(module, "==", |a: Other, b: Other| a == b);
    pure(module, "!=", |a: Other, b: Other| a != b);
    pure(module, "to_string", |other: &mut Other| other.to_string());
    pure(module, "to_debug", |other: &mut Other| other.to_string());
    super::getter(module, "kind", |other: &mut Other| raw::name(other.kind).to_owned());
    super::getter(module, "pattern", |other: &mut Other| {
        other.regex().map_or(Dynamic::UNIT, |(pattern, _)| super::text(pattern))
    });
    super::getter(module, "options", |other: &mut Other| {
        other.regex().map_or(Dynamic::UNIT, |(_, options)| super::text(options))
    });
    super::getter(module, "text", |other: &mut Other| {
        other.text().map_or(Dynamic::UNIT, super::text)
    });
}

fn register_ends(module: &mut Module) {
    pure(module, "remove", || -> Result<(), Box<EvalAltResult>> { Err(Ended::Remove.error()) });
    pure(module, "skip", || -> Result<(), Box<EvalAltResult>> { Err(Ended::Skip.error()) });
    pure(module, "fail", |words: ImmutableString| -> Result<(), Box<EvalAltResult>> {
        Err(Ended::Failed(words.to_string()).error())
    });
    pure(module, "log_info", |text: ImmutableString| {
        tracing::info!(target: "script", "{text}");
    });
    pure(module, "log_warn", |text: ImmutableString| {
        tracing::warn!(target: "script", "{text}");
    });
}

fn equal(a: &Dynamic, b: &Dynamic) -> Answer<bool> {
    let ((a_kind, a), (b_kind, b)) = (value::stored(a)?, value::stored(b)?);
    raw::equal((a_kind, &a), (b_kind, &b), 0).map_err(malformed)
}

fn to_map(view: &View) -> Answer<Map> {
    view.names()?.into_iter().map(|name| Ok((name.as_str().into(), view.get(&name)?))).collect()
}

fn merge(view: &mut View, map: Map) -> Answer<()> {
    for (name, value) in map {
        view.set(&name.as_str().into(), value)?;
    }
    Ok(())
}

/// Follows one step of a path: into a document, a map, or an item of an array.
fn step(value: &Dynamic, name: &str) -> Answer<Dynamic> {
    if let Some(view) = value.read_lock::<View>() {
        return view.get(name);
    }
    if let Ok(map) = value.as_map_ref() {
        return Ok(map.get(name).cloned().unwrap_or(Dynamic::UNIT));
    }
    if let Ok(array) = value.as_array_ref() {
        let item = name.parse::<usize>().ok().and_then(|at| array.get(at));
        return Ok(item.cloned().unwrap_or(Dynamic::UNIT));
    }
    Ok(Dynamic::UNIT)
}

fn get(view: &View, path: &str) -> Answer<Dynamic> {
    let mut steps = path.split('.');
    let mut value = view.get(steps.next().unwrap_or_default())?;
    for name in steps {
        value = step(&value, name)?;
    }
    Ok(value)
}

/// Sets the end of a path; documents on the way that are not there are made.
fn set(view: &mut View, path: &str, value: Dynamic) -> Answer<()> {
    let Some((name, rest)) = path.split_once('.') else { return view.set(&path.into(), value) };
    let mut inner = view.get(name)?;
    set_within(&mut inner, rest, value, view, path)?;
    view.set(&name.into(), inner)
}

fn set_within(
    target: &mut Dynamic,
    path: &str,
    value: Dynamic,
    like: &View,
    whole: &str,
) -> Answer<()> {
    if path.split('.').count() > raw::MAX_DEPTH {
        return Err(value::too_deep());
    }
    if target.is_unit() {
        *target = Dynamic::from(like.empty());
    }
    if let Some(mut view) = target.write_lock::<View>() {
        return set(&mut view, path, value);
    }
    let (name, rest) = path.split_once('.').map_or((path, None), |(a, b)| (a, Some(b)));
    let slot = if target.is_map() {
        let mut map = target.write_lock::<Map>().ok_or_else(|| blocked(whole, name))?;
        let slot = map.entry(name.into()).or_insert(Dynamic::UNIT);
        return match rest {
            None => {
                *slot = value;
                Ok(())
            }
            Some(rest) => set_within(slot, rest, value, like, whole),
        };
    } else {
        target.write_lock::<Array>()
    };
    let mut array = slot.ok_or_else(|| blocked(whole, name))?;
    let at: usize = name.parse().map_err(|_| blocked(whole, name))?;
    let slot = array.get_mut(at).ok_or_else(|| blocked(whole, name))?;
    match rest {
        None => {
            *slot = value;
            Ok(())
        }
        Some(rest) => set_within(slot, rest, value, like, whole),
    }
}

fn blocked(path: &str, name: &str) -> Box<EvalAltResult> {
    refuse(format!("{path} can't be set: there is neither a document nor an item to hold {name}"))
}

fn remove(view: &mut View, path: &str) -> Answer<Dynamic> {
    let Some((name, rest)) = path.rsplit_once('.') else { return view.remove(path) };
    let mut holder = get(view, name)?;
    let removed = if let Some(mut inner) = holder.write_lock::<View>() {
        inner.remove(rest)?
    } else if let Some(mut inner) = holder.write_lock::<Map>() {
        inner.remove(rest).unwrap_or(Dynamic::UNIT)
    } else {
        return Ok(Dynamic::UNIT);
    };
    set(view, name, holder)?;
    Ok(removed)
}
