//! Looking before believing: is the container that the runtime made what was
//! granted? Done while its process still waits, so that a wrong container
//! never runs a line of the user's.
//!
//! Checked: every device node in its `/dev` (no more, no less), its device
//! rules where the kernel can be asked for them (cgroup v1), and that its
//! cgroup carries exactly the limits of the edits.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};

use super::LaunchError;
use super::Network;
use super::cgroup::Cgroup;
use crate::model::Edits;

/// Character devices that every container has, with their numbers
/// (Documentation/admin-guide/devices.txt). None of them is anybody's.
const USUAL: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// Rules that runtimes add themselves: the nodes above, the console, the
/// terminals of the container's own devpts, and (runc before 1.2) the tun
/// device, which has no node in the container and cannot be made there.
const USUAL_RULES: [&str; 10] = [
    "c 1:3", "c 1:5", "c 1:7", "c 1:8", "c 1:9", "c 5:0", "c 5:1", "c 5:2", "c 136:*", "c 10:200",
];

/// Proves a created container; `pid` is its waiting first process.
pub(crate) fn prove(pid: u32, edits: &Edits) -> Result<(), LaunchError> {
    let unproven = |why: String| LaunchError::Unproven(why);
    let found =
        device_nodes(pid).map_err(|e| unproven(format!("its /dev cannot be looked at: {e}")))?;
    compare_nodes(&found, edits).map_err(unproven)?;
    let cgroup =
        Cgroup::of(pid).map_err(|e| unproven(format!("its cgroup cannot be found: {e}")))?;
    if let Some(rules) = cgroup.device_rules() {
        compare_rules(&rules, edits).map_err(unproven)?;
    }
    compare_limits(&cgroup, edits).map_err(unproven)
}

/// Proves what a container engine decides by itself: the process is filtered,
/// gains no privileges, makes no device nodes, and shares no namespace with the
/// machine but the network when asked.
pub(crate) fn prove_confined(pid: u32, network: Network) -> Result<(), LaunchError> {
    let read = |what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}"));
    let status = read("status")
        .map_err(|e| LaunchError::Unproven(format!("its process cannot be looked at: {e}")))?;
    compare_status(&status).map_err(LaunchError::Unproven)?;
    for kind in ["pid", "ipc", "uts", "mnt", "net"] {
        let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/{kind}")).ok();
        let (its, ours) = (of(&pid.to_string()), of("self"));
        let may_share = kind == "net" && network == Network::Host;
        if its.is_none() || (its == ours && !may_share) {
            return Err(LaunchError::Unproven(format!(
                "it has no {kind} namespace of its own"
            )));
        }
    }
    Ok(())
}

/// Capabilities that no container has (capabilities(7)): DAC_READ_SEARCH,
/// NET_ADMIN, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN, MKNOD.
const NEVER: [u32; 7] = [2, 12, 16, 17, 19, 21, 27];

/// `/proc/PID/status`, as proc(5) describes it.
fn compare_status(status: &str) -> Result<(), String> {
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        line.map(|rest| rest.trim_start_matches(':').trim())
            .unwrap_or_default()
    };
    if field("Seccomp") != "2" {
        return Err("it has no seccomp filter".into());
    }
    if field("NoNewPrivs") != "1" {
        return Err("it may gain privileges".into());
    }
    let bounding = u64::from_str_radix(field("CapBnd"), 16)
        .map_err(|_| "its capabilities cannot be read".to_owned())?;
    match NEVER.iter().find(|cap| bounding & (1 << **cap) != 0) {
        Some(cap) => Err(format!("it holds capability {cap}")),
        None => Ok(()),
    }
}

type Nodes = BTreeMap<String, (FileType, u32, u32)>;

/// All device nodes below the container's `/dev`, without ever following a
/// path that the container controls (S4).
fn device_nodes(pid: u32) -> std::io::Result<Nodes> {
    let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The one magic link: the kernel's own word for that process's root.
    let root = rustix::fs::open(
        format!("/proc/{pid}/root"),
        folder | OFlags::PATH,
        Mode::empty(),
    )?;
    let strict = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let dev = openat2(&root, "dev", folder, Mode::empty(), strict)?;
    let mut nodes = Nodes::new();
    walk(dev, "", &mut nodes, 0)?;
    Ok(nodes)
}

