//! A request against the machine as it is: the pure decision, with what the
//! ledger says of who holds what.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::held::hold;
use super::{Agent, AgentError};
use crate::allocate::{
    self, Choices, DeviceMask, Limits, Refusal, RefusalCode, Snapshot, allocate, explain,
};
use crate::model::{Amount, BASE_SLOTS, Inventory, Record, Request, Slice, format_amount};
use crate::plugin::CallError;
use crate::sys;

/// The least memory with which a container starts, whichever the runtime: what
/// runs in it before the job does is charged to it (measured: 4 MiB with runc
/// 1.1.5, 1 MiB with the built-in one).
const LEAST_MEMORY: Amount = Amount::from_units(4 << 20);

/// What a request would get, or gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    /// Amounts by slot, defaults included; of a fallback, its own.
    pub granted: BTreeMap<String, Amount>,
    /// Where they lie.
    pub slices: Vec<Slice>,
    /// Why each slice lies where it does, in the same order.
    pub why: Vec<String>,
}

impl Agent {
    /// Would a request fit now, and where? Takes nothing. What others ask for
    /// in the meantime may change the answer.
    ///
    /// # Errors
    /// As [`run`](Agent::run) would say.
    pub async fn fit(&self, request: &Request) -> Result<Decision, AgentError> {
        if !sys::is_root() {
            return Err(AgentError::NeedsRoot("fit"));
        }
        let records = self.workloads().await?;
        let (inventory, failed) = self.inventory().await;
        let held: Vec<&Record> = records.iter().filter(|r| r.holds()).collect();
        let failed = self.needed(&inventory, failed)?;
        decide(&inventory, &held, request).map_err(|error| blame(error, &inventory, failed))
    }

    /// Nothing runs without limits because the plugin that would set them is
    /// down: while a plugin is, cores and memory must be offered by another.
    /// Gives back the failures that do not matter to that.
    pub(super) fn needed(
        &self,
        inventory: &Inventory,
        failed: Vec<(String, CallError)>,
    ) -> Result<Vec<(String, CallError)>, AgentError> {
        // What somebody wrote is wrong: rather said than passed over.
        if let Some((_, error)) = failed.iter().find(|(_, error)| error.is_invalid()) {
            return Err(error.clone().into());
        }
        let lacks = BASE_SLOTS
            .into_iter()
            .find(|slot| inventory.slot(slot).is_none());
        let Some(slot) = lacks else {
            return Ok(failed);
        };
        if let Some((_, error)) = failed.into_iter().find(|(_, e)| !e.is_absent()) {
            return Err(error.into());
        }
        match self.plugins.refused().first() {
            Some(refused) => Err(AgentError::NoLimits(slot, refused.to_string())),
            None => Ok(vec![]),
        }
    }
}

/// A slot is unknown because its plugin is down: that is the error then. Plugins that
/// offer nothing here, and may be the ones that were meant, say why.
pub(super) fn blame(
    mut error: AgentError,
    inventory: &Inventory,
    failed: Vec<(String, CallError)>,
) -> AgentError {
    let AgentError::Refused { refusal, .. } = &mut error else {
        return error;
    };
    if refusal.code == RefusalCode::UnknownSlot {
        let (prefix, _) = refusal.slot.split_once('.').unwrap_or_default();
        // A class is any plugin's.
        let named = failed.iter().any(|(plugin, _)| plugin == prefix);
        let suspects = failed
            .iter()
            .filter(|(plugin, _)| !named || plugin == prefix);
        for (_, why) in suspects {
            refusal.message.push_str(&format!("; {why}"));
        }
    }
    let down = failed.into_iter().find(|(plugin, error)| {
        let mine = refusal.slot.split('.').next() == Some(plugin);
        (mine || inventory.plugins.is_empty()) && !error.is_absent()
    });
    down.map_or(error, |(_, down)| down.into())
}

/// Decides, for the machine as the inventory and the records say it is.
pub(super) fn decide(
    inventory: &Inventory,
    held: &[&Record],
    request: &Request,
) -> Result<Decision, AgentError> {
    let mut snapshot = Snapshot::new(inventory);
    for problem in hold(&mut snapshot, inventory, held) {
        tracing::warn!("{problem}");
    }
    let limits = Limits {
        selected: match &request.select {
            Some(expression) => Some(allocate::select(expression, inventory).map_err(refused)?),
            None => None,
        },
        avoided: avoided(inventory, held, &request.apart_from)?,
    };
    let choices = Choices::resolve(snapshot.machine(), request, &limits).map_err(refused)?;
    let Some(allocation) = allocate(&snapshot, &choices) else {
        let mut refusal = explain::refusal(&snapshot, &choices);
        let mut holders: Vec<(&str, &[Slice])> = held
            .iter()
            .map(|r| (r.name.as_str(), r.slices.as_slice()))
            .collect();
        // What asks for least is given up first.
        holders.sort_by_key(|(name, slices)| (slices.len(), *name));
        refusal.would_fit_without = explain::would_fit_without(&snapshot, &choices, &holders);
        let held_by = holders_of(held, &refusal, inventory);
        return Err(AgentError::Refused { refusal, held_by });
    };
    if allocation.grants.is_empty() {
        return Err(AgentError::NothingGranted);
    }
    let memory = choices
        .amounts(snapshot.machine(), allocation.choice)
        .find(|(slot, amount)| *slot == "mem" && *amount < LEAST_MEMORY);
    if let Some((_, amount)) = memory {
        return Err(AgentError::TooLittleMemory(amount));
    }
    Ok(Decision {
        granted: choices
            .amounts(snapshot.machine(), allocation.choice)
            .map(|(slot, amount)| (slot.to_owned(), amount))
            .collect(),
        slices: snapshot.slices(&allocation.grants),
        why: explain::why(&snapshot, &choices, &allocation),
    })
}

fn refused(refusal: Box<Refusal>) -> AgentError {
    AgentError::Refused {
        refusal,
        held_by: None,
    }
}

/// The devices of the workloads that a request is to stay apart from.
fn avoided(
    inventory: &Inventory,
    held: &[&Record],
    names: &[String],
) -> Result<Option<DeviceMask>, AgentError> {
    if names.is_empty() {
        return Ok(None);
    }
    let mut devices = std::collections::BTreeSet::new();
    for name in names {
        let found = held.iter().find(|r| r.name == *name || r.id == *name);
        let record = found.ok_or_else(|| AgentError::NoSuchWorkload(name.clone()))?;
        devices.extend(record.slices.iter().map(Slice::device));
    }
    let mask = inventory
        .devices
        .iter()
        .map(|d| devices.contains(&d.name()));
    Ok(Some(mask.collect()))
}

/// `name (amount), …` of the workloads that hold what is short.
fn holders_of(held: &[&Record], refusal: &Refusal, inventory: &Inventory) -> Option<String> {
    let unit = &inventory
        .slot(&refusal.slot)
        .filter(|_| refusal.is_shortage())?
        .unit;
    let names: Vec<String> = held
        .iter()
        .filter_map(|r| {
            let mine = r.slices.iter().filter(|s| s.part.slot == refusal.slot);
            let amount: Amount = mine.map(|s| s.part.amount).sum();
            (!amount.is_zero()).then(|| format!("{} ({})", r.name, format_amount(amount, unit)))
        })
        .collect();
    (!names.is_empty()).then(|| names.join(", "))
}
