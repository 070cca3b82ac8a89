//! What happened to GPUs and is not over: kept over the lives of hosts, so that each
//! command knows what any agent was told.
//!
//! One file, which every look brings up to date, under a lock and by renaming. Whoever
//! knows better than it removes it, and everything is over.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::identity::Found;
use crate::journal::replace;
use crate::nvml::Action;
use crate::root::Root;
use crate::xid::{self, Outcome};

/// So long, ms, and so many times every look has to find a GPU well before it is used
/// again.
const WELL: (u64, u32) = (5000, 3);

/// Something that happened to a GPU and keeps it closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Condition {
    /// The GPU's id.
    pub(crate) gpu: String,
    /// Its PCI address: its id may not be readable for a while.
    address: String,
    /// The XID.
    pub(crate) xid: u64,
    /// What it is, in words.
    what: String,
    /// Does it take more than a reset to be over?
    replace: bool,
    /// The boot in which it happened.
    boot: String,
    /// The GPU's energy counter at the first look after that, mJ; it begins anew with a
    /// reset.
    energy_mj: Option<u64>,
    /// Was the GPU away since?
    gone: bool,
    /// Since when each look found it well, ms since this boot; and how many did.
    well: Option<(u64, u32)>,
}

/// When a look is made.
#[derive(Clone, Debug)]
pub(crate) struct Now {
    /// The boot.
    pub(crate) boot: String,
    /// ms since then, less those in which the machine slept.
    pub(crate) ms: u64,
}

impl Now {
    /// Now, on this machine.
    pub(crate) fn on(root: &Root) -> Self {
        let since = clock_gettime(ClockId::Monotonic);
        let ms = since.tv_sec.saturating_mul(1000);
        let ms = ms.saturating_add(since.tv_nsec / 1_000_000);
        Self {
            boot: root.boot().0,
            ms: u64::try_from(ms).unwrap_or(0),
        }
    }
}

impl Condition {
    /// What follows from an XID now, if it keeps the GPU (its id and address) closed.
    pub(crate) fn new(
        (gpu, address): (&str, &str),
        xid: u64,
        (what, outcome): (&str, Outcome),
        now: &Now,
    ) -> Option<Self> {
        matches!(outcome, Outcome::Reset | Outcome::Replace).then(|| Self {
            gpu: gpu.to_owned(),
            address: address.to_owned(),
            xid,
            what: what.to_owned(),
            replace: outcome == Outcome::Replace,
            boot: now.boot.clone(),
            energy_mj: None,
            gone: false,
            well: None,
        })
    }

    /// Is it about this GPU?
    pub(crate) fn is_of(&self, found: &Found) -> bool {
        found.id == self.gpu || found.address == self.address
    }

