//! The default seccomp profile: Docker's.
//!
//! An allow list: every call that is not named fails with `EPERM`. Source:
//! github.com/moby/profiles, `seccomp/default_linux.go` (2026), from which
//! Docker's `profiles/seccomp/default.json` is generated. Taken over as facts:
//! names, argument conditions, the capability each group depends on. Left out:
//! architectures that Divvy is not built for, and the condition "kernel 4.8 or
//! later", which every machine Divvy runs on meets.
//!
//! Names that a runtime or kernel does not know are skipped by it, so one list
//! serves x86_64 and aarch64, with their 32-bit modes.

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The profile for a container that has these capabilities (its bounding set).
///
/// It takes effect without privilege only under `noNewPrivileges`.
#[must_use]
pub(crate) fn default_profile(capabilities: &[Capability]) -> LinuxSeccomp {
    let mut rules = vec![allow(ALWAYS), allow(ONLY_HERE)];
    rules.extend(sockets());
    rules.extend(
        PERSONALITIES
            .map(|value| when("personality", LinuxSeccompOperator::ScmpCmpEq, value, None)),
    );
    for (capability, calls) in WITH_CAPABILITY {
        if capabilities.contains(capability) {
            rules.push(allow(calls));
        }
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        let none = Some(0);
        rules.push(when(
            "clone",
            LinuxSeccompOperator::ScmpCmpMaskedEq,
            NEW_NAMESPACES,
            none,
        ));
        // Its flags are behind a pointer, out of a filter's sight. ENOSYS makes
        // C libraries fall back to clone.
        let mut clone3 = allow(&["clone3"]);
        clone3
            .set_action(LinuxSeccompAction::ScmpActErrno)
            .set_errno_ret(Some(ENOSYS));
        rules.push(clone3);
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(ARCHITECTURES.to_vec()))
        .set_syscalls(Some(rules));
    profile
}

fn allow(names: &[&str]) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|&name| name.to_owned()).collect())
        .set_action(LinuxSeccompAction::ScmpActAllow);
    rule
}

/// Allows a call for some values of its first argument.
fn when(name: &str, op: LinuxSeccompOperator, value: u64, value_two: Option<u64>) -> LinuxSyscall {
    let mut argument = LinuxSeccompArgBuilder::default()
        .index(0usize)
        .op(op)
        .value(value);
    if let Some(value_two) = value_two {
        argument = argument.value_two(value_two);
    }
    let argument = argument.build().expect("index, value and op are set");
    let mut rule = allow(&[name]);
    rule.set_args(Some(vec![argument]));
    rule
}

