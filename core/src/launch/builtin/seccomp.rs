//! `linux.seccomp` of a specification, compiled to BPF and loaded.
//!
//! libcontainer needs the C library libseccomp for this; here the pure Rust
//! crate seccompiler (Firecracker's) does it. One seccompiler filter knows two
//! actions, "match" and "mismatch", while a profile may hold several; so one
//! filter is made per action, and the kernel combines them: the most
//! restrictive answer counts (seccomp(2)).
//!
//! - For each action A that is neither allow nor the default: a filter "these
//!   calls: A, any other: allow".
//! - If the default is not allow: a filter "calls named by any rule: allow, any
//!   other: default". It is loaded last, so that it need not allow `seccomp(2)`.
//!
//! Calls above the newest one that a profile names fail with `ENOSYS`, as in
//! runc, unless the default lets calls through.
//!
//! Differences from libseccomp: rules of different actions for one call add up
//! to the most restrictive. Programs of another architecture (32-bit x86 on
//! x86_64) are killed by the filter. Filter flags are not used: `TSYNC` is moot for one thread, and `LOG`
//! and `SPEC_ALLOW` change no answer.
//!
//! Syscall numbers come from the crate `syscalls`, generated from the kernel's
//! tables. seccompiler's own table is private: its JSON interface fails a whole
//! profile on the first name it does not know, while profiles name calls of
//! every architecture and of newer kernels, which are to be skipped.

use std::collections::BTreeMap;
use std::str::FromStr;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator,
    LinuxSyscall, Spec,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};
use syscalls::Sysno;

use super::error::{Error, Result};

/// `errno` when a profile names none, as in runc.
const EPERM: u32 = 1;
/// Calls that libseccomp (and so every profile) and the kernel's table for some
/// architectures (here aarch64's) name differently.
const OTHER_NAMES: &[(&str, &str)] = &[("newfstatat", "fstatat")];

/// Alternatives, one of which must hold; none at all means "always".
type Alternatives = Vec<SeccompRule>;
/// Syscall number to the arguments it is about.
type Calls = BTreeMap<i64, Alternatives>;

/// Compiled filters in the order to load them; empty for no seccomp section.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters(Vec<BpfProgram>);

impl Filters {
    /// Compiles the section of a specification whose process runs under it.
    pub(super) fn of(spec: &Spec) -> Result<Self> {
        let linux = spec.linux().as_ref();
        let Some(seccomp) = linux.and_then(|linux| linux.seccomp().as_ref()) else {
            return Ok(Self::default());
        };
        let process = spec.process().as_ref();
        if process.and_then(oci_spec::runtime::Process::no_new_privileges) != Some(true) {
            return Err(Error::Spec(
                "linux.seccomp needs process.noNewPrivileges".to_owned(),
            ));
        }
        compile(seccomp).map(Self)
    }

    /// Loads the filters into the calling thread, for good.
    pub(super) fn load(&self) -> std::result::Result<(), seccompiler::Error> {
        self.0
            .iter()
            .try_for_each(|program| seccompiler::apply_filter(program))
    }
}

fn compile(seccomp: &LinuxSeccomp) -> Result<Vec<BpfProgram>> {
    let default = action(seccomp.default_action(), seccomp.default_errno_ret())?;
    let mut named = Calls::new();
    let mut by_action: Vec<(SeccompAction, Calls)> = Vec::new();
    for rule in seccomp.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        // libseccomp refuses rules with the default action, runc skips them.
        if action == default {
            continue;
        }
        let alternatives = alternatives(rule)?;
        let at = by_action
            .iter()
            .position(|(known, _)| *known == action)
            .unwrap_or_else(|| {
                by_action.push((action, Calls::new()));
                by_action.len() - 1
            });
        for number in rule.names().iter().filter_map(|name| number(name)) {
            add(&mut named, number, &alternatives);
            add(&mut by_action[at].1, number, &alternatives);
        }
    }
    let mut filters = Vec::new();
    for (action, calls) in by_action {
        if action != SeccompAction::Allow && !calls.is_empty() {
            filters.push(program(calls, SeccompAction::Allow, action)?);
        }
    }
    if default != SeccompAction::Allow {
        let newest = named.keys().next_back().copied().unwrap_or(0);
        let answers_unknown = matches!(default, SeccompAction::Log | SeccompAction::Trace(_));
        let mut main = program(named, default, SeccompAction::Allow)?;
        if !answers_unknown {
            main.splice(0..0, not_implemented_above(newest));
        }
        filters.push(main);
    }
    Ok(filters)
}

