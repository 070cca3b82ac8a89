//! Which CPUs and nodes this process's cgroup may use.
//!
//! Where the answer lies differs: cgroup v1's cpuset controller, mounted with
//! or without the `cpuset.` prefix; cgroup v2; both at once ("hybrid"), where
//! the controller belongs to exactly one of them. A container may see only
//! its own part of the tree. Where no cpuset controller can be seen at all,
//! the process's affinity is what there is to go by.
//! (Kernel: Documentation/admin-guide/cgroup-v2.rst "Cpuset",
//! cgroup-v1/cpusets.rst; cgroups(7), proc_pid_mountinfo(5).)

use crate::cpulist::CpuSet;
use crate::sysfs::Reader;

/// What may be used; `None`: no limit is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) cpus: Option<CpuSet>,
    pub(crate) nodes: Option<CpuSet>,
}

/// A mounted cgroup tree: which of its folders is shown where.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    root: String,
    point: String,
    kind: String,
    options: String,
}

/// The names of the two files, best first.
struct Files {
    cpus: &'static [&'static str],
    mems: &'static [&'static str],
}

const V2: Files = Files {
    cpus: &["cpuset.cpus.effective"],
    mems: &["cpuset.mems.effective"],
};
// `cpus` may name what is offline; `effective_cpus` (Linux 3.17) does not.
const V1: Files = Files {
    cpus: &["cpuset.effective_cpus", "cpuset.cpus"],
    mems: &["cpuset.effective_mems", "cpuset.mems"],
};
const V1_NOPREFIX: Files = Files {
    cpus: &["effective_cpus", "cpus"],
    mems: &["effective_mems", "mems"],
};

/// Finds out.
pub(crate) fn allowed(reader: &Reader) -> Allowed {
    let mounts = mounts(reader);
    let v1 = mounts
        .iter()
        .find(|m| m.kind == "cpuset" || (m.kind == "cgroup" && m.has_option("cpuset")));
    let found = if let Some(mount) = v1 {
        let bare = mount.kind == "cpuset" || mount.has_option("noprefix");
        let files = if bare { &V1_NOPREFIX } else { &V1 };
        look(reader, mount, "cpuset", files)
    } else {
        mounts
            .iter()
            .filter(|m| m.kind == "cgroup2" && has_cpuset(reader, m))
            .map(|mount| look(reader, mount, "", &V2))
            .next()
            .unwrap_or_default()
    };
    if found != Allowed::default() {
        return found;
    }
    affinity(reader)
}

/// Reads the limits of our folder in one tree. On v2 a folder without the
/// files has its nearest ancestor's limits.
fn look(reader: &Reader, mount: &Mount, controller: &str, files: &Files) -> Allowed {
    let folders = mount.folders(&cgroup(reader, controller));
    let first = |names: &[&str]| {
        folders.iter().find_map(|folder| {
            names
                .iter()
                .filter_map(|name| reader.list(&format!("{folder}/{name}")))
                .find(|set| !set.is_empty())
        })
    };
    Allowed {
        cpus: first(files.cpus),
        nodes: first(files.mems),
    }
}

/// Our folder in the tree of a controller (v2's has no name).
fn cgroup(reader: &Reader, controller: &str) -> String {
    let listed = reader.text("proc/self/cgroup").unwrap_or_default();
    let ours = listed.lines().find_map(|line| {
        // 4:cpuset:/a   2:cpu,cpuset:/a   0::/a
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers
            .split(',')
            .any(|c| c == controller)
            .then(|| path.to_owned())
    });
    ours.or_else(|| reader.text("proc/self/cpuset"))
        .unwrap_or_else(|| "/".to_owned())
}

fn has_cpuset(reader: &Reader, mount: &Mount) -> bool {
    reader
        .text(&format!("{}/cgroup.controllers", mount.point))
        .is_some_and(|list| list.split_whitespace().any(|c| c == "cpuset"))
}

fn affinity(reader: &Reader) -> Allowed {
    let status = reader.text("proc/self/status").unwrap_or_default();
    let list = |key: &str| {
        let text = status.lines().find_map(|l| l.strip_prefix(key))?;
        CpuSet::parse_list(text).ok().filter(|set| !set.is_empty())
    };
    Allowed {
        cpus: list("Cpus_allowed_list:"),
        nodes: list("Mems_allowed_list:"),
    }
}

fn mounts(reader: &Reader) -> Vec<Mount> {
    if let Some(text) = reader.text("proc/self/mountinfo") {
        return text.lines().filter_map(Mount::from_mountinfo).collect();
    }
    ["proc/self/mounts", "proc/mounts"]
        .iter()
        .find_map(|path| reader.text(path))
        .map(|text| text.lines().filter_map(Mount::from_mounts).collect())
        .unwrap_or_default()
}

impl Mount {
    /// `31 23 0:28 ROOT POINT OPTIONS [TAG...] - KIND SOURCE SUPER-OPTIONS`
    fn from_mountinfo(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let kind = right.next()?;
        Some(Self {
            root: unescape(root),
            point: unescape(point),
            kind: kind.to_owned(),
            options: right.nth(1).unwrap_or_default().to_owned(),
        })
    }

    /// `SOURCE POINT KIND OPTIONS 0 0`
    fn from_mounts(line: &str) -> Option<Self> {
        let mut fields = line.split(' ').skip(1);
        Some(Self {
            root: "/".to_owned(),
            point: unescape(fields.next()?),
            kind: fields.next()?.to_owned(),
            options: fields.next()?.to_owned(),
        })
    }

    fn has_option(&self, option: &str) -> bool {
        self.options.split(',').any(|o| o == option)
    }

    /// The folders of `cgroup` and of its ancestors, nearest first, as far as
    /// this mount shows them.
    fn folders(&self, cgroup: &str) -> Vec<String> {
        let below = match self.root.as_str() {
            "/" => cgroup,
            // A container that shares the host's cgroup namespace: the path
            // is the host's, the mount begins at our folder.
            root => cgroup.strip_prefix(root).unwrap_or(cgroup),
        };
        let mut parts: Vec<&str> = below.split('/').filter(|p| !p.is_empty()).collect();
        // Outside of our cgroup namespace; only the mount itself is visible.
        if parts.contains(&"..") {
            parts.clear();
        }
        (0..=parts.len())
            .rev()
            .map(|n| {
                let mut folder = self.point.trim_end_matches('/').to_owned();
                for part in &parts[..n] {
                    folder.push('/');
                    folder.push_str(part);
                }
                folder
            })
            .collect()
    }
}

/// Undoes the kernel's `\040` for white space and backslashes.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |t, (code, is)| t.replace(code, is))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountinfo_line_with_optional_fields() {
        let line = "34 31 0:31 /box /sys/fs/c\\040g rw shared:1 master:2 - cgroup cgroup rw,cpuset";
        let mount = Mount::from_mountinfo(line).unwrap();
        assert_eq!(mount.point, "/sys/fs/c g");
        assert!(mount.kind == "cgroup" && mount.has_option("cpuset"));
        assert_eq!(
            mount.folders("/box/job"),
            ["/sys/fs/c g/job", "/sys/fs/c g"]
        );
        assert_eq!(mount.folders("/../x"), ["/sys/fs/c g"]);
    }

    #[test]
    fn lines_that_are_no_mounts_are_passed_over() {
        for line in ["", "a b", " - ", "1 2 3 4 - x"] {
            assert_eq!(Mount::from_mountinfo(line), None, "{line:?}");
        }
        assert_eq!(Mount::from_mounts("none /x"), None);
    }
}