fn walk(folder: OwnedFd, prefix: &str, nodes: &mut Nodes, depth: u32) -> std::io::Result<()> {
    if depth > 4 {
        return Err(std::io::Error::other("it is nested too deeply"));
    }
    for entry in Dir::read_from(folder.as_fd())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "." || name == ".." {
            continue;
        }
        let stat = statat(&folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
        let path = format!("{prefix}{name}");
        match FileType::from_raw_mode(stat.st_mode) {
            // Terminals of the container's own, made as they are needed.
            FileType::Directory if path == "pts" => {}
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = openat(&folder, entry.file_name(), flags, Mode::empty())?;
                walk(inner, &format!("{path}/"), nodes, depth + 1)?;
            }
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                let (major, minor) = (
                    rustix::fs::major(stat.st_rdev),
                    rustix::fs::minor(stat.st_rdev),
                );
                nodes.insert(path, (kind, major, minor));
            }
            _ => {}
        }
    }
    Ok(())
}

fn compare_nodes(found: &Nodes, edits: &Edits) -> Result<(), String> {
    for node in &edits.device_nodes {
        let name = node.path.strip_prefix("/dev/").unwrap_or(&node.path);
        match found.get(name) {
            Some((_, major, minor)) if (*major, *minor) == (node.major, node.minor) => {}
            Some((_, major, minor)) => {
                return Err(format!(
                    "{} is {major}:{minor} instead of {}:{}",
                    node.path, node.major, node.minor
                ));
            }
            None => return Err(format!("{} is missing", node.path)),
        }
    }
    for (name, (kind, major, minor)) in found {
        let granted = edits
            .device_nodes
            .iter()
            .any(|n| n.path.strip_prefix("/dev/") == Some(name));
        let usual = *kind == FileType::CharacterDevice
            && (USUAL.contains(&(name, *major, *minor))
                // The container's own terminal, if it has one.
                || (name == "console" && (*major, *minor) != (0, 0) && *major >= 136 && *major < 144));
        if !granted && !usual {
            return Err(format!("/dev/{name} ({major}:{minor}) was not granted"));
        }
    }
    Ok(())
}

/// `devices.list`: `c 1:3 rwm` a line; `a *:* rwm` allows everything.
fn compare_rules(rules: &str, edits: &Edits) -> Result<(), String> {
    for line in rules.lines() {
        let Some((device, access)) = line.rsplit_once(' ') else {
            continue;
        };
        let granted = edits
            .device_nodes
            .iter()
            .any(|n| device == format!("c {}:{}", n.major, n.minor) && !access.contains('m'));
        // Making nodes (m) is denied by the missing capability; runtimes
        // allow it for every number, as Docker does.
        let mknod_only = access == "m";
        if !granted && !mknod_only && !USUAL_RULES.contains(&device) {
            return Err(format!(
                "its device rules allow {line:?}, which was not granted"
            ));
        }
    }
    Ok(())
}

fn compare_limits(cgroup: &Cgroup, edits: &Edits) -> Result<(), String> {
    let limits = &edits.resources;
    let differ = |what: &str, want: String, have: Option<String>| {
        Err(format!(
            "its {what} should be {want}, and is {}",
            have.unwrap_or("unset".into())
        ))
    };
    if let Some(want) = &limits.cpuset_cpus {
        let have = cgroup.cpuset_cpus();
        if have.as_deref().map(expand) != Some(expand(want)) {
            return differ("CPUs", want.clone(), have);
        }
    }
    if let Some(want) = &limits.cpuset_mems {
        let have = cgroup.cpuset_mems();
        if have.as_deref().map(expand) != Some(expand(want)) {
            return differ("NUMA nodes", want.clone(), have);
        }
    }
    if let Some(want) = limits.cpu_quota {
        let have = cgroup.quota();
        if have != Some(want) {
            return differ(
                "CPU quota",
                format!("{want:?}"),
                have.map(|q| format!("{q:?}")),
            );
        }
    }
    if let Some(want) = limits.memory_bytes {
        // The kernel rounds a limit down to a page.
        let have = cgroup.memory_limit();
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        if have != Some(want / page * page) {
            return differ(
                "memory limit",
                want.to_string(),
                have.map(|b| b.to_string()),
            );
        }
    }
    Ok(())
}

