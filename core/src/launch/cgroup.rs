//! What the kernel holds a container to, and what it counted: read from the
//! cgroup of its first process, version 1, 2 or hybrid.
//!
//! Sources: Documentation/admin-guide/cgroup-v1/{memory,cpusets,devices}.rst,
//! cgroup-v2.rst, scheduler/sched-bwc.rst.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::model::CpuQuota;

/// The length of the ids that engines give, hexadecimal digits.
const ENGINE_ID: usize = 64;

/// A container's cgroup folders, by controller; `""` is the unified one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cgroup {
    folders: BTreeMap<String, PathBuf>,
}

/// Where this namespace has the cgroup file systems: read once for many processes.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    mountinfo: String,
}

impl Cgroups {
    /// As they are mounted now.
    pub(crate) fn now() -> std::io::Result<Self> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Self { mountinfo })
    }

    /// The cgroup of a process.
    pub(crate) fn of(&self, pid: u32) -> std::io::Result<Cgroup> {
        let lines = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        Ok(Cgroup {
            folders: folders(&lines, &self.mountinfo),
        })
    }
}

impl Cgroup {
    /// The cgroup of a process.
    pub(crate) fn of(pid: u32) -> std::io::Result<Self> {
        Cgroups::now()?.of(pid)
    }

    fn read(&self, controller: &str, v1: &str, v2: &str) -> Option<String> {
        let (folder, file) = match self.folders.get(controller) {
            Some(folder) => (folder, v1),
            None => (self.folders.get("")?, v2),
        };
        fs::read_to_string(folder.join(file))
            .ok()
            .map(|s| s.trim().to_owned())
    }

    pub(crate) fn cpuset_cpus(&self) -> Option<String> {
        self.read("cpuset", "cpuset.cpus", "cpuset.cpus")
    }

    pub(crate) fn cpuset_mems(&self) -> Option<String> {
        self.read("cpuset", "cpuset.mems", "cpuset.mems")
    }

    pub(crate) fn quota(&self) -> Option<CpuQuota> {
        let text = if self.folders.contains_key("cpu") {
            format!(
                "{} {}",
                self.read("cpu", "cpu.cfs_quota_us", "")?,
                self.read("cpu", "cpu.cfs_period_us", "")?
            )
        } else {
            self.read("cpu", "", "cpu.max")?
        };
        let (quota, period) = text.split_once(' ')?;
        Some(CpuQuota {
            quota_us: quota.parse().ok()?,
            period_us: period.parse().ok()?,
        })
    }

    pub(crate) fn memory_limit(&self) -> Option<u64> {
        self.read("memory", "memory.limit_in_bytes", "memory.max")?
            .parse()
            .ok()
    }

    /// Processes that the kernel stopped for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.read("memory", "memory.oom_control", "memory.events")
            .and_then(|text| keyed(&text, "oom_kill"))
            .unwrap_or(0)
    }

    pub(crate) fn cpu_us(&self) -> Option<u64> {
        if self.folders.contains_key("cpuacct") {
            let ns: u64 = self.read("cpuacct", "cpuacct.usage", "")?.parse().ok()?;
            return Some(ns / 1000);
        }
        keyed(&self.read("cpuacct", "", "cpu.stat")?, "usage_usec")
    }

    pub(crate) fn memory_peak(&self) -> Option<u64> {
        self.read("memory", "memory.max_usage_in_bytes", "memory.peak")?
            .parse()
            .ok()
    }

    /// What its processes have in memory now, without the file pages that the kernel
    /// takes back first: what container engines show.
    pub(crate) fn memory_used(&self) -> Option<u64> {
        let all = self.read("memory", "memory.usage_in_bytes", "memory.current")?;
        let stat = self.read("memory", "memory.stat", "memory.stat")?;
        let key = match self.folders.contains_key("memory") {
            true => "total_inactive_file",
            false => "inactive_file",
        };
        let back = keyed(&stat, key).unwrap_or(0);
        Some(all.parse::<u64>().ok()?.saturating_sub(back))
    }

    /// How many processes are in it, those in cgroups below it left out.
    pub(crate) fn processes(&self) -> Option<u64> {
        let list = self.read("pids", "cgroup.procs", "cgroup.procs")?;
        u64::try_from(list.lines().count()).ok()
    }

    /// The device rules of cgroup v1, one a line; `None` where the kernel
    /// keeps them in a BPF program that cannot be read back.
    pub(crate) fn device_rules(&self) -> Option<String> {
        fs::read_to_string(self.folders.get("devices")?.join("devices.list")).ok()
    }

    /// Is one of its folders this container's own? An engine's ids are long
    /// enough to be told in `docker-ID.scope` too.
    pub(crate) fn belongs_to(&self, id: &str) -> bool {
        let folders = self.folders.values().filter_map(|folder| folder.to_str());
        folders
            .flat_map(|folder| folder.split('/'))
            .any(|part| is_its(part, id))
    }
}

/// Is this folder of a path the container's own?
fn is_its(part: &str, id: &str) -> bool {
    part == id || (id.len() >= ENGINE_ID && part.contains(id))
}

/// Is a process in a cgroup of one of these containers? `None`: there is no such process.
pub(crate) fn is_in(pid: u32, ids: &[&str]) -> Option<bool> {
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut parts = lines.lines().flat_map(|line| line.split('/'));
    Some(parts.any(|part| ids.iter().any(|id| is_its(part, id))))
}

