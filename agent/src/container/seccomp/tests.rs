use super::{bpf::run, *};
use proptest::prelude::*;

const EPERM: u32 = Action::ERRNO | 1;
const ENOSYS: u32 = Action::ERRNO | 38;

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

fn verdict(filter: &Filter, name: &str, args: &[u64]) -> u32 {
    let number = syscalls::number(syscalls::X86_64, name).unwrap();
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    run(&filter.program, bpf::NATIVE, number, all)
}

/// The shape of the profile that container engines ship.
fn default_like() -> Filter {
    compile(&profile(
        r#"{
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["read", "write", "execve", "socketcall", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 4294967295, "op": "SCMP_CMP_EQ"}]},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
        ]}"#,
    ))
    .unwrap()
}

#[test]
fn a_default_profile_decides_as_container_engines_do() {
    let filter = default_like();
    assert_eq!(verdict(&filter, "read", &[]), Action::ALLOW);
    assert_eq!(verdict(&filter, "mount", &[]), EPERM);
    assert_eq!(verdict(&filter, "socket", &[2]), Action::ALLOW);
    assert_eq!(verdict(&filter, "socket", &[40]), EPERM); // AF_VSOCK
    assert_eq!(verdict(&filter, "personality", &[0]), Action::ALLOW);
    assert_eq!(
        verdict(&filter, "personality", &[0xffff_ffff]),
        Action::ALLOW
    );
    assert_eq!(verdict(&filter, "personality", &[8]), EPERM);
    assert_eq!(verdict(&filter, "personality", &[1 << 32]), EPERM);
    assert_eq!(verdict(&filter, "clone", &[0x11]), Action::ALLOW);
    assert_eq!(verdict(&filter, "clone", &[0x1000_0000]), EPERM); // CLONE_NEWUSER
    assert_eq!(verdict(&filter, "clone3", &[]), ENOSYS);
}

#[test]
fn other_architectures_have_their_own_numbers_or_die() {
    let filter = default_like();
    let i386 = |name| {
        let number = syscalls::number(syscalls::I386, name).unwrap();
        run(&filter.program, bpf::FOREIGN, number, [0; 6])
    };
    assert_eq!(i386("read"), Action::ALLOW);
    assert_eq!(i386("socketcall"), Action::ALLOW);
    assert_eq!(i386("mount"), EPERM);
    // x32: the kernel has none, and says so.
    assert_eq!(
        run(&filter.program, bpf::NATIVE, 0x4000_0000, [0; 6]),
        ENOSYS
    );
    assert_eq!(
        run(&filter.program, 0xc000_00b7, 0, [0; 6]),
        Action::KILL_PROCESS
    );

    let native_only = compile(&profile(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#)).unwrap();
    assert_eq!(
        run(&native_only.program, bpf::NATIVE, 0, [0; 6]),
        Action::ALLOW
    );
    assert_eq!(
        run(&native_only.program, bpf::FOREIGN, 3, [0; 6]),
        Action::KILL_PROCESS
    );
}

#[test]
fn the_strictest_of_several_rules_wins() {
    let filter = compile(&profile(
        r#"{
        "defaultAction": "SCMP_ACT_LOG",
        "syscalls": [
            {"names": ["chmod"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["chmod"], "action": "SCMP_ACT_KILL_PROCESS",
             "args": [{"index": 1, "value": 2048, "valueTwo": 2048, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
             "args": [{"index": 1, "value": 511, "op": "SCMP_CMP_GT"}]}
        ]}"#,
    ))
    .unwrap();
    assert_eq!(verdict(&filter, "chmod", &[0, 0o644]), Action::ALLOW);
    assert_eq!(verdict(&filter, "chmod", &[0, 0o1644]), Action::ERRNO | 13);
    assert_eq!(
        verdict(&filter, "chmod", &[0, 0o4755]),
        Action::KILL_PROCESS
    );
    assert_eq!(verdict(&filter, "open", &[]), Action::LOG);
}

#[test]
fn repeated_conditions_on_an_argument_are_alternatives() {
    let filter = compile(&profile(
        r#"{
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
            {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}]}"#,
    ))
    .unwrap();
    assert_eq!(verdict(&filter, "socket", &[1]), Action::ALLOW);
    assert_eq!(verdict(&filter, "socket", &[2]), Action::ALLOW);
    assert_eq!(verdict(&filter, "socket", &[3]), EPERM);
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    for json in [
        r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}"#,
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
    ] {
        let error = compile(&profile(json)).unwrap_err();
        assert_eq!(error.code(), ttrpc::Code::INVALID_ARGUMENT, "{json}");
    }
}

#[test]
fn a_rule_with_many_alternatives_is_reached_by_a_long_jump() {
    let args: Vec<String> = (0..120)
        .map(|value| format!(r#"{{"index": 0, "value": {value}, "op": "SCMP_CMP_EQ"}}"#))
        .collect();
    let filter = compile(&profile(&format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{}]}},
            {{"names": ["write"], "action": "SCMP_ACT_ALLOW"}}]}}"#,
        args.join(",")
    )))
    .unwrap();
    assert_eq!(verdict(&filter, "socket", &[119]), Action::ALLOW);
    assert_eq!(verdict(&filter, "socket", &[120]), EPERM);
    assert_eq!(verdict(&filter, "write", &[]), Action::ALLOW);
    assert_eq!(verdict(&filter, "fork", &[]), EPERM);
}

#[test]
fn a_profile_over_the_kernels_bound_is_refused() {
    let args: Vec<String> = (0..2000)
        .map(|value| format!(r#"{{"index": 0, "value": {value}, "op": "SCMP_CMP_EQ"}}"#))
        .collect();
    let json = format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{}]}}]}}"#,
        args.join(",")
    );
    assert!(compile(&profile(&json)).is_err());
}

proptest! {
    /// Each comparison is the one of 64-bit unsigned numbers.
    #[test]
    fn comparisons_are_64_bit(
        argument in prop_oneof![any::<u64>(), 0..4_u64, (0..4_u64).prop_map(|x| x << 32)],
        value in prop_oneof![any::<u64>(), 0..4_u64, (0..4_u64).prop_map(|x| x << 32)],
        mask in any::<u64>(),
        index in 0..6_usize,
        op in 0..7_usize,
    ) {
        let (name, holds) = [
            ("NE", argument != value),
            ("LT", argument < value),
            ("LE", argument <= value),
            ("EQ", argument == value),
            ("GE", argument >= value),
            ("GT", argument > value),
            ("MASKED_EQ", argument & mask == value),
        ][op];
        let (first, second) = if op == 6 { (mask, value) } else { (value, 0) };
        let filter = compile(&profile(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["ioctl"],
                "action": "SCMP_ACT_ALLOW", "args": [{{"index": {index}, "value": {first},
                "valueTwo": {second}, "op": "SCMP_CMP_{name}"}}]}}]}}"#
        ))).unwrap();
        let mut args = [7; 6];
        args[index] = argument;
        let want = if holds { Action::ALLOW } else { EPERM };
        prop_assert_eq!(verdict(&filter, "ioctl", &args), want);
    }
}
