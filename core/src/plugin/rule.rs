//! The rules that a plugin's replies must keep, in words: [`validate`] keeps
//! them, `divvy plugin check` shows them, `docs/plugin-author.md` explains them.
//!
//! [`validate`]: super::validate

use super::wire::Op;

macro_rules! rules {
    ($($name:ident, $op:ident, $id:literal, $sentence:literal, $remedy:literal;)*) => {
        /// One rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Rule {
            $(#[doc = $sentence] $name,)*
        }

        impl Rule {
            /// All of them, in the order of the operations.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];

            /// The stable id.
            pub(crate) fn id(self) -> &'static str {
                match self { $(Self::$name => $id),* }
            }

            /// The operation whose reply it is about.
            pub(crate) fn op(self) -> Op {
                match self { $(Self::$name => Op::$op),* }
            }

            /// What must be so.
            pub(crate) fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence),* }
            }

            /// What an author does about it.
            pub(crate) fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy),* }
            }
        }
    };
}

rules! {
    Name, Manifest, "manifest.name",
        "A plugin's name is [a-z][a-z0-9-]*, at most 32 bytes.",
        "Change Manifest::name; slots, settings and the file are named after it.";
    FileName, Manifest, "file.name",
        "The file is named after the plugin: libdivvy_plugin_NAME.so, with _ for each -.",
        "Name the package divvy-plugin-NAME, or copy the file to the right name.";
    Slots, Manifest, "manifest.slots",
        "A plugin offers 1 to 256 slots.",
        "Offer a slot: what else should be asked for?";
    SlotNames, Manifest, "manifest.slot-names",
        "Each slot is named PLUGIN.WHAT, or cpu or mem, and named once.",
        "Rename it in Manifest::slots.";
    Quanta, Manifest, "manifest.quanta",
        "A slot's quantum is above zero; of whole devices it is a whole number, of partitions 1.",
        "Correct Slot::quantum.";
    Classes, Manifest, "manifest.classes",
        "A slot's class is 1 to 64 of [A-Za-z0-9._+/-].",
        "Name the vendor-neutral kind in Slot::class, such as gpu or gpu.mem.";
    Modes, Manifest, "manifest.modes",
        "A mode is [a-z][a-z0-9-]* of at most 32 bytes, and a plugin has few of them.",
        "Use whole, shared and partitioned in Slot::mode.";
    Draws, Manifest, "manifest.draws",
        "A slot draws on one to eight capacities, each once, above zero; a partition's profile says what it uses instead.",
        "Correct Slot::draws with Draw::unit, Draw::share or Draw::like.";
    Settings, Manifest, "manifest.settings",
        "A setting's name is 1 to 64 of [A-Za-z0-9._+/-].",
        "Rename it in Manifest::config.";
    ReservedEnv, Manifest, "manifest.reserved-env",
        "Reserved variables are names, with at most a trailing *.",
        "Reserve NAME or BEGINNING* in Manifest::reserved_env.";
    DeviceCount, Discover, "discover.count",
        "There are at most 16,384 devices.",
        "Report units that can be granted apart, not their parts.";
    DeviceIds, Discover, "discover.ids",
        "A device's id is 1 to 128 of [A-Za-z0-9._:@/-], and unique within the plugin.",
        "Use the UUID, else the PCI address.";
    Capacities, Discover, "discover.capacities",
        "A device has at most 64 capacities, each named by 1 to 64 of [A-Za-z0-9._+/-].",
        "Rename the keys of Device::capacities.";
    ReservedParts, Discover, "discover.reserved",
        "What is reserved of a capacity is no more than its total.",
        "Correct Capacity::reserved.";
    Steps, Discover, "discover.steps",
        "Total less reserved is a multiple of the capacity's step.",
        "Reserve the odd rest, or choose a step that divides it.";
    Processes, Discover, "discover.processes",
        "A device's processes are at most 4,096, each once, ascending, and none is 0.",
        "Sort Device::processes, and drop twins.";
    Partitions, Discover, "discover.partitions",
        "Partitions lie within the device's positions and capacities, each profile once, its starts ascending.",
        "Correct Device::partitioning.";
    Texts, Discover, "discover.texts",
        "Kind and model are printable and at most 256 bytes; attributes are named by 1 to 64 of [A-Za-z0-9._+/-].",
        "Clean what the driver says before reporting it.";
    References, Discover, "discover.references",
        "Links and parents are other devices of the same reply.",
        "Leave out links to what is not listed.";
    Incidents, Watch, "watch.incidents",
        "At most 256 incidents come at once, each of a device that is listed, with a code of 1 to 32 of [a-z0-9-] and one printable line of at most 256 bytes.",
        "Correct WatchReply::incidents; put what differs from one to the next into the summary, not into the code.";
    EnvNames, Prepare, "env.names",
        "Variables are named [A-Za-z_][A-Za-z0-9_]*, once each, without NUL.",
        "Correct Edits::env.";
    EnvLoader, Prepare, "env.loader",
        "No variable of the dynamic loader (LD_*) is set.",
        "Mount the libraries in a folder of their own, and name that in Edits::library_paths.";
    EnvReserved, Prepare, "env.reserved",
        "A variable is a default, or reserved in the manifest.",
        "Set EnvVar::default, or add it to Manifest::reserved_env.";
    NodesGranted, Prepare, "nodes.granted",
        "Device nodes are of devices that were granted.",
        "Give the nodes of the slices' devices only, and name the device in each.";
    NodesPlace, Prepare, "nodes.under-dev",
        "Device nodes have plain absolute paths under /dev.",
        "Correct DeviceNode::path.";
    NodesOwn, Prepare, "nodes.belong-to-device",
        "A device node's numbers are among those that discover reported for its device.",
        "List every node, also shared control nodes, in Device::nodes.";
    NodesMode, Prepare, "nodes.mode",
        "A device node's mode is at most 0777.",
        "Leave out set-user-id and the file type in DeviceNode::mode.";
    NodesChar, Prepare, "nodes.character",
        "Device nodes are character devices.",
        "A block device is a disk: do not give it.";
    NodesOnce, Prepare, "nodes.once",
        "Each path and each number is given once.",
        "Two slices on one device need its node once.";
    MountSources, Prepare, "mounts.sources",
        "Mounted files are named by plain absolute paths, not / and not under /proc /sys /dev /etc /root /home /run /var/run /boot.",
        "Mount libraries from where the driver installs them.";
    MountTargets, Prepare, "mounts.targets",
        "Mounts go to plain absolute paths, once each, not to / and not under /proc /sys /dev.",
        "Correct Mount::target.";
    LibraryPaths, Prepare, "mounts.library-paths",
        "The loader is told to look in folders that these edits mount something in.",
        "Mount the libraries, one by one, in a folder of their own, and name that in Edits::library_paths.";
    Groups, Prepare, "edits.groups",
        "No group is 0 or the highest number.",
        "Give the node its own group and name that.";
    Annotations, Prepare, "edits.annotations",
        "Annotations are named by 1 to 128 of [A-Za-z0-9._+/-] and printable, at most 4096 bytes.",
        "Shorten or clean Edits::annotations.";
    Lists, Prepare, "limits.lists",
        "CPUs and NUMA nodes are lists as the kernel writes them, such as 0-3,8.",
        "Correct Resources::cpuset_cpus or cpuset_mems.";
    Quota, Prepare, "limits.quota",
        "A quota's period is 1 ms to 1 s, and the quota at least 1 ms.",
        "Correct Resources::cpu_quota.";
    MemoryLimit, Prepare, "limits.memory",
        "A memory limit is no more than the slices' capacity memory.",
        "Sum the slices' memory in Resources::memory_bytes.";
    MeasureNames, Sample, "sample.names",
        "Measures are of devices by their ids, and named by 1 to 64 of [a-z0-9_]; a process is measured once a device.",
        "Correct the keys of Samples::devices and Samples::processes.";
}
