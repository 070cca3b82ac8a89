//! Which environment variables nobody but plugins may set: by plugins' own
//! word, and by rules that hold whatever plugins there are (S1, S2).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::Inventory;
use crate::plugin::validate;

/// Variables that choose devices by a runtime's or a library's rule, even
/// where no plugin reserves them.
const DEVICE_VARIABLES: [&str; 4] = [
    "*_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "DOCKER_RESOURCE_*",
    "LD_AUDIT",
];

/// The names that are reserved on a machine: `NAME`, or `BEGINNING*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reserved(Vec<String>);

/// Why a variable cannot be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VariableFault {
    /// It is none.
    Malformed,
    /// Only plugins set it.
    Reserved,
}

impl Reserved {
    /// What the plugins of this machine reserve.
    #[must_use]
    pub fn of(inventory: &Inventory) -> Self {
        Self(inventory.reserved_env().map(str::to_owned).collect())
    }

    /// Is this a variable that only plugins set?
    pub(crate) fn holds(&self, name: &str) -> bool {
        let upper = name.to_ascii_uppercase();
        validate::is_reserved(name, self.0.iter().map(String::as_str))
            || DEVICE_VARIABLES
                .iter()
                .any(|pattern| match pattern.strip_prefix('*') {
                    Some(ending) => upper.ends_with(ending),
                    None => validate::is_reserved(&upper, [*pattern]),
                })
    }

    /// May an image or an inherited environment set this?
    pub(crate) fn lets(&self, name: &str) -> bool {
        validate::env_name(name) && !self.holds(name)
    }

    /// May a user set this?
    pub(crate) fn check(&self, name: &str, value: &str) -> Result<(), VariableFault> {
        if !validate::env_name(name) || value.contains('\0') {
            return Err(VariableFault::Malformed);
        }
        if self.holds(name) {
            return Err(VariableFault::Reserved);
        }
        Ok(())
    }
}

/// Of what an image says of reserved variables: those that one plugin reserves.
pub(crate) fn held_back(
    image: &BTreeMap<String, String>,
    reserved: &[String],
) -> BTreeMap<String, String> {
    let patterns = || reserved.iter().map(String::as_str);
    image
        .iter()
        .filter(|(name, _)| validate::is_reserved(name, patterns()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_chooses_devices_is_reserved_whatever_plugins_there_are() {
        let reserved = Reserved(vec!["OMP_NUM_*".into()]);
        for name in [
            "NVIDIA_VISIBLE_DEVICES",
            "cuda_visible_devices",
            "ROCR_VISIBLE_DEVICES",
            "LD_AUDIT",
            "OMP_NUM_THREADS",
        ] {
            assert_eq!(
                reserved.check(name, "all"),
                Err(VariableFault::Reserved),
                "{name}"
            );
        }
        for name in ["PATH", "LD_PRELOAD", "OMP", "VISIBLE"] {
            assert_eq!(reserved.check(name, "x"), Ok(()), "{name}");
        }
        for (name, value) in [("", "x"), ("1A", "x"), ("A B", "x"), ("A", "x\0y")] {
            assert_eq!(
                reserved.check(name, value),
                Err(VariableFault::Malformed),
                "{name:?}"
            );
        }
    }
}
