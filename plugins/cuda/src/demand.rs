//! MIG on demand: what `open`, `prepare`, `release` and `restore` do about it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use divvy_plugin::{Edits, PrepareRequest, ReleaseRequest, Slice};

use crate::carve::Carver;
use crate::config::Config;
use crate::discover::Machine;
use crate::error::Error;
use crate::journal::{Entry, Store};
use crate::manage::{Manage, Policy};
use crate::prepare;
use crate::root::Root;
use crate::{CudaPlugin, nvml};

/// An allocation that was not among those that this host was told of, and that was written
/// down so long before the host began, holds nothing: whoever writes one down has it in the
/// ledger, and a host is told what was there when it began, or a little before.
const FORGOTTEN_MS: u64 = 600_000;

/// What is remembered over hosts, and what this one was told.
#[derive(Debug)]
pub(crate) struct Demand {
    store: Option<Store>,
    manage: Manage,
    /// ms since the machine began.
    opened_ms: u64,
    held: Mutex<BTreeSet<String>>,
    is_told: AtomicBool,
}

impl Demand {
    /// What the settings allow; `state` is the plugin's own folder.
    ///
    /// # Errors
    /// MIG is to be changed, and what is made cannot be written down.
    pub(crate) fn new(config: &Config, root: &Root, state: Option<&str>) -> Result<Self, Error> {
        let mut manage = config.manage.clone();
        if manage.policy != Policy::Keep && state.is_none() {
            // Others than root can look, and change nothing.
            if rustix::process::geteuid().is_root() {
                return Err(Error::NoState);
            }
            manage.policy = Policy::Keep;
        }
        Ok(Self {
            store: state.map(Store::new),
            manage,
            opened_ms: root.boot().1,
            held: Mutex::default(),
            is_told: AtomicBool::new(false),
        })
    }

    /// With which GPUs Divvy may do what.
    pub(crate) fn manage(&self) -> &Manage {
        &self.manage
    }

    /// Where it is written down, if MIG may be changed.
    pub(crate) fn managing(&self) -> Option<&Store> {
        let may = self.manage.policy != Policy::Keep;
        self.store.as_ref().filter(|_| may)
    }

    /// Remembers that something is held.
    pub(crate) fn remember<'a>(&self, allocations: impl IntoIterator<Item = &'a String>) {
        self.held().extend(allocations.into_iter().cloned());
    }

    /// Learns all that is held.
    pub(crate) fn learn<'a>(&self, allocations: impl IntoIterator<Item = &'a String>) {
        self.remember(allocations);
        self.is_told.store(true, Ordering::Relaxed);
    }

    /// Is it, as far as this host can tell?
    pub(crate) fn is_held(&self, entry: &Entry) -> bool {
        let recent = entry.at_ms.saturating_add(FORGOTTEN_MS) > self.opened_ms;
        let may = !self.is_told.load(Ordering::Relaxed) || recent;
        may || self.held().contains(&entry.allocation)
    }

    fn held(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CudaPlugin {
    /// Makes what a request needs, and has edits for it: all of it or nothing.
    pub(crate) fn make(&self, request: &PrepareRequest, store: &Store) -> Result<Edits, Error> {
        let found = self.libraries()?;
        self.same_version(&found)?;
        self.demand.remember([&request.allocation]);
        let start = || nvml::start(&self.root, &found.nvml);
        let is_held = |entry: &Entry| self.demand.is_held(entry);
        let mut carver = Carver {
            turn: store.turn()?,
            nvml: Some(start()?),
            start: &start,
            root: &self.root,
            boot: self.root.boot(),
            is_held: &is_held,
        };
        let machine = self.look(&carver)?;
        // Whatever can be refused is, before anything is made.
        let asked = |slice| prepare::asked(slice, &machine);
        let units = request
            .slices
            .iter()
            .map(asked)
            .collect::<Result<Vec<_>, _>>()?;
        self.suits(request, &machine, &units, &found)?;
        let mut changes = vec![];
        let edits = carver.make(request, &machine, &mut changes).and_then(|()| {
            let machine = self.look(&carver)?;
            self.edits(request, &machine, &found)
        });
        edits.map_err(|error| carver.undo(changes, error))
    }

    /// The machine, as whoever may change it finds it.
    fn look(&self, carver: &Carver<'_>) -> Result<Machine, Error> {
        let nvml = carver.nvml().map_err(|e| Error::Init(e.to_string()))?;
        self.read(&nvml, Ok(carver.turn.entries().to_vec()))
    }

    /// Unmakes what was made for an allocation. (What somebody still computes on, the core
    /// keeps closed.)
    pub(crate) fn unmake(&self, request: &ReleaseRequest) -> Result<(), Error> {
        let mine = |entry: &Entry| entry.allocation == request.allocation;
        let Some(store) = &self.demand.store else {
            return Ok(());
        };
        let entries = match store.entries() {
            Ok(entries) => entries,
            // Of what is not cut nothing has to be known.
            Err(_) if !request.slices.iter().any(is_cut) => return Ok(()),
            Err(error) => return Err(error),
        };
        if !entries.iter().any(mine) {
            return Ok(());
        }
        let mut turn = store.turn()?;
        let mut made = turn.of(&request.allocation).into_iter();
        let Some(made) = made.find(|entry| entry.part.is_some()) else {
            return turn.retain(|entry| !mine(entry));
        };
        let nvml = self
            .libraries()
            .and_then(|found| nvml::start(&self.root, &found.nvml));
        let nvml = match nvml {
            Ok(nvml) => nvml,
            // No instance outlives the driver.
            Err(_) if self.root.driver_version().is_none() => {
                return turn.retain(|entry| !mine(entry));
            }
            Err(error) => {
                return Err(Error::Unknown {
                    gpu: made.gpu,
                    what: "what was made".into(),
                    why: error.to_string(),
                });
            }
        };
        let is_held = |entry: &Entry| self.demand.is_held(entry);
        let mut carver = Carver {
            turn,
            nvml: Some(nvml),
            start: &|| Err(Error::Turn),
            root: &self.root,
            boot: self.root.boot(),
            is_held: &is_held,
        };
        carver.release(&request.allocation)
    }
}

/// Is it of a partition that was made for it? (An instance that existed is a device of its
/// own.)
fn is_cut(slice: &Slice) -> bool {
    slice.start.is_some() && !slice.device.starts_with("MIG-")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    #[test]
    fn nobody_is_forgotten_on_missing_evidence() {
        let config = Config::parse(&BTreeMap::new()).unwrap();
        let mut demand = Demand::new(&config, &Root::new(Path::new("/")), Some("/tmp")).unwrap();
        demand.opened_ms = FORGOTTEN_MS + 1000;
        let entry = |allocation: &str, at_ms| Entry {
            allocation: allocation.into(),
            gpu: "GPU-1".into(),
            address: "0000:01:00.0".into(),
            boot: "b".into(),
            at_ms,
            part: None,
        };
        // A host that was told nothing.
        assert!(demand.is_held(&entry("a", 0)));
        demand.learn([&"b".to_owned()]);
        assert!(demand.is_held(&entry("b", 0)));
        assert!(!demand.is_held(&entry("a", 0)));
        // It may have begun after the list was made.
        assert!(demand.is_held(&entry("a", 1001)));
        demand.remember([&"a".to_owned()]);
        assert!(demand.is_held(&entry("a", 0)));
    }
}
