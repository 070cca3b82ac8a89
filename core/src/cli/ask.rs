//! What `run` and `fit` ask for, from words to a request.

use std::collections::BTreeMap;

use super::args::{Ask, LevelName, NearName, PolicyName};
use super::output::{Failure, unit_of};
use crate::agent::AgentError;
use crate::model::{Amount, EnforcementLevel, Near, Policy, Request, parse_amount};

/// Amounts, and how they are to lie.
pub(super) fn request(ask: &Ask) -> Result<Request, Failure> {
    let mut slots = Amounts::new();
    let named = [
        ("cpu", &ask.cpu),
        ("mem", &ask.mem),
        ("gpu", &ask.gpu),
        ("gpu.mem", &ask.gpu_mem),
        ("gpu.compute", &ask.gpu_compute),
    ];
    for (slot, text) in named {
        if let Some(text) = text {
            add(&mut slots, slot, text)?;
        }
    }
    for text in &ask.slots {
        add_pair(&mut slots, "--slot", text)?;
    }
    let fallback = |text: &String| {
        let mut slots = Amounts::new();
        for pair in text.split(',') {
            add_pair(&mut slots, "--fallback", pair)?;
        }
        Ok(slots)
    };
    Ok(Request {
        slots,
        fallbacks: ask
            .fallbacks
            .iter()
            .map(fallback)
            .collect::<Result<_, Failure>>()?,
        select: ask.select.clone(),
        policy: ask.policy.map(|p| match p {
            PolicyName::Pack => Policy::Pack,
            PolicyName::Spread => Policy::Spread,
            PolicyName::Fill => Policy::Fill,
            PolicyName::Evenly => Policy::Evenly,
        }),
        unsplit: ask.no_split,
        near: match ask.near {
            NearName::Prefer => Near::Prefer,
            NearName::Node => Near::Node,
            NearName::Linked => Near::Linked,
            NearName::Any => Near::Any,
        },
        apart_from: ask.apart_from.clone(),
        min_level: ask.min_level.map(|l| match l {
            LevelName::Advisory => EnforcementLevel::Advisory,
            LevelName::Cooperative => EnforcementLevel::Cooperative,
            LevelName::Kernel => EnforcementLevel::Kernel,
            LevelName::Hardware => EnforcementLevel::Hardware,
        }),
    })
}

type Amounts = BTreeMap<String, Amount>;

fn add_pair(slots: &mut Amounts, option: &str, text: &str) -> Result<(), Failure> {
    match text.split_once('=') {
        Some((slot, amount)) => add(slots, slot, amount),
        None => Err(Failure::words(
            "invalid_amount",
            format!("{option} {text:?} is not NAME=AMOUNT, such as cpu=1.5"),
        )),
    }
}

/// What a slot's unit is only its plugin knows, but for memory, which is
/// `mem` or `PLUGIN.mem` everywhere.
fn add(slots: &mut Amounts, slot: &str, text: &str) -> Result<(), Failure> {
    let bytes = unit_of(slot) == "byte";
    let unit = match slot {
        _ if bytes => "byte",
        "cpu" => "core",
        _ => "unit",
    };
    let amount = parse_amount(text, slot, unit).map_err(AgentError::from)?;
    if slots.insert(slot.to_owned(), amount).is_some() {
        return Err(Failure::words(
            "invalid_amount",
            format!("{slot} is asked for twice"),
        ));
    }
    Ok(())
}