/// A kernel list as single numbers, so that `0-1` and `0,1` are the same.
fn expand(list: &str) -> Vec<u32> {
    let mut all: Vec<u32> = list
        .split(',')
        .filter_map(|range| {
            let (a, b) = range.split_once('-').unwrap_or((range, range));
            Some(a.trim().parse().ok()?..=b.trim().parse().ok()?)
        })
        .flatten()
        .collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceNode, NodeKind};

    fn granted() -> Edits {
        let node = DeviceNode {
            device: "a".into(),
            path: "/dev/acme/0".into(),
            kind: NodeKind::Char,
            major: 240,
            minor: 7,
            write: true,
            mode: None,
            gid: None,
        };
        Edits {
            device_nodes: vec![node],
            ..Edits::default()
        }
    }

    fn nodes(list: &[(&str, u32, u32)]) -> Nodes {
        list.iter()
            .map(|&(n, a, b)| (n.to_owned(), (FileType::CharacterDevice, a, b)))
            .collect()
    }

    #[test]
    fn exactly_what_was_granted() {
        let check = |list: &[(&str, u32, u32)]| compare_nodes(&nodes(list), &granted());
        assert_eq!(check(&[("null", 1, 3), ("acme/0", 240, 7)]), Ok(()));
        assert!(
            check(&[("null", 1, 3)])
                .unwrap_err()
                .contains("/dev/acme/0 is missing")
        );
        assert!(
            check(&[("acme/0", 240, 8)])
                .unwrap_err()
                .contains("240:8 instead of 240:7")
        );
        assert!(
            check(&[("acme/0", 240, 7), ("acme/1", 240, 8)])
                .unwrap_err()
                .contains("not granted")
        );
        assert!(
            check(&[("acme/0", 240, 7), ("null", 240, 8)])
                .unwrap_err()
                .contains("not granted")
        );
    }

    #[test]
    fn device_rules_allow_no_more() {
        let check = |rules: &str| compare_rules(rules, &granted());
        assert_eq!(
            check("b *:* m\nc *:* m\nc 1:3 rwm\nc 136:* rwm\nc 240:7 rw\n"),
            Ok(())
        );
        assert!(check("a *:* rwm").is_err());
        assert!(check("c 240:8 rw").is_err());
        assert!(check("c 240:* rw").is_err());
        assert!(check("c 10:201 rwm").is_err());
    }

    #[test]
    fn an_engines_confinement_is_read_from_the_kernel() {
        let status = |seccomp: &str, privs: &str, caps: &str| {
            format!(
                "Name:\tinit\nCapBnd:\t{caps}\nNoNewPrivs:\t{privs}\nSeccomp:\t{seccomp}\nSeccomp_filters:\t1\n"
            )
        };
        // Docker's default, less MKNOD.
        let fine = "00000000a00425fb";
        assert_eq!(compare_status(&status("2", "1", fine)), Ok(()));
        for (status, why) in [
            (status("0", "1", fine), "seccomp"),
            (status("2", "0", fine), "privileges"),
            (status("2", "1", "00000000a80425fb"), "capability 27"),
            (status("2", "1", "000001ffffffffff"), "capability 2"),
            (String::new(), "seccomp"),
        ] {
            assert!(
                compare_status(&status).unwrap_err().contains(why),
                "{status}"
            );
        }
    }

    #[test]
    fn kernel_lists_compare_by_what_they_mean() {
        assert_eq!(expand("0-2,5"), expand("5,0,1,2"));
        assert_ne!(expand("0-2"), expand("0-3"));
    }
}
