//! What the plugin says of itself and of the machine, once: what all checks
//! build on.

use std::collections::BTreeMap;

use divvy_plugin::{Amount, Discovery, Manifest, Slice};

use super::bench::{Bench, Checked, Lied, Stop, skipped};
use crate::allocate::{Choices, Limits, Snapshot, allocate};
use crate::model::{Device, Inventory, Request};
use crate::plugin::client::unknown_setting;
use crate::plugin::validate::{self, Lie};
use crate::plugin::wire::Op;

/// What is known after `manifest`, `open` and `discover`. A part that cannot be
/// had says why whatever needs it is skipped.
#[derive(Debug)]
pub(in crate::plugin) struct Survey {
    /// The manifest, checked.
    manifest: Result<Manifest, String>,
    /// The devices, checked.
    found: Result<Discovery, String>,
    /// What was not believed.
    lies: Vec<(Op, Lied)>,
}

impl Survey {
    pub(super) async fn take(bench: &Bench) -> Self {
        let mut survey = Self {
            manifest: Err("there is no manifest: see file.loads".into()),
            found: Err("its devices cannot be had: see discover.works".into()),
            lies: vec![],
        };
        if let Err(stop) = survey.fill(bench).await {
            // If it failed, the check that fails is the operation's own.
            let (Stop::Skipped(why) | Stop::Failed(why, _)) = stop;
            let parts = [survey.manifest.as_mut().err(), survey.found.as_mut().err()];
            for part in parts.into_iter().flatten() {
                part.clone_from(&why);
            }
        }
        survey
    }

    async fn fill(&mut self, bench: &Bench) -> Checked {
        let mut host = bench.bare()?;
        let manifest: Manifest = host.ask(Op::Manifest, &()).await?;
        let file = bench.subject.file.name();
        self.believe(bench, Op::Manifest, validate::manifest(&manifest, &file))?;
        let unknown = unknown_setting(&manifest, &bench.subject.config);
        self.manifest = Ok(manifest);
        if let Some(why) = unknown {
            return skipped(why);
        }
        let () = host.ask(Op::Open, &bench.open_request()).await?;
        let found: Discovery = host.ask(Op::Discover, &()).await?;
        self.believe(bench, Op::Discover, validate::discovery(&found))?;
        self.found = match found.devices.is_empty() {
            true => Err("there is no device here".into()),
            false => Ok(found),
        };
        Ok(())
    }

    fn believe(&mut self, bench: &Bench, op: Op, checked: Result<(), Lie>) -> Checked {
        let Err(lie) = checked else {
            return Ok(());
        };
        let why = format!("its {} is refused: see {}", op.name(), lie.rule.id());
        self.lies.push((op, (lie, bench.last())));
        skipped(why)
    }

    /// What was not believed of an operation's reply, if it was answered.
    pub(super) fn lies_in(&self, op: Op) -> Checked<Vec<Lied>> {
        let mine = self.lies.iter().filter(|(of, _)| *of == op);
        let mine: Vec<Lied> = mine.map(|(_, lied)| lied.clone()).collect();
        if mine.is_empty() {
            match op {
                Op::Manifest => drop(self.manifest()?),
                _ => drop(self.found()?),
            }
        }
        Ok(mine)
    }

    /// The manifest, or why it cannot be had.
    pub(super) fn manifest(&self) -> Checked<Manifest> {
        self.manifest.clone().map_err(Stop::Skipped)
    }

    /// The devices, at least one; or why there are none.
    pub(super) fn found(&self) -> Checked<Discovery> {
        self.manifest()?;
        self.found.clone().map_err(Stop::Skipped)
    }

    /// Why there is nothing to look at here, if so.
    pub(super) fn nothing_here(&self) -> Option<&str> {
        self.found.as_ref().err().map(String::as_str)
    }

    /// Slices that an agent would ask to have prepared: of each slot the least
    /// amount, as the allocator places it.
    pub(super) fn slices(&self) -> Checked<Vec<Vec<Slice>>> {
        self.found()?;
        let all: Vec<_> = self
            .manifest()?
            .slots
            .iter()
            .filter_map(|slot| self.place(&slot.name, slot.quantum, 1).ok()?.pop())
            .collect();
        match all.is_empty() {
            true => skipped("none of its slots can be had on these devices now"),
            false => Ok(all),
        }
    }

    /// The first of those.
    pub(in crate::plugin) fn some_slices(&self) -> Checked<Vec<Slice>> {
        Ok(self.slices()?.swap_remove(0))
    }

    /// Slices for two allocations at once, of the first slot of which two can be
    /// had.
    pub(super) fn two_allocations(&self) -> Checked<[Vec<Slice>; 2]> {
        self.found()?;
        for slot in &self.manifest()?.slots {
            if let Ok(placed) = self.place(&slot.name, slot.quantum, 2)
                && let Ok(two) = placed.try_into()
            {
                return Ok(two);
            }
        }
        skipped("two allocations have no room on these devices")
    }

    /// Places an amount of a slot, so many times; fewer where there is no room.
    fn place(&self, slot: &str, amount: Amount, times: usize) -> Checked<Vec<Vec<Slice>>> {
        let (manifest, found) = (self.manifest()?, self.found()?);
        let plugin = manifest.name.clone();
        let devices = found.devices.into_iter().map(|device| Device {
            plugin: plugin.clone(),
            device,
        });
        let inventory = Inventory {
            devices: devices.collect(),
            numa_nodes: found.numa_nodes.into_iter().map(|n| (n.id, n)).collect(),
            plugins: [(plugin.clone(), manifest)].into(),
            warnings: BTreeMap::new(),
        };
        let request = Request {
            slots: [(slot.to_owned(), amount)].into(),
            ..Request::default()
        };
        let mut snapshot = Snapshot::new(&inventory);
        let Ok(choices) = Choices::resolve(snapshot.machine(), &request, &Limits::default()) else {
            return skipped(format!("{slot} cannot be asked for"));
        };
        let mut placed = Vec::new();
        while placed.len() < times
            && let Some(allocation) = allocate(&snapshot, &choices)
        {
            let slices = snapshot.slices(&allocation.grants);
            placed.push(slices.into_iter().map(|slice| slice.part).collect());
            snapshot.take(&allocation.grants);
        }
        Ok(placed)
    }
}