    /// Why the GPU is not used, and what ends it.
    pub(crate) fn reason(&self, file: Option<&Path>) -> String {
        let Self { xid, what, .. } = self;
        let forget = file.map(|file| format!("; {} keeps it in mind", file.display()));
        let remedy = match self.replace {
            true => "somebody has to look at the hardware",
            false if *xid == xid::FALLEN => {
                "used again when it answers, which may take a reset or a restart"
            }
            false => {
                "used again when the driver says that it is well, or after a reset (nvidia-smi --gpu-reset) or a restart"
            }
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
        // Neither NVML nor the kernel has it, or it does not answer on the bus. Whatever
        // else keeps NVML from it says nothing of the GPU.
        if found.is_none_or(|found| found.gpu.away) {
            self.gone = true;
        }
        let answers = found.filter(|found| found.gpu.lost.is_none());
        let Some(gpu) = answers.map(|found| &found.gpu) else {
            self.well = None;
            return Some(self);
        };
        let vitals = &gpu.vitals;
        self.energy_mj = self.energy_mj.or(vitals.energy_mj);
        // Without persistence mode the counter may begin anew whenever nobody has it open.
        let counted = self.energy_mj.zip(vitals.energy_mj);
        let counted = counted.filter(|_| vitals.persistent);
        // What was seen stays seen when the counter has passed its old value.
        self.gone |= counted.is_some_and(|(then, now)| now < then);
        let well = match vitals.action {
            // The driver knows what it needs.
            Some(action) => action == Action::None,
            None => self.xid == xid::FALLEN || self.gone,
        };
        if !well || gpu.trouble.is_some() {
            self.well = None;
            return Some(self);
        }
        let (since, looks) = self.well.unwrap_or((now.ms, 0));
        let looks = looks.saturating_add(1);
        self.well = Some((since, looks));
        let over = now.ms.saturating_sub(since) >= WELL.0 && looks >= WELL.1;
        (!over).then_some(self)
    }
}

/// What is not over after a look at the machine.
pub(crate) fn settle(conditions: Vec<Condition>, found: &[Found], now: &Now) -> Vec<Condition> {
    let one = |condition: Condition| {
        let gpu = found.iter().find(|found| condition.is_of(found));
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
    /// What the file should say and does not: it cannot be written, or there is no folder
    /// for it.
    unsaved: Mutex<Option<Vec<Condition>>>,
}

impl Kept {
    /// In the plugin's own folder; without one, as long as this host lives.
    pub(crate) fn in_folder(folder: Option<&str>) -> Self {
        Self {
            file: folder.map(|folder| Path::new(folder).join("conditions.json")),
            unsaved: Mutex::default(),
        }
    }

    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Changes what is kept; gives it back. What cannot be read or written is said, each
    /// time, and what it closed stays closed as long as this host lives.
    pub(crate) fn update(
        &self,
        warnings: &mut Vec<String>,
        change: impl FnOnce(Vec<Condition>) -> Vec<Condition>,
    ) -> Vec<Condition> {
        let unsaved = self.unsaved.lock();
        let mut unsaved = unsaved.unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &self.file else {
            let after = change(unsaved.take().unwrap_or_default());
            return unsaved.insert(after).clone();
        };
        let mut warn = |what: &str, error: &dyn std::fmt::Display| {
            let file = file.display();
            warnings.push(format!(
                "what happened to GPUs cannot be {what} ({file}): {error}"
            ));
        };
        let _turn = lock(file).map_err(|error| warn("locked", &error));
        let said = match fs::read(file).map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(said)) => Some(said),
            // It never says more; what happens next is kept again.
            Ok(Err(error)) => {
                warn("read, and was passed over", &error);
                Some(vec![])
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Some(vec![]),
            Err(error) => {
                warn("read", &error);
                None
            }
        };
        let mut before = said.clone().unwrap_or_default();
        for mine in unsaved.take().unwrap_or_default() {
            add(&mut before, mine);
        }
        let after = change(before);
        let saved = match &said {
            Some(said) if *said == after => true,
            Some(_) => replace(file, &after)
                .map_err(|error| warn("kept", &error))
                .is_ok(),
            // What was not read is not written over.
            None => false,
        };
        if !saved {
            *unsaved = Some(after.clone());
        }
        after
    }
}

fn lock(file: &Path) -> std::io::Result<File> {
    let lock = File::create(file.with_extension("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvml::{Gpu, Vitals};

    fn found(id: &str, away: bool, vitals: Vitals) -> Found {
        Found {
            id: id.into(),
            address: "a".into(),
            uuid: None,
            minor: None,
            model: String::new(),
            gpu: Gpu {
                lost: away.then(String::new),
                away,
                vitals,
                ..Gpu::default()
            },
        }
    }

    fn condition(xid: u64) -> Condition {
        let judged = xid::judge(xid, &xid::Overrides::new());
        Condition::new(("g", "a"), xid, judged, &at(0, "boot")).unwrap()
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
        for (look, (away, action, energy_mj)) in (0..).zip(looks) {
            let vitals = Vitals {
                action: *action,
                energy_mj: *energy_mj,
                persistent: true,
                ..Vitals::default()
            };
            left = settle(left, &[found("g", *away, vitals)], &at(look * 5, "boot"));
        }
        left.is_empty()
    }

    #[test]
    fn an_end_needs_evidence() {
        let well = |energy| (false, None, Some(energy));
        // Old drivers: nothing says that it was reset.
        assert!(!over(48, &[well(1001), well(1002), well(1003), well(1004)]));
        // The counter began anew: it was.
        assert!(!over(48, &[well(5), well(6)]));
        assert!(over(48, &[well(5), well(6), well(7)]));
        assert!(over(48, &[well(5), well(2000), well(2001)]));
        // It was away.
        let away = (true, None, None);
        assert!(over(119, &[away, well(2000), well(2001), well(2002)]));
        assert!(!over(
            119,
            &[away, well(2000), well(2001), away, well(2001)]
        ));
        // Off the bus: it answers, so it is on it.
        assert!(over(79, &[well(2000), well(2001), well(2002)]));
        assert!(!over(79, &[away, away, well(2000), well(2001)]));
        // New drivers say it.
        let says = |action| (false, Some(action), Some(1));
        let (reset, none) = (says(Action::Reset), says(Action::None));
        assert!(!over(79, &[reset, reset, reset, reset]));
        assert!(!over(95, &[none, none]));
        assert!(over(95, &[says(Action::Reboot), none, none, none]));
    }

    #[test]
    fn what_says_nothing_of_the_gpu_is_no_evidence() {
        // A look at which NVML was kept from it, and one without its UUID.
        let mut kept_out = found("g", true, Vitals::default());
        kept_out.gpu.away = false;
        let left = settle(vec![condition(95)], &[kept_out], &at(0, "boot"));
        let renamed = found("0000:01:00.0", false, Vitals::default());
        let mut left = settle(left, &[renamed], &at(5, "boot"));
        // A counter that begins anew because nobody had the GPU open.
        for look in 2..8 {
            let vitals = Vitals {
                energy_mj: Some(1000 / look),
                ..Vitals::default()
            };
            left = settle(left, &[found("g", false, vitals)], &at(look * 5, "boot"));
        }
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn a_restart_ends_what_a_reset_ends() {
        let left = |xid, boot| settle(vec![condition(xid)], &[], &at(1, boot)).len();
        assert_eq!(left(95, "other"), 0);
        assert_eq!(left(54, "other"), 1);
        assert_eq!(left(95, "boot"), 1);
        let judged = |xid| xid::judge(xid, &xid::Overrides::new());
        assert_eq!(
            Condition::new(("g", "a"), 13, judged(13), &at(0, "boot")),
            None
        );
    }

    #[test]
    fn two_good_looks_are_not_enough() {
        let look = |left, seconds| {
            let well = found("g", false, Vitals::default());
            settle(left, &[well], &at(seconds, "boot"))
        };
        let left = look(look(look(vec![condition(79)], 0), 1), 4);
        assert_eq!(left.len(), 1);
        assert_eq!(look(left, 5), []);
        // However far apart.
        let left = look(look(vec![condition(79)], 0), 3600);
        assert_eq!(left.len(), 1);
        assert_eq!(look(left, 3601), []);
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
        // Somebody knows better.
        fs::remove_file(kept.file().unwrap()).unwrap();
        assert_eq!(kept.update(&mut warnings, |all| all), []);
        let none = Kept::in_folder(None);
        assert_eq!(none.update(&mut warnings, |_| all.clone()), all);
        assert_eq!(none.update(&mut warnings, |all| all), all);
    }

    #[test]
    fn what_cannot_be_written_closes_all_the_same_and_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::in_folder(folder.path().to_str());
        // In the way of the new file.
        let new = folder.path().join("conditions.new");
        fs::create_dir(&new).unwrap();
        let all = vec![condition(95)];
        let mut warnings = vec![];
        assert_eq!(kept.update(&mut warnings, |_| all.clone()), all);
        assert_eq!(kept.update(&mut warnings, |all| all), all);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        fs::remove_dir(&new).unwrap();
        assert_eq!(kept.update(&mut warnings, |all| all), all);
        let another = Kept::in_folder(folder.path().to_str());
        assert_eq!(another.update(&mut warnings, |all| all), all);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        // In the way of the file: what it may say is not written over.
        fs::remove_file(another.file().unwrap()).unwrap();
        fs::create_dir(another.file().unwrap()).unwrap();
        assert_eq!(another.update(&mut warnings, |_| all.clone()), all);
        assert_eq!(another.update(&mut warnings, |all| all), all);
        assert_eq!(warnings.len(), 4, "{warnings:?}");
    }
}
