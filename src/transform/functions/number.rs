//! Decimals of 34 digits, alone and together with integers and floats.

use std::cmp::Ordering;

use bson::Decimal128;
use rhai::{ImmutableString, Module};

use super::pure;
use crate::transform::{
    decimal::{self, Fault},
    failure::{Answer, refuse},
};

type Operation = fn(&Decimal128, &Decimal128) -> Result<Decimal128, Fault>;
type Test = fn(Ordering) -> bool;

/// What `decimal()` and the operators take beside a decimal.
trait Number: Clone + Send + Sync + 'static {
    fn decimal(&self) -> Answer<Decimal128>;
}

impl Number for Decimal128 {
    fn decimal(&self) -> Answer<Decimal128> {
        Ok(*self)
    }
}

impl Number for i64 {
    fn decimal(&self) -> Answer<Decimal128> {
        Ok(decimal::from_int(*self))
    }
}

impl Number for f64 {
    fn decimal(&self) -> Answer<Decimal128> {
        decimal::from_float(*self).map_err(refuse)
    }
}

impl Number for ImmutableString {
    fn decimal(&self) -> Answer<Decimal128> {
        decimal::from_text(self).map_err(|_| refuse(format!("{self:?} is no decimal number")))
    }
}

pub(super) fn register(module: &mut Module) {
    module.set_custom_type::<Decimal128>("Decimal128");
    pure(module, "decimal", |value: Decimal128| value.decimal());
    pure(module, "decimal", |value: i64| value.decimal());
    pure(module, "decimal", |value: f64| value.decimal());
    pure(module, "decimal", |value: ImmutableString| value.decimal());
    register_pair::<Decimal128, Decimal128>(module);
    register_pair::<Decimal128, i64>(module);
    register_pair::<i64, Decimal128>(module);
    register_pair::<Decimal128, f64>(module);
    register_pair::<f64, Decimal128>(module);
    pure(module, "-", |value: Decimal128| decimal::negate(&value).map_err(refuse));
    pure(module, "abs", |value: Decimal128| -> Answer<Decimal128> {
        match decimal::compare(&value, &decimal::from_int(0)) {
            Some(Ordering::Less) => decimal::negate(&value).map_err(refuse),
            _ => Ok(value),
        }
    });
    pure(module, "round", |value: Decimal128, places: i64| round(&value, places));
    pure(module, "round", |value: Decimal128| round(&value, 0));
    pure(module, "to_int", |value: Decimal128| decimal::to_int(&value).map_err(refuse));
    pure(module, "to_float", |value: Decimal128| decimal::to_float(&value));
    pure(module, "to_string", |value: &mut Decimal128| value.to_string());
    pure(module, "to_debug", |value: &mut Decimal128| value.to_string());
}

fn round(value: &Decimal128, places: i64) -> Answer<Decimal128> {
    let places = u32::try_from(places)
        .ok()
        .filter(|places| *places <= 6176)
        .ok_or_else(|| refuse("a decimal is rounded to 0 to 6176 digits after the point"))?;
    decimal::round(value, places).map_err(refuse)
}

fn register_pair<A: Number, B: Number>(module: &mut Module) {
    let operations: [(&str, Operation); 4] = [
        ("+", decimal::add),
        ("-", decimal::subtract),
        ("*", decimal::multiply),
        ("/", decimal::divide),
    ];
    for (name, operation) in operations {
        pure(module, name, move |a: A, b: B| -> Answer<Decimal128> {
            operation(&a.decimal()?, &b.decimal()?).map_err(refuse)
        });
    }
    let tests: [(&str, Test); 5] = [
        ("==", Ordering::is_eq),
        ("<", Ordering::is_lt),
        ("<=", Ordering::is_le),
        (">", Ordering::is_gt),
        (">=", Ordering::is_ge),
    ];
    for (name, test) in tests {
        pure(module, name, move |a: A, b: B| -> Answer<bool> {
            Ok(decimal::compare(&a.decimal()?, &b.decimal()?).is_some_and(test))
        });
    }
    pure(module, "!=", |a: A, b: B| -> Answer<bool> {
        Ok(decimal::compare(&a.decimal()?, &b.decimal()?) != Some(Ordering::Equal))
    });
}
