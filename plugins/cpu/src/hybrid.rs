//! Fast and frugal cores of hybrid machines.
//!
//! The kernel says it in one of three ways. Intel, since Linux 5.13: two
//! performance monitors, `/sys/devices/cpu_core/cpus` and `cpu_atom/cpus`.
//! ARM and others: `cpu_capacity`, 1024 for the fastest. Otherwise the base
//! frequency, or else the highest frequency, tells. Where a number is
//! compared, a core is frugal when it is at most four fifths as fast as the
//! fastest: favoured cores of one kind differ by less, kinds by more.

use std::collections::BTreeMap;

use crate::cpulist::CpuSet;
use crate::sysfs::Reader;
use crate::topology::CoreType;

/// The type of each core by its first CPU; empty where all are alike.
pub(crate) fn types(reader: &Reader, firsts: &CpuSet) -> BTreeMap<u32, CoreType> {
    let monitor = |name: &str| {
        reader
            .list(&format!("sys/devices/{name}/cpus"))
            .unwrap_or_default()
    };
    let (fast, frugal) = (monitor("cpu_core"), monitor("cpu_atom"));
    if !fast.is_empty() && !frugal.is_empty() {
        return firsts
            .iter()
            .map(|cpu| (cpu, CoreType::of(frugal.contains(cpu))))
            .collect();
    }
    [
        "cpu_capacity",
        "cpufreq/base_frequency",
        "cpufreq/cpuinfo_max_freq",
    ]
    .iter()
    .find_map(|file| compare(reader, firsts, file))
    .unwrap_or_default()
}

/// `None` if the file does not tell the speed of every core.
fn compare(reader: &Reader, firsts: &CpuSet, file: &str) -> Option<BTreeMap<u32, CoreType>> {
    let speeds: BTreeMap<u32, u64> = firsts
        .iter()
        .map(|cpu| {
            let path = format!("sys/devices/system/cpu/cpu{cpu}/{file}");
            Some((cpu, reader.natural(&path)?.into()))
        })
        .collect::<Option<_>>()?;
    let fastest = speeds.values().max().copied()?;
    let frugal = |speed: u64| speed * 5 <= fastest * 4;
    if !speeds.values().any(|&speed| frugal(speed)) {
        return Some(BTreeMap::new());
    }
    let types = speeds.iter().map(|(&c, &s)| (c, CoreType::of(frugal(s))));
    Some(types.collect())
}