/// The families below the first gap as one comparison, the others one by one.
fn sockets() -> impl Iterator<Item = LinuxSyscall> {
    let below = when(
        "socket",
        LinuxSeccompOperator::ScmpCmpLt,
        SOCKET_FAMILIES_BELOW,
        None,
    );
    let others = SOCKET_FAMILIES.iter();
    std::iter::once(below)
        .chain(others.map(|&family| when("socket", LinuxSeccompOperator::ScmpCmpEq, family, None)))
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[Arch] = &[Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[Arch] = &[Arch::ScmpArchAarch64, Arch::ScmpArchArm];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURES: &[Arch] = &[Arch::ScmpArchNative];

/// Allowed on this architecture alone.
#[cfg(target_arch = "x86_64")]
const ONLY_HERE: &[&str] = &["arch_prctl", "modify_ldt"];
#[cfg(target_arch = "aarch64")]
const ONLY_HERE: &[&str] = &[
    "arm_fadvise64_64",
    "arm_sync_file_range",
    "breakpoint",
    "cacheflush",
    "set_tls",
    "sync_file_range2",
];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ONLY_HERE: &[&str] = &["riscv_flush_icache"];

/// `personality(2)`: Linux, the query, and what 32-bit and uname tricks use.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET of `clone(2)`.
const NEW_NAMESPACES: u64 =
    0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;

/// `AF_DECnet` (12): gone from the kernel. All families below it are allowed:
/// UNIX, INET, AX25, IPX, APPLETALK, NETROM, BRIDGE, ATMPVC, X25, INET6, ROSE.
const SOCKET_FAMILIES_BELOW: u64 = 12;

/// The allowed families above the first gap. Not among them: those the kernel
/// has removed (ECONET 19, ATMSVC 20, IRDA 23, WANPIPE 25, ISDN 34, CAIF 37),
/// ALG (38), an attack surface without use here, and VSOCK (40), which may
/// reach other machines of the host past the network namespace.
const SOCKET_FAMILIES: &[u64] = &[
    13, // NETBEUI
    14, // SECURITY
    15, // KEY
    16, // NETLINK
    17, // PACKET
    18, // ASH
    21, // RDS
    22, // SNA
    24, // PPPOX
    26, // LLC
    27, // IB
    28, // MPLS
    29, // CAN
    30, // TIPC
    31, // BLUETOOTH
    32, // IUCV
    33, // RXRPC
    35, // PHONET
    36, // IEEE802154
    39, // NFC
    41, // KCM
    42, // QIPCRTR
    43, // SMC
    44, // XDP
    45, // MCTP
];

/// Allowed to a container with the capability beside it.
#[rustfmt::skip]
const WITH_CAPABILITY: &[(Capability, &[&str])] = &[
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (
        Capability::SysAdmin,
        &[
            "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick",
            "lookup_dcookie", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount",
            "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl", "quotactl_fd",
            "setdomainname", "sethostname", "setns", "syslog", "umount", "umount2", "unshare",
        ],
    ),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (Capability::SysModule, &["delete_module", "finit_module", "init_module"]),
    (Capability::SysPacct, &["acct"]),
    (
        Capability::SysPtrace,
        &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"],
    ),
    (Capability::SysRawio, &["ioperm", "iopl"]),
    (Capability::SysTime, &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (Capability::SysTtyConfig, &["vhangup"]),
    (
        Capability::SysNice,
        &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"],
    ),
    (Capability::Syslog, &["syslog"]),
    (Capability::Bpf, &["bpf"]),
    (Capability::Perfmon, &["perf_event_open"]),
];

/// Allowed to every container.
#[rustfmt::skip]
const ALWAYS: &[&str] = &[
    "accept", "accept4", "access", "adjtimex", "alarm", "bind", "brk", "cachestat", "capget",
    "capset", "chdir", "chmod", "chown", "chown32", "clock_adjtime", "clock_adjtime64",
    "clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep",
    "clock_nanosleep_time64", "close", "close_range", "connect", "copy_file_range", "creat",
    "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old",
    "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2",
    "execve", "execveat", "exit", "exit_group", "faccessat", "faccessat2", "fadvise64",
    "fadvise64_64", "fallocate", "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchmodat2",
    "fchown", "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "fgetxattr", "flistxattr",
    "flock", "fork", "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64", "fstatfs",
    "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futex", "futex_requeue", "futex_time64",
    "futex_wait", "futex_waitv", "futex_wake", "futimesat", "get_robust_list", "get_thread_area",
    "getcpu", "getcwd", "getdents", "getdents64", "getegid", "getegid32", "geteuid", "geteuid32",
    "getgid", "getgid32", "getgroups", "getgroups32", "getitimer", "getpeername", "getpgid",
    "getpgrp", "getpid", "getppid", "getpriority", "getrandom", "getresgid", "getresgid32",
    "getresuid", "getresuid32", "getrlimit", "getrusage", "getsid", "getsockname", "getsockopt",
    "gettid", "gettimeofday", "getuid", "getuid32", "getxattr", "getxattrat", "inotify_add_watch",
    "inotify_init", "inotify_init1", "inotify_rm_watch", "io_cancel", "io_destroy",
    "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_setup", "io_submit", "ioctl",
    "ioprio_get", "ioprio_set", "ipc", "kill", "landlock_add_rule", "landlock_create_ruleset",
    "landlock_restrict_self", "lchown", "lchown32", "lgetxattr", "link", "linkat", "listen",
    "listmount", "listxattr", "listxattrat", "llistxattr", "_llseek", "lremovexattr", "lseek",
    "lsetxattr", "lstat", "lstat64", "madvise", "map_shadow_stack", "membarrier", "memfd_create",
    "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2",
    "mlockall", "mmap", "mmap2", "mprotect", "mq_getsetattr", "mq_notify", "mq_open",
    "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64",
    "mq_unlink", "mremap", "mseal", "msgctl", "msgget", "msgrcv", "msgsnd", "msync", "munlock",
    "munlockall", "munmap", "name_to_handle_at", "nanosleep", "newfstatat", "_newselect", "open",
    "openat", "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2",
    "pkey_alloc", "pkey_free", "pkey_mprotect", "poll", "ppoll", "ppoll_time64", "prctl",
    "pread64", "preadv", "preadv2", "prlimit64", "process_mrelease", "process_vm_readv",
    "process_vm_writev", "pselect6", "pselect6_time64", "ptrace", "pwrite64", "pwritev",
    "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv", "recv", "recvfrom",
    "recvmmsg", "recvmmsg_time64", "recvmsg", "remap_file_pages", "removexattr", "removexattrat",
    "rename", "renameat", "renameat2", "restart_syscall", "riscv_hwprobe", "rmdir", "rseq",
    "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn",
    "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo",
    "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr",
    "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
    "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr", "sched_setparam",
    "sched_setscheduler", "sched_yield", "seccomp", "select", "semctl", "semget", "semop",
    "semtimedop", "semtimedop_time64", "send", "sendfile", "sendfile64", "sendmmsg", "sendmsg",
    "sendto", "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid", "setfsgid32",
    "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setitimer",
    "setpgid", "setpriority", "setregid", "setregid32", "setresgid", "setresgid32", "setresuid",
    "setresuid32", "setreuid", "setreuid32", "setrlimit", "setsid", "setsockopt", "setuid",
    "setuid32", "setxattr", "setxattrat", "shmat", "shmctl", "shmdt", "shmget", "shutdown",
    "sigaltstack", "signalfd", "signalfd4", "sigprocmask", "sigreturn", "socketcall",
    "socketpair", "splice", "stat", "stat64", "statfs", "statfs64", "statmount", "statx",
    "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill",
    "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime",
    "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create", "timerfd_gettime",
    "timerfd_gettime64", "timerfd_settime", "timerfd_settime64", "times", "tkill", "truncate",
    "truncate64", "ugetrlimit", "umask", "uname", "unlink", "unlinkat", "uretprobe", "utime",
    "utimensat", "utimensat_time64", "utimes", "vfork", "vmsplice", "wait4", "waitid", "waitpid",
    "write", "writev",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn rules<'a>(profile: &'a LinuxSeccomp, call: &'a str) -> Vec<&'a LinuxSyscall> {
        let all = profile.syscalls().iter().flatten();
        all.filter(move |rule| rule.names().iter().any(|name| name == call))
            .collect()
    }

    #[test]
    fn what_is_not_named_fails_with_eperm() {
        let profile = default_profile(&[]);
        assert_eq!(profile.default_action(), LinuxSeccompAction::ScmpActErrno);
        assert_eq!(profile.default_errno_ret(), Some(EPERM));
        for call in [
            "mount",
            "unshare",
            "bpf",
            "kexec_load",
            "keyctl",
            "io_uring_setup",
            "userfaultfd",
        ] {
            assert!(rules(&profile, call).is_empty(), "{call} has a rule");
        }
    }

    #[test]
    fn without_sys_admin_no_namespace_can_be_made() {
        let profile = default_profile(&[Capability::NetRaw]);
        let clone = rules(&profile, "clone");
        let argument = &clone[0].args().as_ref().unwrap()[0];
        assert_eq!(
            (clone.len(), argument.value(), argument.value_two()),
            (1, 0x7e02_0000, Some(0))
        );
        assert_eq!(rules(&profile, "clone3")[0].errno_ret(), Some(ENOSYS));
    }

    #[test]
    fn a_capability_brings_its_calls() {
        let profile = default_profile(&[Capability::SysAdmin, Capability::SysNice]);
        for call in ["mount", "unshare", "clone3", "mbind"] {
            let rules = rules(&profile, call);
            assert_eq!(rules.len(), 1, "{call}");
            assert_eq!(
                rules[0].action(),
                LinuxSeccompAction::ScmpActAllow,
                "{call}"
            );
            assert!(rules[0].args().is_none(), "{call}");
        }
        assert!(rules(&profile, "reboot").is_empty());
    }

    #[test]
    fn sockets_that_reach_past_the_namespace_are_not_allowed() {
        assert!(!SOCKET_FAMILIES.contains(&38) && !SOCKET_FAMILIES.contains(&40));
        assert!(
            SOCKET_FAMILIES
                .iter()
                .all(|&family| family > SOCKET_FAMILIES_BELOW)
        );
    }
}
