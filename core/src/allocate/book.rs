//! Who holds what, by id: a snapshot that is kept, for those who decide more
//! than once.
//!
//! A decision costs the same however many allocations there are. Giving back
//! is idempotent: an id that is not there is no error, and nothing is ever
//! given back twice.

use std::collections::HashMap;

use super::demand::{Choices, Limits};
use super::machine::{DeviceIx, SlotIx};
use super::place::{Allocation, allocate};
use super::refusal::{Refusal, RefusalCode};
use super::select::DeviceMask;
use super::snapshot::{Problem, Snapshot};
use super::{Grant, explain};
use crate::model::{Amount, Request, Shape, Slice};

/// Allocations by id, and what is left.
#[derive(Clone, Debug)]
pub struct Book {
    snapshot: Snapshot,
    held: HashMap<Box<str>, Held>,
}

/// What one id holds.
#[derive(Clone, Debug)]
enum Held {
    /// As it was granted here.
    Grants(Box<[Grant]>),
    /// As somebody else says; its amounts may follow other rules.
    Slices(Box<[Slice]>),
}

impl Book {
    /// Nothing is held but what the snapshot holds, which stays so for ever.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        Self {
            snapshot,
            held: HashMap::new(),
        }
    }

    /// What is held and free.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Does this id hold anything?
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        self.held.contains_key(id)
    }

    /// How many ids hold something.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Does nobody hold anything?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What an id holds.
    #[must_use]
    pub fn slices(&self, id: &str) -> Vec<Slice> {
        match self.held.get(id) {
            Some(Held::Grants(grants)) => self.snapshot.slices(grants),
            Some(Held::Slices(slices)) => slices.to_vec(),
            None => vec![],
        }
    }

    /// Places a request under an id that holds nothing yet; `None`: there is
    /// no room, and nothing has changed.
    pub fn allocate(&mut self, id: &str, choices: &Choices) -> Option<Allocation> {
        let allocation = allocate(&self.snapshot, choices)?;
        self.snapshot.take(&allocation.grants);
        let held = Held::Grants(allocation.grants.as_slice().into());
        self.held.insert(id.into(), held);
        Some(allocation)
    }

    /// Enters what somebody holds already, exactly as they say, whatever the
    /// quantum.
    ///
    /// # Errors
    /// `over_capacity` or `exclusive_conflict`: it is more than the device has
    /// left, or in another mode than the device is in. Nothing has changed.
    pub fn place(
        &mut self,
        id: &str,
        claims: &[(SlotIx, DeviceIx, Amount)],
    ) -> Result<(), Box<Refusal>> {
        let mut grants: Vec<Grant> = Vec::new();
        for &(slot, device, amount) in claims.iter().filter(|c| !c.2.is_zero()) {
            match self.enter(slot, device, amount) {
                Ok(more) => {
                    self.snapshot.take(&more);
                    grants.extend(more);
                }
                Err(refusal) => {
                    self.snapshot.give_back(&grants);
                    return Err(refusal);
                }
            }
        }
        // Derived amounts depend on what else is on the device: once more, as
        // a whole.
        self.snapshot.give_back_each(&grants);
        self.snapshot.take(&grants);
        self.held.insert(id.into(), Held::Grants(grants.into()));
        Ok(())
    }

    /// What holding an amount on one device would be.
    fn enter(
        &self,
        slot: SlotIx,
        device: DeviceIx,
        amount: Amount,
    ) -> Result<Vec<Grant>, Box<Refusal>> {
        let machine = self.snapshot.machine();
        let view = machine.view(slot);
        let name = machine.device_name(device);
        let refuse = |code, why: String| Err(Box::new(Refusal::new(code, &view.name, why)));
        if self.snapshot.state(device.0).busy & view.forbids != 0 {
            return refuse(
                RefusalCode::ExclusiveConflict,
                format!(
                    "{name}: {} cannot be placed beside what it serves now",
                    view.name
                ),
            );
        }
        if view.shape == Shape::Partition {
            return self.enter_partitions(slot, device, amount);
        }
        let free = self.snapshot.room_exactly(slot, device.0);
        if amount > free {
            return refuse(
                RefusalCode::OverCapacity,
                format!("{name}: {amount} of {} placed, {free} left", view.name),
            );
        }
        Ok(vec![Grant {
            slot,
            device,
            amount,
            start: None,
        }])
    }

    /// Partitions lie where there is room for them on the device.
    fn enter_partitions(
        &self,
        slot: SlotIx,
        device: DeviceIx,
        amount: Amount,
    ) -> Result<Vec<Grant>, Box<Refusal>> {
        let machine = self.snapshot.machine();
        let name = machine.view(slot).name.to_string();
        let devices = 0..u32::try_from(machine.device_count()).unwrap_or(u32::MAX);
        let limits = Limits {
            selected: Some(devices.map(|d| d == device.0).collect::<DeviceMask>()),
            avoided: None,
        };
        let request = Request {
            slots: [(name.clone(), amount)].into(),
            ..Request::default()
        };
        let choices = Choices::resolve(machine, &request, &limits)?;
        let only: Option<Allocation> = allocate(&self.snapshot, &choices);
        let mut grants = only.map(|a| a.grants).ok_or_else(|| {
            let why = format!(
                "{}: no room for {amount} of {name}",
                machine.device_name(device)
            );
            Box::new(Refusal::new(RefusalCode::OverCapacity, &name, why))
        })?;
        // Defaults are for requests.
        grants.retain(|g| g.slot == slot);
        Ok(grants)
    }

    /// Enters what a ledger says, which cannot be refused: what does not fit
    /// is a problem of its device, which is closed.
    pub fn restore(&mut self, id: &str, slices: &[Slice]) -> Vec<Problem> {
        let problems = self.snapshot.hold(slices);
        self.held.insert(id.into(), Held::Slices(slices.into()));
        problems
    }

    /// Gives back what an id holds; `false`: it held nothing.
    pub fn release(&mut self, id: &str) -> bool {
        match self.held.remove(id) {
            Some(Held::Grants(grants)) => self.snapshot.give_back(&grants),
            Some(Held::Slices(slices)) => self.snapshot.unhold(slices.iter()),
            None => return false,
        }
        true
    }

    /// [`explain::would_fit_without`], of those who hold something here.
    #[must_use]
    pub fn would_fit_without(&self, choices: &Choices) -> Vec<String> {
        let mut holders: Vec<(&str, Vec<Slice>)> = self
            .held
            .keys()
            .map(|id| (&**id, self.slices(id)))
            .collect();
        holders.sort_by(|a, b| a.0.cmp(b.0));
        let holders: Vec<(&str, &[Slice])> = holders
            .iter()
            .map(|(id, slices)| (*id, slices.as_slice()))
            .collect();
        explain::would_fit_without(&self.snapshot, choices, &holders)
    }
}
