//! Selectors: a CEL expression that a device fulfils or not.
//!
//! `device` is what its plugin said of it: `device.plugin`, `.id`, `.kind`,
//! `.model`, `.numa_node`, and `.attributes.NAME` and `.capacities.NAME`. What
//! a device does not have makes the expression false for it, never an error;
//! so does comparing things of different types. `quantity("40GiB")` is a number
//! of bytes, `version("12.4")` compares by its numbers.
//!
//! Capacities are whole numbers where they are whole, else doubles: selecting
//! is not accounting.

use std::collections::HashMap;

use cel::common::ast::{EntryExpr, Expr};
use cel::objects::Key;
use cel::{Context, ExecutionError, Program, Value as Cel};

use super::refusal::{Refusal, RefusalCode};
use crate::model::{Amount, Device, Inventory, Value, parse_amount};

/// Longest expression, bytes.
const MAX_LENGTH: usize = 512;
/// Deepest nesting of brackets and choices: each level takes the parser many
/// calls.
const MAX_DEPTH: usize = 16;
/// The parser and the evaluator recurse as deep as an expression is long (a sum
/// of 250 terms overflowed 2 MiB in a debug build), so they get a stack that is
/// large enough whoever calls. Bytes; only what is touched is real.
const STACK: usize = 64 << 20;

/// A set of devices, by the inventory's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceMask(Vec<u64>);

impl DeviceMask {
    /// Is this device in it?
    #[must_use]
    pub fn contains(&self, device: u32) -> bool {
        let word = self.0.get(device as usize / 64);
        word.is_some_and(|w| w >> (device % 64) & 1 == 1)
    }

    /// Every device that is not in it, of so many.
    #[must_use]
    pub(super) fn inverted(&self, devices: usize) -> Self {
        (0..u32::try_from(devices).unwrap_or(u32::MAX))
            .map(|d| !self.contains(d))
            .collect()
    }

    #[must_use]
    pub(super) fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }
}

impl FromIterator<bool> for DeviceMask {
    fn from_iter<I: IntoIterator<Item = bool>>(devices: I) -> Self {
        let mut words = Vec::new();
        for (i, is_in) in devices.into_iter().enumerate() {
            if i % 64 == 0 {
                words.push(0);
            }
            if let (true, Some(word)) = (is_in, words.last_mut()) {
                *word |= 1 << (i % 64);
            }
        }
        Self(words)
    }
}

/// The devices that fulfil an expression.
///
/// # Errors
/// `invalid_selector`: it cannot be read, or does not answer yes or no on any
/// device.
pub fn select(expression: &str, inventory: &Inventory) -> Result<DeviceMask, Box<Refusal>> {
    let wrong = |why: String| {
        Box::new(Refusal::new(
            RefusalCode::InvalidSelector,
            "",
            format!(
                "the selector {expression:?} {why}; it is a CEL expression such as device.model.startsWith(\"NVIDIA H100\") && device.capacities.memory >= quantity(\"40GiB\")"
            ),
        ))
    };
    if expression.len() > MAX_LENGTH {
        return Err(Box::new(Refusal::new(
            RefusalCode::InvalidSelector,
            "",
            format!("the selector is longer than {MAX_LENGTH} bytes"),
        )));
    }
    if depth(expression) > MAX_DEPTH {
        return Err(wrong(format!("is nested more than {MAX_DEPTH} deep")));
    }
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, || evaluate(expression, inventory))
            .map_err(|e| format!("cannot be evaluated: {e}"))?
            .join()
            .unwrap_or_else(|_| Err("makes the evaluator fail".into()))
    })
    .map_err(wrong)
}

/// The devices that fulfil an expression, or what is wrong with it.
fn evaluate(expression: &str, inventory: &Inventory) -> Result<DeviceMask, String> {
    let program = Program::compile(expression)
        .map_err(|e| format!("cannot be read: {}", first_line(&e.to_string())))?;
    if loops(&program.expression().expr) {
        return Err("loops over something, which takes time without bound".into());
    }
    let used = program.references();
    if let Some(other) = used.variables().into_iter().find(|v| *v != "device") {
        return Err(format!("speaks of {other:?}; there is `device` alone"));
    }
    let mut context = Context::default();
    let functions = [
        context.add_function("quantity", quantity),
        context.add_function("version", version),
    ];
    if let Some(error) = functions.into_iter().find_map(Result::err) {
        return Err(format!("cannot be run: {error:?}"));
    }
    let mut chosen = Vec::with_capacity(inventory.devices.len());
    for device in &inventory.devices {
        let mut context = context.new_inner_scope();
        context.add_variable_from_value("device", facts(device));
        chosen.push(match program.execute(&context) {
            Ok(Cel::Bool(yes)) => yes,
            Ok(_) => return Err("does not answer yes or no".into()),
            Err(ExecutionError::UndeclaredReference(what)) => {
                return Err(format!("uses {what:?}, which there is not"));
            }
            Err(_) => false,
        });
    }
    Ok(chosen.into_iter().collect())
}

