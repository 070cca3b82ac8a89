//! A request, checked against the slots that exist.

use super::refusal::{Refusal, RefusalCode};
use super::snapshot::{Default, SlotIx, Snapshot};
use crate::model::{Amount, Request};

/// What is to be placed: each slot at most once, amounts above zero and on
/// the slot's quantum, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand(pub(super) Vec<(SlotIx, Amount)>);

impl Demand {
    /// Resolves a request.
    ///
    /// # Errors
    /// `unknown_slot` and `not_multiple_of_quantum`, with what would be right.
    pub fn resolve(snapshot: &Snapshot, request: &Request) -> Result<Self, Box<Refusal>> {
        let mut asked: Vec<Option<Amount>> = vec![None; snapshot.slots.len()];
        for (name, amount) in &request.slots {
            // 0 means "not asked".
            if amount.is_zero() {
                continue;
            }
            let Some(ix) = snapshot.slot(name) else {
                return Err(Box::new(unknown(snapshot, name)));
            };
            asked[ix.0] = Some(*amount);
        }
        for (slot, amount) in snapshot.slots.iter().zip(&asked) {
            let Some(amount) = amount else { continue };
            if !amount.is_multiple_of(slot.quantum) {
                let below = amount.floor_to(slot.quantum);
                let above = below.checked_add(slot.quantum).unwrap_or(Amount::MAX);
                let nearest = if below.is_zero() {
                    format!("{above}")
                } else {
                    format!("{below} and {above}")
                };
                return Err(Box::new(Refusal::new(
                    RefusalCode::NotMultipleOfQuantum,
                    &slot.name,
                    format!(
                        "{}: {amount} is not a multiple of {}; the nearest legal amounts: {nearest}",
                        slot.name, slot.quantum
                    ),
                )));
            }
        }
        let plain = asked.clone();
        for (i, slot) in snapshot.slots.iter().enumerate() {
            if asked[i].is_none() {
                asked[i] = match &slot.default {
                    Some(Default::Fixed(amount)) => Some(*amount),
                    _ => None,
                };
            }
        }
        for (i, slot) in snapshot.slots.iter().enumerate() {
            if plain[i].is_some() {
                continue;
            }
            if let Some(Default::Like(other)) = slot.default {
                let share = asked[other.0].unwrap_or(Amount::ZERO);
                asked[i] = total(snapshot, SlotIx(i))
                    .scaled(share, total(snapshot, other))
                    .map(|a| a.floor_to(slot.quantum));
            }
        }
        Ok(Self(
            asked
                .into_iter()
                .enumerate()
                .filter_map(|(i, a)| Some((SlotIx(i), a.filter(|a| !a.is_zero())?)))
                .collect(),
        ))
    }

    /// The slots and amounts by name, defaults included.
    pub fn amounts<'a>(
        &'a self,
        snapshot: &'a Snapshot,
    ) -> impl Iterator<Item = (&'a str, Amount)> + 'a {
        self.0
            .iter()
            .map(|&(ix, amount)| (snapshot.slots[ix.0].name.as_str(), amount))
    }
}

/// What the machine has of a slot when nothing is held.
fn total(snapshot: &Snapshot, slot: SlotIx) -> Amount {
    let slot = &snapshot.slots[slot.0];
    slot.devices.iter().map(|s| snapshot.whole(slot, s)).sum()
}

fn unknown(snapshot: &Snapshot, name: &str) -> Refusal {
    let known: Vec<&str> = snapshot.slots.iter().map(|s| s.name.as_str()).collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    Refusal::new(
        RefusalCode::UnknownSlot,
        name,
        format!("{name}: no plugin here offers this slot; the slots are: {known}"),
    )
}
