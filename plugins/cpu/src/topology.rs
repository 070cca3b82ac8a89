//! Cores and memory nodes as the kernel describes them.
//!
//! [`Topology::read`] looks at the machine once; everything after it is pure.
//!
//! # What a core is
//!
//! The CPUs (hardware threads) that name each other as siblings and have the
//! same `core_id`. The second condition matters on AMD's Bulldozer, whose
//! siblings are two cores of one module. A CPU whose topology cannot be read
//! is a core by itself.
//!
//! # A core's id
//!
//! `core-PACKAGE-CORE` of the kernel's `physical_package_id` and `core_id`.
//! The latter repeats within a package: over its dies (`d1` is put between
//! for die 1; die 0 is not written), else over its clusters (`c1`), else, on
//! kernels that name neither, over its NUMA nodes (`n33`). An unknown package
//! is `x`; an unknown core is named after its first CPU (`cpu5`), and so are
//! all that would share an id even then. Nothing but the last resort depends
//! on which other CPUs are online, so an id outlives hot-plug.

use std::collections::{BTreeMap, BTreeSet};

use crate::cgroup::{self, Allowed};
use crate::cpulist::CpuSet;
use crate::hybrid;
use crate::numa;
use crate::sysfs::Reader;

const CPUS: &str = "sys/devices/system/cpu";

/// What of the machine may be offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What this process's cgroup may use.
    Cgroup,
    /// Everything that is online.
    All,
}

/// The type of a core on a hybrid machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreType {
    /// One of the fast ones.
    Performance,
    /// One of the frugal ones.
    Efficiency,
}

impl CoreType {
    pub(crate) fn of(frugal: bool) -> Self {
        if frugal {
            Self::Efficiency
        } else {
            Self::Performance
        }
    }

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Performance => "performance",
            Self::Efficiency => "efficiency",
        }
    }
}

/// A physical core with at least one usable thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// Its device id.
    pub id: String,
    /// The package (socket), where known.
    pub package: Option<u32>,
    /// The kernel's number of the core, where known; not unique.
    pub core: Option<u32>,
    /// The one NUMA node that it belongs to, where there is one.
    pub node: Option<u32>,
    /// Its usable hardware threads; never empty.
    pub threads: CpuSet,
    /// Its type, on hybrid machines.
    pub kind: Option<CoreType>,
    /// Which last-level cache it uses, as `L3-0`.
    pub cache: Option<String>,
    /// Its highest frequency, where known.
    pub max_mhz: Option<u32>,
}

/// An online NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The kernel's number.
    pub id: u32,
    /// Its usable CPUs.
    pub cpus: CpuSet,
    /// The packages that its online CPUs are in, usable or not.
    pub packages: BTreeSet<u32>,
    /// Has it no online CPUs at all?
    pub memory_only: bool,
    /// Its memory in bytes, where known.
    pub memory: Option<u64>,
    /// The part of it that is set aside as huge pages.
    pub huge_pages: u64,
    /// Distances as in ACPI's SLIT.
    pub distances: BTreeMap<u32, u32>,
    /// The GPU whose memory this is, as a PCI address.
    pub gpu: Option<String>,
    /// May we use its memory?
    pub usable: bool,
}

impl Node {
    /// Can a workload be given memory of this node?
    #[must_use]
    pub fn gives_memory(&self) -> bool {
        self.usable && self.gpu.is_none() && self.memory.is_some_and(|bytes| bytes > 0)
    }
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The processor's name for people.
    pub model: String,
    /// The cores with usable threads, by their lowest thread.
    pub cores: Vec<Core>,
    /// All online NUMA nodes, ascending.
    pub nodes: Vec<Node>,
    /// What was odd, one sentence each.
    pub warnings: Vec<String>,
}

/// One online CPU, as its `topology` folder tells.
struct Thread {
    package: Option<u32>,
    group: String,
    core: Option<u32>,
    siblings: CpuSet,
}