/// Calls newer than the profile do not exist, as with runc: C libraries try
/// new calls first and fall back on `ENOSYS`, but not on `EPERM`.
fn not_implemented_above(newest: i64) -> [sock_filter; 3] {
    /// `SECCOMP_RET_ERRNO | ENOSYS` (linux/seccomp.h).
    const NOT_IMPLEMENTED: u32 = 0x0005_0000 | 38;
    // BPF_LD|BPF_W|BPF_ABS of `seccomp_data.nr`; BPF_JMP|BPF_JGT|BPF_K; BPF_RET|BPF_K.
    // The number is unsigned here, so the x32 ABI's (bit 30 set) are above too.
    let newest = u32::try_from(newest).unwrap_or(u32::MAX);
    [
        sock_filter {
            code: 0x20,
            jt: 0,
            jf: 0,
            k: 0,
        },
        sock_filter {
            code: 0x25,
            jt: 0,
            jf: 1,
            k: newest,
        },
        sock_filter {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: NOT_IMPLEMENTED,
        },
    ]
}

fn program(calls: Calls, mismatch: SeccompAction, matched: SeccompAction) -> Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(backend)?;
    let filter = SeccompFilter::new(calls, mismatch, matched, arch).map_err(backend)?;
    BpfProgram::try_from(filter).map_err(backend)
}

/// Adds a rule for a call; an unconditional one swallows all others.
fn add(calls: &mut Calls, number: i64, alternatives: &Alternatives) {
    match calls.entry(number) {
        std::collections::btree_map::Entry::Vacant(entry) => {
            entry.insert(alternatives.clone());
        }
        std::collections::btree_map::Entry::Occupied(mut entry) => {
            if alternatives.is_empty() || entry.get().is_empty() {
                entry.get_mut().clear();
            } else {
                entry.get_mut().extend(alternatives.iter().cloned());
            }
        }
    }
}

/// A rule's argument conditions. All must hold, except that conditions on one
/// and the same argument are alternatives, which is how runc reads them
/// (opencontainers/runc#2735).
fn alternatives(rule: &LinuxSyscall) -> Result<Alternatives> {
    let arguments: &[LinuxSeccompArg] = rule.args().as_deref().unwrap_or_default();
    let conditions = arguments
        .iter()
        .map(condition)
        .collect::<Result<Vec<_>>>()?;
    if conditions.is_empty() {
        return Ok(Vec::new());
    }
    let mut indexes: Vec<_> = arguments.iter().map(LinuxSeccompArg::index).collect();
    indexes.sort_unstable();
    indexes.dedup();
    let groups = if indexes.len() == arguments.len() {
        vec![conditions]
    } else {
        conditions
            .into_iter()
            .map(|condition| vec![condition])
            .collect()
    };
    groups
        .into_iter()
        .map(|group| SeccompRule::new(group).map_err(backend))
        .collect()
}

fn condition(argument: &LinuxSeccompArg) -> Result<SeccompCondition> {
    let value = argument.value();
    let (operator, value) = match argument.op() {
        Operator::ScmpCmpNe => (SeccompCmpOp::Ne, value),
        Operator::ScmpCmpLt => (SeccompCmpOp::Lt, value),
        Operator::ScmpCmpLe => (SeccompCmpOp::Le, value),
        Operator::ScmpCmpEq => (SeccompCmpOp::Eq, value),
        Operator::ScmpCmpGe => (SeccompCmpOp::Ge, value),
        Operator::ScmpCmpGt => (SeccompCmpOp::Gt, value),
        // OCI: `value` is the mask, `valueTwo` what must remain.
        Operator::ScmpCmpMaskedEq => (
            SeccompCmpOp::MaskedEq(value),
            argument.value_two().unwrap_or(0),
        ),
    };
    let index = u8::try_from(argument.index())
        .map_err(|_| Error::Seccomp(format!("argument {} does not exist", argument.index())))?;
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, operator, value).map_err(backend)
}

fn action(action: Action, errno: Option<u32>) -> Result<SeccompAction> {
    Ok(match action {
        Action::ScmpActAllow => SeccompAction::Allow,
        Action::ScmpActErrno => SeccompAction::Errno(errno.unwrap_or(EPERM)),
        Action::ScmpActTrace => SeccompAction::Trace(errno.unwrap_or(EPERM)),
        Action::ScmpActLog => SeccompAction::Log,
        Action::ScmpActTrap => SeccompAction::Trap,
        Action::ScmpActKill | Action::ScmpActKillThread => SeccompAction::KillThread,
        Action::ScmpActKillProcess => SeccompAction::KillProcess,
        Action::ScmpActNotify => {
            return Err(Error::Seccomp(
                "SCMP_ACT_NOTIFY (a seccomp agent) is not supported".to_owned(),
            ));
        }
    })
}

/// A call's number here; none if this architecture or table has no such call.
fn number(name: &str) -> Option<i64> {
    let known = |name: &str| Sysno::from_str(name).ok().map(|call| i64::from(call.id()));
    known(name).or_else(|| {
        OTHER_NAMES
            .iter()
            .find(|(ours, _)| *ours == name)
            .and_then(|(_, theirs)| known(theirs))
    })
}

fn backend(error: seccompiler::BackendError) -> Error {
    Error::Seccomp(error.to_string())
}

#[cfg(test)]
mod tests;
