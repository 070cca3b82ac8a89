//! What happened to GPUs and is not over: kept over the lives of hosts, so that each
//! command knows what any agent was told.
//!
//! One file, which every look brings up to date, under a lock and by renaming. Whoever
//! knows better than it removes it, and everything is over.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::identity::Found;
use crate::nvml::Action;
use crate::xid::{self, Outcome};

/// So long every look has to find a GPU well before it is used again, ms.
const WELL_MS: u64 = 5000;

/// Something that happened to a GPU and keeps it closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Condition {
    /// The GPU's id.
    pub(crate) gpu: String,
    /// The XID.
    pub(crate) xid: u64,
    /// What it is, in words.
    pub(crate) what: String,
    /// Does it take more than a reset to be over?
    pub(crate) replace: bool,
    /// The boot in which it happened.
    boot: String,
    /// The GPU's energy counter at the first look after that, mJ; it begins anew with a
    /// reset.
    energy_mj: Option<u64>,
    /// Was the GPU away since?
    gone: bool,
    /// Since when each look found it well, ms since 1970.
    well_since_ms: Option<u64>,
}

/// When a look is made.
#[derive(Clone, Debug)]
pub(crate) struct Now {
    /// The boot.
    pub(crate) boot: String,
    /// ms since 1970.
    pub(crate) ms: u64,
}

impl Now {
    /// Now, on this machine.
    pub(crate) fn here() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            boot: boot.unwrap_or_default().trim().to_owned(),
            ms: since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0)),
        }
    }
}

impl Condition {
    /// What follows from an XID now, if it keeps the GPU closed.
    pub(crate) fn new(
        gpu: &str,
        xid: u64,
        (what, outcome): (&str, Outcome),
        now: &Now,
    ) -> Option<Self> {
        matches!(outcome, Outcome::Reset | Outcome::Replace).then(|| Self {
            gpu: gpu.to_owned(),
            xid,
            what: what.to_owned(),
            replace: outcome == Outcome::Replace,
            boot: now.boot.clone(),
            energy_mj: None,
            gone: false,
            well_since_ms: None,
        })
    }

    /// Why the GPU is not used, and what ends it.
    pub(crate) fn reason(&self, file: Option<&Path>) -> String {
        let Self { xid, what, gpu, .. } = self;
        let forget =
            file.map(|file| format!("; if it is well all the same, remove {}", file.display()));
        let remedy = match self.replace {
            true => "somebody has to look at the hardware".to_owned(),
            false if *xid == xid::FALLEN => "it is used again when it answers: a reset, or a restart of the machine, may be needed".to_owned(),
            false => format!("it is used again after a reset (nvidia-smi --gpu-reset -i {gpu}) or a restart"),
        };
        format!("XID {xid}: {what}; {remedy}{}", forget.unwrap_or_default())
    }

    /// The same after a look; `None`: it is over. `found` is the GPU as it is now, if it
    /// is there.
    fn after(mut self, found: Option<&Found>, now: &Now) -> Option<Self> {
        if self.replace {
            return Some(self);
        }
        // A restart of the machine resets everything.
        if self.boot != now.boot {
            return None;
        }
        let Some(gpu) = found
            .map(|found| &found.gpu)
            .filter(|gpu| gpu.lost.is_none())
        else {
            self.gone = true;
            self.well_since_ms = None;
            return Some(self);
        };
        let vitals = &gpu.vitals;
        self.energy_mj = self.energy_mj.or(vitals.energy_mj);
        let restarted =
            matches!((self.energy_mj, vitals.energy_mj), (Some(then), Some(now)) if now < then);
        let well = match vitals.action {
            // The driver knows what it needs.
            Some(action) => action == Action::None,
            None => self.xid == xid::FALLEN || self.gone || restarted,
        };
        // What was seen stays seen when the counter has passed its old value.
        self.gone |= restarted;
        if !well || gpu.trouble.is_some() {
            self.well_since_ms = None;
            return Some(self);
        }
        // A clock that was set back begins anew.
        let since = self.well_since_ms.filter(|since| *since <= now.ms);
        let since = *self.well_since_ms.insert(since.unwrap_or(now.ms));
        (now.ms - since < WELL_MS).then_some(self)
    }
}

/// What is not over after a look at the machine.
pub(crate) fn settle(conditions: Vec<Condition>, found: &[Found], now: &Now) -> Vec<Condition> {
    let one = |condition: Condition| {
        let gpu = found.iter().find(|found| found.id == condition.gpu);
        condition.after(gpu, now)
    };
    conditions.into_iter().filter_map(one).collect()
}

/// Adds one; of what happened before under the same number, the later counts.
pub(crate) fn add(conditions: &mut Vec<Condition>, new: Condition) {
    conditions.retain(|old| (&old.gpu, old.xid) != (&new.gpu, new.xid));
    conditions.push(new);
}

/// Where they are kept.
#[derive(Debug)]
pub(crate) struct Kept {
    file: Option<PathBuf>,
    /// Instead of a file, where there is no folder for one.
    memory: Mutex<Vec<Condition>>,
}

