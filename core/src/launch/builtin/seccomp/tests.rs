//! Compiled filters are run here as the kernel would run them.

use super::*;

fn compiled(json: serde_json::Value) -> Result<Vec<BpfProgram>> {
    compile(&serde_json::from_value(json).unwrap())
}

/// Runs a filter as the kernel would; `nr` and the arguments are the input.
fn answer(program: &BpfProgram, nr: i64, args: [u64; 6]) -> u32 {
    let arch: u32 = if cfg!(target_arch = "x86_64") {
        0xc000_003e
    } else {
        0xc000_00b7
    };
    let mut data = Vec::new();
    data.extend(u32::try_from(nr).unwrap().to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend(0u64.to_ne_bytes());
    args.iter().for_each(|arg| data.extend(arg.to_ne_bytes()));
    let (mut pc, mut acc) = (0usize, 0u32);
    loop {
        let op = &program[pc];
        pc += 1;
        let jump = |taken: bool| usize::from(if taken { op.jt } else { op.jf });
        match op.code {
            0x20 => {
                let at = usize::try_from(op.k).unwrap();
                acc = u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
            }
            0x54 => acc &= op.k,
            0x05 => pc += usize::try_from(op.k).unwrap(),
            0x15 => pc += jump(acc == op.k),
            0x25 => pc += jump(acc > op.k),
            0x35 => pc += jump(acc >= op.k),
            0x06 => return op.k,
            other => panic!("instruction {other:#x} is not interpreted"),
        }
    }
}

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

fn call(programs: &[BpfProgram], name: &str, args: [u64; 6]) -> u32 {
    let nr = number(name).unwrap();
    programs
        .iter()
        .map(|program| answer(program, nr, args))
        .min()
        .unwrap()
}

fn first(value: u64) -> [u64; 6] {
    [value, 0, 0, 0, 0, 0]
}

#[test]
fn a_call_without_a_rule_gets_the_default() {
    let programs = compiled(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13,
        "syscalls": [{"names": ["read", "statx", "no_such_call"], "action": "SCMP_ACT_ALLOW"}]
    }))
    .unwrap();
    assert_eq!(call(&programs, "read", first(0)), ALLOW);
    assert_eq!(call(&programs, "mount", first(0)), ERRNO | 13);
}

#[test]
fn a_call_newer_than_the_profile_does_not_exist() {
    let programs = compiled(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["write"], "action": "SCMP_ACT_ALLOW"}]
    }))
    .unwrap();
    let newest = number("write").unwrap();
    assert_eq!(answer(&programs[0], newest, first(0)), ALLOW);
    assert_eq!(answer(&programs[0], newest + 1, first(0)), ERRNO | 38);
    assert_eq!(
        answer(&programs[0], 0x4000_0000 + newest, first(0)),
        ERRNO | 38
    );
}

#[test]
fn several_actions_become_several_filters() {
    let programs = compiled(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["ptrace"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"}]
    }))
    .unwrap();
    assert_eq!(programs.len(), 3);
    assert_eq!(call(&programs, "clone3", first(0)), ERRNO | 38);
    // The kernel orders actions as signed numbers: KILL_PROCESS is the least.
    assert!(
        programs
            .iter()
            .any(|p| answer(p, number("ptrace").unwrap(), first(0)) == 0x8000_0000)
    );
    assert_eq!(call(&programs, "read", first(0)), ALLOW);
    assert_eq!(call(&programs, "write", first(0)), ERRNO | 1);
}

#[test]
fn a_default_of_allow_needs_no_filter_of_its_own() {
    let programs = compiled(serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]
    }))
    .unwrap();
    assert_eq!(programs.len(), 1);
    assert_eq!(call(&programs, "mount", first(0)), ERRNO | 1);
    assert_eq!(call(&programs, "read", first(0)), ALLOW);
}

#[test]
fn every_comparison_is_over_64_bits() {
    let big = 1u64 << 40;
    #[allow(clippy::type_complexity)] // a table
    let table: &[(&str, u64, Option<u64>, &[u64], &[u64])] = &[
        ("SCMP_CMP_EQ", big, None, &[big], &[0, big + 1]),
        ("SCMP_CMP_NE", big, None, &[0, big + 1], &[big]),
        ("SCMP_CMP_LT", big, None, &[0, big - 1], &[big, u64::MAX]),
        ("SCMP_CMP_LE", big, None, &[0, big], &[big + 1]),
        ("SCMP_CMP_GT", big, None, &[big + 1], &[0, big]),
        ("SCMP_CMP_GE", big, None, &[big, u64::MAX], &[0, big - 1]),
        (
            "SCMP_CMP_MASKED_EQ",
            0x7e02_0000,
            Some(0),
            &[0, 0x11, 1 << 40],
            &[0x1000_0000, 0x2_0000],
        ),
    ];
    for (op, value, two, holds, fails) in table {
        let mut arg = serde_json::json!({"index": 0, "value": value, "op": op});
        if let Some(two) = two {
            arg["valueTwo"] = (*two).into();
        }
        let programs = compiled(serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [arg]}]
        }))
        .unwrap();
        for arg in *holds {
            assert_eq!(
                call(&programs, "clone", first(*arg)),
                ALLOW,
                "{op} {arg:#x}"
            );
        }
        for arg in *fails {
            assert_eq!(
                call(&programs, "clone", first(*arg)),
                ERRNO | 1,
                "{op} {arg:#x}"
            );
        }
    }
}

#[test]
fn conditions_join_unless_they_are_about_one_argument() {
    let arg = |index: u64, value: u64| serde_json::json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let with = |args: Vec<serde_json::Value>| {
        compiled(serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": args}]
        }))
        .unwrap()
    };
    let both = with(vec![arg(0, 1), arg(1, 2)]);
    assert_eq!(call(&both, "socket", [1, 2, 0, 0, 0, 0]), ALLOW);
    assert_eq!(call(&both, "socket", [1, 3, 0, 0, 0, 0]), ERRNO | 1);
    let either = with(vec![arg(0, 1), arg(0, 2)]);
    assert_eq!(call(&either, "socket", first(1)), ALLOW);
    assert_eq!(call(&either, "socket", first(2)), ALLOW);
    assert_eq!(call(&either, "socket", first(3)), ERRNO | 1);
}

#[test]
fn agents_and_missing_no_new_privileges_are_refused() {
    let notify = compiled(serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]
    }));
    assert!(notify.is_err());
    let spec: Spec = serde_json::from_value(serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "noNewPrivileges": false},
        "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}}
    }))
    .unwrap();
    assert!(matches!(Filters::of(&spec), Err(Error::Spec(_))));
}