impl Topology {
    /// Looks at the machine under `reader`'s root.
    pub(crate) fn read(reader: Reader, scope: Scope) -> Self {
        let online = online(&reader);
        let mut nodes = numa::nodes(&reader, &online);
        let homes = homes(&reader, &online, &nodes);
        let mut cores = cores(&reader, &online, &homes);
        for node in &mut nodes {
            let here = |core: &&Core| !core.threads.and(&node.cpus).is_empty();
            let here = cores.iter().filter(here);
            node.packages = here.filter_map(|core| core.package).collect();
        }
        let allowed = match scope {
            Scope::Cgroup => cgroup::allowed(&reader),
            Scope::All => Allowed::default(),
        };
        if let Some(cpus) = &allowed.cpus {
            for core in &mut cores {
                core.threads = core.threads.and(cpus);
            }
            cores.retain(|core| !core.threads.is_empty());
        }
        for node in &mut nodes {
            if let Some(cpus) = &allowed.cpus {
                node.cpus = node.cpus.and(cpus);
            }
            node.usable = allowed
                .nodes
                .as_ref()
                .is_none_or(|set| set.contains(node.id));
        }
        details(&reader, &mut cores);
        Self {
            model: model(&reader),
            cores,
            nodes,
            warnings: reader.into_warnings(),
        }
    }
}

/// The online CPUs. Where no file says it for all, each says it for itself;
/// one that does not (CPU 0 often cannot go offline) is online if it has a
/// topology. Without any CPU folder, `/proc/stat` counts them.
fn online(reader: &Reader) -> CpuSet {
    let listed = reader.list(&format!("{CPUS}/online"));
    if let Some(listed) = listed.filter(|set| !set.is_empty()) {
        return listed;
    }
    let folders = reader.numbered(CPUS, "cpu");
    let has_topology = |cpu| reader.exists(&format!("{CPUS}/cpu{cpu}/topology"));
    let any_topology = folders.iter().any(has_topology);
    let found: CpuSet = folders
        .iter()
        .filter(
            |&cpu| match reader.number(&format!("{CPUS}/cpu{cpu}/online")) {
                Some(state) => state != 0,
                None => has_topology(cpu) || !any_topology,
            },
        )
        .collect();
    if !found.is_empty() {
        return found;
    }
    let stat = reader.text("proc/stat").unwrap_or_default();
    let counted: CpuSet = stat
        .lines()
        .filter_map(|line| line.strip_prefix("cpu")?.split(' ').next()?.parse().ok())
        .collect();
    if !counted.is_empty() {
        reader.warn("/sys names no CPU; each CPU of /proc/stat is taken for a core".into());
    }
    counted
}

/// The node of each CPU that is in exactly one.
fn homes(reader: &Reader, online: &CpuSet, nodes: &[Node]) -> BTreeMap<u32, u32> {
    let mut homes = BTreeMap::new();
    let (mut several, mut none) = (CpuSet::default(), CpuSet::default());
    for cpu in online {
        let mut ids = nodes.iter().filter(|n| n.cpus.contains(cpu)).map(|n| n.id);
        match (ids.next(), ids.next()) {
            (Some(id), None) => _ = homes.insert(cpu, id),
            (Some(_), Some(_)) => several.insert(cpu),
            (None, _) => none.insert(cpu),
        }
    }
    for (cpus, how) in [(several, "several NUMA nodes"), (none, "no NUMA node")] {
        if !cpus.is_empty() {
            reader.warn(format!(
                "CPUs {cpus} belong to {how}; all memory counts as equally near to them"
            ));
        }
    }
    homes
}

fn cores(reader: &Reader, online: &CpuSet, homes: &BTreeMap<u32, u32>) -> Vec<Core> {
    let threads: BTreeMap<u32, Thread> = online
        .iter()
        .map(|cpu| (cpu, thread(reader, cpu, homes.get(&cpu).copied())))
        .collect();
    let mut left = online.clone();
    let mut cores = Vec::new();
    while let Some(first) = left.first() {
        let lead = &threads[&first];
        let members: CpuSet = left
            .iter()
            .filter(|&cpu| {
                cpu == first
                    || (lead.siblings.contains(cpu)
                        && (lead.core == threads[&cpu].core || threads[&cpu].core.is_none()))
            })
            .collect();
        left = left.without(&members);
        let here: BTreeSet<_> = members.iter().map(|cpu| homes.get(&cpu)).collect();
        cores.push(Core {
            id: id(lead, first),
            package: lead.package,
            core: lead.core,
            node: match here.len() {
                1 => here.into_iter().next().flatten().copied(),
                _ => None,
            },
            threads: members,
            kind: None,
            cache: None,
            max_mhz: None,
        });
    }
    tell_twins_apart(reader, &mut cores);
    cores
}