impl Kept {
    /// In the plugin's own folder; without one, as long as this host lives.
    pub(crate) fn in_folder(folder: Option<&str>) -> Self {
        Self {
            file: folder.map(|folder| Path::new(folder).join("conditions.json")),
            memory: Mutex::default(),
        }
    }

    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Changes what is kept; gives it back.
    pub(crate) fn update(
        &self,
        warnings: &mut Vec<String>,
        change: impl FnOnce(Vec<Condition>) -> Vec<Condition>,
    ) -> Vec<Condition> {
        let Some(file) = &self.file else {
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            *memory = change(std::mem::take(&mut *memory));
            return memory.clone();
        };
        let mut warn = |what: &str, error: &dyn std::fmt::Display| {
            let file = file.display();
            warnings.push(format!(
                "what happened to GPUs cannot be {what} ({file}): {error}"
            ));
        };
        let lock = File::create(file.with_extension("lock"));
        let locked = lock.and_then(|lock| {
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
            Ok(lock)
        });
        if let Err(error) = &locked {
            warn("locked", error);
        }
        let before = match fs::read(file).map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(kept)) => kept,
            // Closes nothing for ever; what happens next is kept again.
            Ok(Err(error)) => {
                warn("read, and was passed over", &error);
                vec![]
            }
            Err(_) => vec![],
        };
        let after = change(before.clone());
        if after != before
            && let Err(error) = save(file, &after)
        {
            warn("kept", &error);
        }
        after
    }
}

/// Puts a file in place, whole.
fn save(file: &Path, conditions: &[Condition]) -> std::io::Result<()> {
    let new = file.with_extension("new");
    let mut writing = File::create(&new)?;
    serde_json::to_writer(&mut writing, conditions)?;
    writing.flush()?;
    writing.sync_all()?;
    fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvml::{Gpu, Vitals};

    fn found(id: &str, lost: bool, vitals: Vitals) -> Found {
        Found {
            id: id.into(),
            address: String::new(),
            uuid: None,
            minor: None,
            model: String::new(),
            gpu: Gpu {
                lost: lost.then(String::new),
                vitals,
                ..Gpu::default()
            },
        }
    }

    fn condition(xid: u64) -> Condition {
        let judged = xid::judge(xid, &xid::Overrides::new());
        Condition::new("g", xid, judged, &at(0, "boot")).unwrap()
    }

    fn at(seconds: u64, boot: &str) -> Now {
        Now {
            boot: boot.into(),
            ms: 1_000_000 + seconds * 1000,
        }
    }

    /// Is it over after these looks, 5 s apart?
    fn over(xid: u64, looks: &[(bool, Option<Action>, Option<u64>)]) -> bool {
        let first = Condition {
            energy_mj: Some(1000),
            ..condition(xid)
        };
        let mut left = vec![first];
        for (look, (lost, action, energy_mj)) in (0..).zip(looks) {
            let vitals = Vitals {
                action: *action,
                energy_mj: *energy_mj,
                ..Vitals::default()
            };
            left = settle(left, &[found("g", *lost, vitals)], &at(look * 5, "boot"));
        }
        left.is_empty()
    }

    #[test]
    fn an_end_needs_evidence() {
        let well = |energy| (false, None, Some(energy));
        // Old drivers: nothing says that it was reset.
        assert!(!over(48, &[well(1001), well(1002), well(1003), well(1004)]));
        // The counter began anew: it was.
        assert!(!over(48, &[well(5)]));
        assert!(over(48, &[well(5), well(6)]));
        assert!(over(48, &[well(5), well(2000)]));
        // It was away.
        let away = (true, None, None);
        assert!(over(119, &[away, well(2000), well(2001)]));
        assert!(!over(119, &[away, well(2000), away, well(2001)]));
        // Off the bus: it answers, so it is on it.
        assert!(over(79, &[well(2000), well(2001)]));
        assert!(!over(79, &[away, away, well(2000)]));
        // New drivers say it.
        let says = |action| (false, Some(action), Some(1));
        assert!(!over(
            79,
            &[
                says(Action::Reset),
                says(Action::Reset),
                says(Action::Reset)
            ]
        ));
        assert!(!over(95, &[says(Action::None)]));
        assert!(over(
            95,
            &[says(Action::Reboot), says(Action::None), says(Action::None)]
        ));
    }

    #[test]
    fn a_restart_ends_what_a_reset_ends() {
        let left = |xid, boot| settle(vec![condition(xid)], &[], &at(1, boot)).len();
        assert_eq!(left(95, "other"), 0);
        assert_eq!(left(54, "other"), 1);
        assert_eq!(left(95, "boot"), 1);
        let judged = |xid| xid::judge(xid, &xid::Overrides::new());
        assert_eq!(Condition::new("g", 13, judged(13), &at(0, "boot")), None);
    }

    #[test]
    fn one_good_look_is_not_enough() {
        let look = |left, seconds| {
            settle(
                left,
                &[found("g", false, Vitals::default())],
                &at(seconds, "boot"),
            )
        };
        let left = look(look(vec![condition(79)], 0), 4);
        assert_eq!(left.len(), 1);
        assert_eq!(look(left.clone(), 5), []);
        // A clock that was set back counts from then on.
        let mut back = at(0, "boot");
        back.ms = 10;
        let left = settle(left, &[found("g", false, Vitals::default())], &back);
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn they_outlive_who_wrote_them() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::in_folder(folder.path().to_str());
        let mut warnings = vec![];
        let all = kept.update(&mut warnings, |mut all| {
            add(&mut all, condition(95));
            add(&mut all, condition(79));
            add(&mut all, condition(95));
            all
        });
        assert_eq!((all.len(), warnings.len()), (2, 0));
        assert_eq!(kept.update(&mut warnings, |all| all), all);
        fs::write(kept.file().unwrap(), "[{").unwrap();
        assert_eq!(kept.update(&mut warnings, |all| all), []);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(kept.update(&mut warnings, |_| all.clone()), all);
        let none = Kept::in_folder(None);
        assert_eq!(none.update(&mut warnings, |_| all.clone()), all);
        assert_eq!(none.update(&mut warnings, |all| all), all);
    }
}
