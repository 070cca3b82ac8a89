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

use divvy_plugin::{Edits, ErrorCode, PluginError};

use crate::no;

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

    /// Cores for an allocation: so many of each unit's. The same ones if it
    /// has them already.
    pub(crate) fn claim(
        &self,
        allocation: &str,
        wanted: &BTreeMap<&str, Wanted>,
    ) -> Result<Cores, PluginError> {
        let file = self.file(allocation)?;
        let _lock = self.lock()?;
        let mut taken = Cores::new();
        for entry in fs::read_dir(&self.0).map_err(|e| self.failed(&e))? {
            let path = entry.map_err(|e| self.failed(&e))?.path();
            let held = fs::read_to_string(&path).map_err(|e| self.failed(&e))?;
            if path == file {
                return Ok(parse(&held));
            }
            for (unit, cores) in parse(&held) {
                taken.entry(unit).or_default().extend(cores);
            }
        }
        let mut mine = Cores::new();
        for (unit, wanted) in wanted {
            let taken = taken.get(*unit);
            let free = (0..wanted.of).filter(|core| taken.is_none_or(|t| !t.contains(core)));
            let cores: BTreeSet<u32> = free.take(wanted.cores as usize).collect();
            if cores.len() < wanted.cores as usize {
                let message = format!(
                    "{unit} has no {} free cores; see {}",
                    wanted.cores,
                    self.0.display()
                );
                return Err(no(ErrorCode::Busy, message));
            }
            mine.insert((*unit).to_owned(), cores);
        }
        self.write(&file, &text(&mine))?;
        Ok(mine)
    }

    /// Gives up an allocation's cores. One that is not known is a success.
    pub(crate) fn give_up(&self, allocation: &str) -> Result<(), PluginError> {
        match fs::remove_file(self.file(allocation)?) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.failed(&e)),
            _ => Ok(()),
        }
    }

    /// Makes a claim that was lost again, as the workload was told then.
    pub(crate) fn restore(&self, allocation: &str, edits: &Edits) -> Result<(), PluginError> {
        let file = self.file(allocation)?;
        let told = edits.env.iter().find(|var| var.name == VARIABLE);
        let (Some(told), false) = (told, file.exists()) else {
            return Ok(());
        };
        let _lock = self.lock()?;
        self.write(&file, &told.value)
    }

    fn file(&self, allocation: &str) -> Result<PathBuf, PluginError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if allocation.is_empty() || !allocation.chars().all(plain) {
            return Err(no(
                ErrorCode::Invalid,
                format!("{allocation:?} is no allocation's id"),
            ));
        }
        Ok(self.0.join(allocation))
    }

    fn lock(&self) -> Result<File, PluginError> {
        let open = || {
            fs::create_dir_all(&self.0)?;
            let folder = File::open(&self.0)?;
            folder.lock()?;
            Ok(folder)
        };
        open().map_err(|e: io::Error| self.failed(&e))
    }

    /// There whole or not at all, whenever we are killed.
    fn write(&self, file: &Path, text: &str) -> Result<(), PluginError> {
        let new = self.0.with_extension("new");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, file));
        written.map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &io::Error) -> PluginError {
        let message = format!("{}, where claims are kept: {error}", self.0.display());
        no(ErrorCode::Driver, message)
    }
}

/// So many cores of a unit that has `of`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) cores: u32,
    pub(crate) of: u32,
}

pub(crate) fn text(cores: &Cores) -> String {
    let numbers = |cores: &BTreeSet<u32>| {
        cores
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    let units = cores
        .iter()
        .map(|(unit, cores)| format!("{unit}:{}", numbers(cores)));
    units.collect::<Vec<_>>().join(" ")
}

fn parse(text: &str) -> Cores {
    let unit = |word: &str| {
        let (unit, cores) = word.rsplit_once(':')?;
        Some((
            unit.to_owned(),
            cores.split(',').filter_map(|c| c.parse().ok()).collect(),
        ))
    };
    text.split_whitespace().filter_map(unit).collect()
}