/// How deep brackets are nested, and choices (`a ? b : c`) in a row.
fn depth(expression: &str) -> usize {
    let (mut now, mut deepest, mut choices) = (0usize, 0, 0);
    for byte in expression.bytes() {
        match byte {
            b'(' | b'[' | b'{' => now += 1,
            b')' | b']' | b'}' => now = now.saturating_sub(1),
            b'?' => choices += 1,
            _ => {}
        }
        deepest = deepest.max(now);
    }
    deepest + choices
}

/// Does it hold one of the macros that loop (`all`, `exists`, `map`, …)?
/// Nested, they take exponential time.
fn loops(expr: &Expr) -> bool {
    let entry = |e: &EntryExpr| match e {
        EntryExpr::StructField(f) => loops(&f.value.expr),
        EntryExpr::MapEntry(e) => loops(&e.key.expr) || loops(&e.value.expr),
    };
    match expr {
        Expr::Comprehension(_) => true,
        Expr::Call(c) => {
            let mut parts = c.args.iter().chain(c.target.as_deref());
            parts.any(|e| loops(&e.expr))
        }
        Expr::List(l) => l.elements.iter().any(|e| loops(&e.expr)),
        Expr::Map(m) => m.entries.iter().any(|e| entry(&e.expr)),
        Expr::Struct(s) => s.entries.iter().any(|e| entry(&e.expr)),
        Expr::Select(s) => loops(&s.operand.expr),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => false,
    }
}

fn first_line(text: &str) -> &str {
    text.lines()
        .map(str::trim)
        .find(|l| !l.is_empty())
        .unwrap_or("no reason given")
}

/// What can be said of a device.
fn facts(device: &Device) -> Cel {
    let d = &device.device;
    let attributes: HashMap<Key, Cel> = d
        .attributes
        .iter()
        .map(|(name, attribute)| (name.as_str().into(), value(&attribute.value)))
        .collect();
    let capacities: HashMap<Key, Cel> = d
        .capacities
        .iter()
        .map(|(name, c)| (name.as_str().into(), number(c.total)))
        .collect();
    let mut facts: HashMap<Key, Cel> = HashMap::from([
        ("plugin".into(), text(&device.plugin)),
        ("id".into(), text(&d.id)),
        ("kind".into(), text(&d.kind)),
        ("model".into(), text(&d.model)),
        ("attributes".into(), attributes.into()),
        ("capacities".into(), capacities.into()),
    ]);
    if let Some(node) = d.numa_node {
        facts.insert("numa_node".into(), Cel::Int(node.into()));
    }
    facts.into()
}

fn text(text: &str) -> Cel {
    Cel::String(text.to_owned().into())
}

fn value(value: &Value) -> Cel {
    match value {
        Value::Int(n) => Cel::Int(*n),
        Value::Bool(b) => Cel::Bool(*b),
        Value::String(s) => text(s),
        Value::Version(v) => comparable(v),
    }
}

fn number(amount: Amount) -> Cel {
    let whole = i64::try_from(amount.whole_units()).ok();
    match whole.filter(|_| amount.fraction().is_zero()) {
        Some(n) => Cel::Int(n),
        // For comparing alone; no amount is ever computed from it.
        #[allow(clippy::cast_precision_loss)]
        None => Cel::Float(amount.nanos() as f64 / 1e9),
    }
}

/// `quantity("40GiB")`.
fn quantity(text: std::sync::Arc<String>) -> Result<Cel, ExecutionError> {
    match parse_amount(&text, "quantity", "byte") {
        Ok(amount) => Ok(number(amount)),
        Err(error) => Err(ExecutionError::FunctionError {
            function: "quantity".into(),
            message: error.to_string(),
        }),
    }
}

/// `version("12.4")`.
fn version(text: std::sync::Arc<String>) -> Cel {
    comparable(&text)
}

