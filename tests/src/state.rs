//! What must be so of a machine's state at any moment, and workloads that tell
//! whether they were disturbed.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use divvy::model::{Amount, Record};
use serde_json::Value;

use crate::rootfs::{dump, record, start, text, work};
use crate::{Machine, eventually};

/// A workload that must not notice what happens around it: it counts in a file.
#[derive(Debug)]
pub struct Witness {
    id: String,
    name: String,
    pid: u64,
    started: String,
    beats: PathBuf,
}

impl Witness {
    /// Starts one.
    ///
    /// # Panics
    /// It does not begin to count.
    #[track_caller]
    #[must_use]
    pub fn start(machine: &Machine, runtime: &str, name: &str, options: &str) -> Self {
        let beats = work(machine).join(format!("{name}.beats"));
        let script = format!("while sleep 0.2; do echo >> {name}.beats; done");
        start(machine, runtime, name, options, &script);
        let now = record(machine, name);
        let pid = now["pid"].as_u64().expect("a pid");
        let witness = Self {
            id: text(&now["id"]).to_owned(),
            name: name.to_owned(),
            pid,
            started: start_time(pid).expect("a process"),
            beats,
        };
        assert!(eventually(|| witness.beats() > 0), "{name} does not count");
        witness
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How often it has counted.
    #[must_use]
    pub fn beats(&self) -> u64 {
        fs::metadata(&self.beats).map_or(0, |m| m.len())
    }

    /// It is the same process, and goes on.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn is_untouched(&self) {
        assert_eq!(
            start_time(self.pid).as_ref(),
            Some(&self.started),
            "{} is not the process that it was",
            self.name
        );
        let before = self.beats();
        assert!(
            eventually(|| self.beats() > before),
            "{} does not go on",
            self.name
        );
    }
}

/// When a process was started, in clock ticks: its number may be another's, its
/// number and this not. The second field of the line may hold spaces.
#[must_use]
pub fn start_time(pid: u64) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

/// All records of one moment, as the ledger has them; nothing is picked up.
///
/// # Panics
/// They cannot be read.
#[track_caller]
#[must_use]
pub fn snapshot(machine: &Machine) -> Vec<Record> {
    let document: Value = serde_json::from_str(&dump(machine)).expect("JSON");
    serde_json::from_value(document["records"].clone()).expect("records")
}

/// What the records hold, by device and capacity.
#[must_use]
pub fn sums(records: &[Record]) -> BTreeMap<(String, String), Amount> {
    let mut sums = BTreeMap::new();
    for slice in records.iter().filter(|r| r.holds()).flat_map(|r| &r.slices) {
        for (capacity, amount) in &slice.part.capacities {
            let key = (slice.part.device.clone(), capacity.clone());
            let sum = sums.entry(key).or_insert(Amount::ZERO);
            *sum = sum.checked_add(*amount).expect("a sum");
        }
    }
    sums
}

/// No slice is lost or doubled: what the records hold is what the devices say,
/// and no more than there is.
///
/// # Panics
/// It is not so.
#[track_caller]
pub fn audit(machine: &Machine) {
    let mut said = String::new();
    // Between the two looks, something may end.
    let sound = eventually(|| {
        let answer = machine.divvy("--json devices").run().succeeds().json();
        let sums = sums(&snapshot(machine));
        let mut devices = BTreeMap::new();
        for device in answer["devices"].as_array().expect("devices") {
            for (capacity, usage) in device["usage"].as_object().expect("usage") {
                let amount = |what: &str| -> Amount {
                    serde_json::from_value(usage[what].clone()).expect("an amount")
                };
                let key = (text(&device["id"]).to_owned(), capacity.clone());
                let usable = amount("total").checked_sub(amount("reserved"));
                assert!(
                    Some(amount("used")) <= usable,
                    "{key:?}: more is held than there is: {usage}"
                );
                if amount("used") != Amount::ZERO {
                    devices.insert(key, amount("used"));
                }
            }
        }
        said = format!("devices say {devices:#?}, records {sums:#?}");
        devices == sums
    });
    assert!(sound, "{said}");
}