/// The cgroup folders of a workload that exist, under every controller,
/// whether a process is in them or not.
pub(super) fn folders_of(id: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = super::spec::cgroup_path(id);
    let below = path.trim_start_matches('/');
    let mut found: Vec<PathBuf> = mount_points(&mounts)
        .map(|point| Path::new(point).join(below))
        .filter(|folder| folder.is_dir())
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Where cgroup file systems of either version are mounted.
fn mount_points(mountinfo: &str) -> impl Iterator<Item = &str> {
    mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let kind = right.split(' ').next()?;
        ["cgroup", "cgroup2"]
            .contains(&kind)
            .then(|| left.split(' ').nth(4))?
    })
}

/// The folders of a `/proc/PID/cgroup`, with the mount points of this
/// namespace's `mountinfo`.
fn folders(lines: &str, mountinfo: &str) -> BTreeMap<String, PathBuf> {
    let mut mounts: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let fields: Vec<&str> = left.split(' ').collect();
        let types: Vec<&str> = right.split(' ').collect();
        let (Some(root), Some(point)) = (fields.get(3), fields.get(4)) else {
            continue;
        };
        match types.first() {
            Some(&"cgroup2") => {
                mounts.entry("").or_insert((root, point));
            }
            Some(&"cgroup") => {
                for name in types.get(2).into_iter().flat_map(|o| o.split(',')) {
                    mounts.entry(name).or_insert((root, point));
                }
            }
            _ => {}
        }
    }
    let mut folders = BTreeMap::new();
    for line in lines.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        for name in names.split(',') {
            if let Some((root, point)) = mounts.get(name) {
                let below = Path::new(path)
                    .strip_prefix(root)
                    .unwrap_or(Path::new(path));
                let below = below.strip_prefix("/").unwrap_or(below);
                folders.insert(name.to_owned(), Path::new(point).join(below));
            }
        }
    }
    folders
}

fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_machines_have_folders_of_both_kinds() {
        let mounts = "\
30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        let found = folders(
            "3:cpu,cpuacct:/divvy/a\n2:memory:/divvy/a\n0::/divvy/a\n",
            mounts,
        );
        assert_eq!(
            found["cpuacct"],
            Path::new("/sys/fs/cgroup/cpu,cpuacct/divvy/a")
        );
        assert_eq!(found["memory"], Path::new("/sys/fs/cgroup/memory/divvy/a"));
        assert_eq!(found[""], Path::new("/sys/fs/cgroup/unified/divvy/a"));
    }

    #[test]
    fn a_bound_cgroup_root_is_not_counted_twice() {
        let mounts = "30 25 0:26 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let found = folders("0::/docker/x/divvy/a\n", mounts);
        assert_eq!(found[""], Path::new("/sys/fs/cgroup/divvy/a"));
    }

    #[test]
    fn a_cgroup_is_told_by_the_containers_id() {
        let long = "0123456789abcdef".repeat(4);
        let of = |path: String| Cgroup {
            folders: BTreeMap::from([(String::new(), PathBuf::from(path))]),
        };
        for path in [
            format!("/docker/{long}"),
            format!("/system.slice/docker-{long}.scope"),
        ] {
            assert!(of(path).belongs_to(&long));
        }
        assert!(of("/divvy/abc".into()).belongs_to("abc"));
        assert!(!of("/divvy/abcd".into()).belongs_to("abc"));
        assert!(!of(format!("/docker/{}", "f".repeat(64))).belongs_to(&long));
    }

    #[test]
    fn cgroups_of_either_version_are_found_by_their_mounts() {
        let mounts = "\
29 25 0:25 / /sys rw - sysfs sysfs rw
30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        let found: Vec<&str> = mount_points(mounts).collect();
        assert_eq!(
            found,
            ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/unified"]
        );
    }

    #[test]
    fn memory_in_use_is_what_engines_show_by_either_version() {
        let folder = tempfile::tempdir().unwrap();
        let with = |controller: &str, files: [(&str, &str); 3]| {
            for (name, text) in files {
                fs::write(folder.path().join(name), text).unwrap();
            }
            Cgroup {
                folders: BTreeMap::from([(controller.to_owned(), folder.path().to_owned())]),
            }
        };
        let v1 = [
            ("memory.usage_in_bytes", "1000\n"),
            ("memory.stat", "inactive_file 1\ntotal_inactive_file 300\n"),
            ("cgroup.procs", "1\n2\n"),
        ];
        assert_eq!(with("memory", v1).memory_used(), Some(700));
        assert_eq!(with("memory", v1).processes(), None);
        let v2 = [
            ("memory.current", "5000\n"),
            ("memory.stat", "anon 7\ninactive_file 5001\n"),
            ("cgroup.procs", "1\n2\n3\n"),
        ];
        assert_eq!(with("", v2).memory_used(), Some(0));
        assert_eq!(with("", v2).processes(), Some(3));
        fs::remove_file(folder.path().join("memory.stat")).unwrap();
        assert_eq!(with("", [v2[0], v2[2], v2[2]]).memory_used(), None);
    }

    #[test]
    fn keyed_values() {
        assert_eq!(
            keyed("oom_kill_disable 0\nunder_oom 0\noom_kill 3", "oom_kill"),
            Some(3)
        );
        assert_eq!(keyed("low 0", "oom_kill"), None);
    }
}