/// A version as a text that compares as its numbers do: each padded to the
/// ten digits of the largest `u32`. What follows the numbers is left out.
fn comparable(version: &str) -> Cel {
    let numbers = version
        .split(['.', '-', '+'])
        .map_while(|part| part.parse::<u32>().ok());
    let padded: Vec<String> = numbers.map(|n| format!("{n:010}")).collect();
    text(&padded.join("."))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{Attribute, Capacity};

    fn inventory() -> Inventory {
        let gpu = |id: &str, model: &str, gib: u64, driver: Option<&str>| Device {
            plugin: "cuda".into(),
            device: divvy_plugin::Device {
                capacities: BTreeMap::from([
                    (
                        "memory".to_owned(),
                        Capacity::of(Amount::from_units(gib << 30)),
                    ),
                    ("compute".to_owned(), Capacity::of("0.5".parse().unwrap())),
                ]),
                attributes: driver
                    .map(|v| {
                        let value = Value::Version(v.into());
                        ("driver".to_owned(), Attribute { value, unit: None })
                    })
                    .into_iter()
                    .collect(),
                ..divvy_plugin::Device::new(id, "gpu", model)
            },
        };
        Inventory {
            devices: vec![
                gpu("a", "NVIDIA H100", 80, Some("535.9.1")),
                gpu("b", "NVIDIA T4", 16, Some("535.129")),
                gpu("c", "NVIDIA T4", 16, None),
            ],
            ..Inventory::default()
        }
    }

    fn chosen(expression: &str) -> Result<String, String> {
        let inventory = inventory();
        let mask = select(expression, &inventory).map_err(|r| r.message)?;
        let ids = (0..)
            .zip(&inventory.devices)
            .filter(|(i, _)| mask.contains(*i));
        Ok(ids.map(|(_, d)| d.device.id.as_str()).collect())
    }

    #[test]
    fn by_what_devices_are_and_have() {
        for (expression, devices) in [
            ("true", "abc"),
            ("device.id == 'b'", "b"),
            ("device.model.contains('H100')", "a"),
            ("device.capacities.memory >= quantity('40GiB')", "a"),
            ("device.capacities.compute < 0.6", "abc"),
            ("device.attributes.driver >= version('535.100')", "b"),
            ("device.plugin == 'cuda' && device.kind == 'gpu'", "abc"),
            ("has(device.attributes.driver)", "ab"),
        ] {
            assert_eq!(chosen(expression).as_deref(), Ok(devices), "{expression}");
        }
    }

    #[test]
    fn what_is_missing_is_false() {
        for expression in [
            "device.attributes.nothing == 1",
            "device.numa_node == 0",
            "device.attributes.driver > 5",
            "device.nothing.at.all",
        ] {
            assert_eq!(chosen(expression).as_deref(), Ok(""), "{expression}");
        }
        assert_eq!(
            chosen("device.attributes.nothing == 1 || device.id == 'b'").as_deref(),
            Ok("b")
        );
    }

    /// The longest of what makes a parser or an evaluator recurse.
    #[test]
    fn nothing_that_is_let_through_exhausts_the_stack() {
        let fill = |unit: &str, end: &str| {
            let room = MAX_LENGTH - end.len();
            format!("{}{end}", unit.repeat(room / unit.len()))
        };
        for expression in [
            fill("!", "true"),
            fill("-", "1"),
            fill("1+", "1"),
            fill("true&&", "true"),
            fill("1==", "1"),
            format!("device{}", fill(".a", "")),
            fill("1,", "]"),
            format!("{}1{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH)),
            format!("{}1{}", "(".repeat(MAX_DEPTH), ")".repeat(MAX_DEPTH)),
            fill("'", "'"),
            fill("\\", ""),
        ] {
            let _ = chosen(&expression);
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for (expression, words) in [
            ("device.id ==", "cannot be read"),
            ("1 + 1", "does not answer yes or no"),
            ("gpu.id == 'a'", "\"gpu\"; there is `device` alone"),
            ("frobnicate(device)", "frobnicate"),
            ("[1, 2].all(x, x > 0)", "loops"),
            ("device.attributes.exists(a, a == 'b')", "loops"),
            (&"(".repeat(2000), "longer than"),
            (&"(".repeat(500), "nested"),
            (&"true ? true : ".repeat(30), "nested"),
        ] {
            let error = chosen(expression).unwrap_err();
            assert!(error.contains(words), "{expression}: {error}");
        }
    }
}
