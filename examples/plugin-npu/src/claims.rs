//! Which cores belong to which allocation.
//!
//! How many cores an allocation gets, the agent decides; which ones, this
//! plugin does. That has to outlive the process, and two commands may ask at
//! once: so each allocation has a file, `ROOT/run/npu/ALLOCATION`, written by
//! rename and under a lock. Its text is also the value of `NPU_CORES`, from
//! which a lost one is made again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use divvy_plugin::{Edits, PluginError};

use crate::discover::Unit;
use crate::error::{driver, invalid};

/// The variable that tells a workload its cores.
pub(crate) const VARIABLE: &str = "NPU_CORES";

/// Cores by unit. As text: `NPU-A:0,1 NPU-B:7`.
pub(crate) type Cores = BTreeMap<String, BTreeSet<u32>>;

/// The folder of claims.
#[derive(Debug)]
pub(crate) struct Claims(PathBuf);

impl Claims {
    pub(crate) fn new(root: &Path) -> Self {
        Self(root.join("run/npu"))
    }

    /// So many cores of these units for an allocation; the same ones if it has
    /// them already.
    pub(crate) fn claim(
        &self,
        allocation: &str,
        wanted: &[(&Unit, usize)],
    ) -> Result<Cores, PluginError> {
        let file = self.file(allocation)?;
        let _lock = self.lock()?;
        let mut taken = Cores::new();
        for entry in fs::read_dir(&self.0).map_err(|e| self.failed(&e))? {
            let path = entry.map_err(|e| self.failed(&e))?.path();
            let held = parse(&fs::read_to_string(&path).map_err(|e| self.failed(&e))?);
            if path == file {
                return Ok(held);
            }
            for (unit, cores) in held {
                taken.entry(unit).or_default().extend(cores);
            }
        }
        let mut mine = Cores::new();
        for (unit, wanted) in wanted {
            let id = &unit.device.id;
            let taken = taken.entry(id.clone()).or_default();
            let free = (0..unit.cores).filter(|core| !taken.contains(core));
            let cores: BTreeSet<u32> = free.take(*wanted).collect();
            if cores.len() < *wanted {
                let folder = self.0.display();
                return Err(driver(format!("{id} has no {wanted} cores free: {folder}")));
            }
            mine.insert(id.clone(), cores);
        }
        self.write(&file, &text(&mine))?;
        Ok(mine)
    }

    /// Gives up an allocation's cores. One that is not known is a success.
    pub(crate) fn give_up(&self, allocation: &str) -> Result<(), PluginError> {
        let file = self.file(allocation)?;
        let _lock = self.lock()?;
        match fs::remove_file(file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.failed(&e)),
            _ => Ok(()),
        }
    }

    /// Makes a claim that was lost again, as the workload was told then.
    pub(crate) fn restore(&self, allocation: &str, edits: &Edits) -> Result<(), PluginError> {
        let file = self.file(allocation)?;
        let _lock = self.lock()?;
        match edits.env.iter().find(|var| var.name == VARIABLE) {
            Some(told) if !file.exists() => self.write(&file, &told.value),
            _ => Ok(()),
        }
    }

    fn file(&self, allocation: &str) -> Result<PathBuf, PluginError> {
        match allocation.chars().all(|c| c.is_ascii_alphanumeric()) && !allocation.is_empty() {
            true => Ok(self.0.join(allocation)),
            false => Err(invalid(format!("{allocation:?} is no allocation's id"))),
        }
    }

    /// Held until it is dropped, or the process ends.
    fn lock(&self) -> Result<File, PluginError> {
        let folder = fs::create_dir_all(&self.0).and_then(|()| File::open(&self.0));
        let locked = folder.and_then(|folder| folder.lock().map(|()| folder));
        locked.map_err(|e| self.failed(&e))
    }

    /// There whole or not at all, whenever we are killed.
    fn write(&self, file: &Path, text: &str) -> Result<(), PluginError> {
        let new = self.0.with_extension("new");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, file));
        written.map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &io::Error) -> PluginError {
        driver(format!("the claims in {}: {error}", self.0.display()))
    }
}

pub(crate) fn text(cores: &Cores) -> String {
    let unit = |(unit, cores): (&String, &BTreeSet<u32>)| {
        let cores: Vec<String> = cores.iter().map(u32::to_string).collect();
        format!("{unit}:{}", cores.join(","))
    };
    cores.iter().map(unit).collect::<Vec<_>>().join(" ")
}

fn parse(text: &str) -> Cores {
    let unit = |word: &str| {
        let (unit, cores) = word.rsplit_once(':')?;
        let cores = cores.split(',').filter_map(|core| core.parse().ok());
        Some((unit.to_owned(), cores.collect()))
    };
    text.split_whitespace().filter_map(unit).collect()
}