fn thread(reader: &Reader, cpu: u32, node: Option<u32>) -> Thread {
    let at = format!("{CPUS}/cpu{cpu}/topology");
    let number = |file: &str| reader.natural(&format!("{at}/{file}"));
    let group = match (number("die_id"), number("cluster_id"), node) {
        (Some(0), ..) | (None, Some(0), _) | (None, None, None) => String::new(),
        (Some(die), ..) => format!("d{die}-"),
        (None, Some(cluster), _) => format!("c{cluster}-"),
        (None, None, Some(node)) => format!("n{node}-"),
    };
    // core_cpus is the newer name of thread_siblings (Linux 5.3).
    let siblings = ["core_cpus", "thread_siblings"].iter().find_map(|name| {
        reader
            .list(&format!("{at}/{name}_list"))
            .or_else(|| reader.mask(&format!("{at}/{name}")))
    });
    if siblings.is_none() {
        reader.warn(format!(
            "CPU {cpu} does not say which core it is in; it is taken for a core by itself"
        ));
    }
    Thread {
        package: number("physical_package_id"),
        group,
        core: number("core_id"),
        siblings: siblings.unwrap_or_default(),
    }
}

fn id(lead: &Thread, first: u32) -> String {
    let package = lead.package.map_or("x".into(), |p| p.to_string());
    let core = lead.core.map_or(format!("cpu{first}"), |c| c.to_string());
    format!("core-{package}-{}{core}", lead.group)
}

/// Cores that claim the same id get their first CPU's number appended.
fn tell_twins_apart(reader: &Reader, cores: &mut [Core]) {
    let mut count = BTreeMap::<String, u32>::new();
    for core in cores.iter() {
        *count.entry(core.id.clone()).or_default() += 1;
    }
    for core in cores {
        if let Some(2..) = count.get(&core.id)
            && let Some(first) = core.threads.first()
        {
            reader.warn(format!(
                "several cores call themselves {}; they are told apart by their first CPU",
                core.id
            ));
            core.id = format!("{}-cpu{first}", core.id);
        }
    }
}

/// Facts that are nice to have, of each core's first thread.
fn details(reader: &Reader, cores: &mut [Core]) {
    let firsts = cores.iter().filter_map(|c| c.threads.first()).collect();
    let types = hybrid::types(reader, &firsts);
    for core in cores {
        let Some(first) = core.threads.first() else {
            continue;
        };
        let at = format!("{CPUS}/cpu{first}");
        core.kind = types.get(&first).copied();
        core.max_mhz = reader
            .natural(&format!("{at}/cpufreq/cpuinfo_max_freq"))
            .map(|khz| khz / 1000);
        core.cache = last_level_cache(reader, &at);
    }
}

fn last_level_cache(reader: &Reader, at: &str) -> Option<String> {
    let (level, index) = reader
        .numbered(&format!("{at}/cache"), "index")
        .iter()
        .filter_map(|i| Some((reader.natural(&format!("{at}/cache/index{i}/level"))?, i)))
        .max()?;
    let file = |name: &str| format!("{at}/cache/index{index}/{name}");
    let name = match reader.natural(&file("id")) {
        Some(id) => id.to_string(),
        None => {
            let sharing = reader
                .list(&file("shared_cpu_list"))
                .or_else(|| reader.mask(&file("shared_cpu_map")))?;
            format!("cpu{}", sharing.first()?)
        }
    };
    Some(format!("L{level}-{name}"))
}

/// Only the first CPU's entry: reading on interrupts the other CPUs.
fn model(reader: &Reader) -> String {
    let text = reader.start_of("proc/cpuinfo", 4096).unwrap_or_default();
    let field = |key: &str| {
        text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let words: Vec<_> = value.split_whitespace().collect();
            (name.trim() == key && !words.is_empty()).then(|| words.join(" "))
        })
    };
    [
        "model name",
        "Processor",
        "cpu model",
        "cpu",
        "uarch",
        "Hardware",
    ]
    .iter()
    .find_map(|key| field(key))
    .or_else(|| {
        Some(format!(
            "ARM implementer {} part {}",
            field("CPU implementer")?,
            field("CPU part")?
        ))
    })
    .unwrap_or_else(|| "CPU".into())
}
