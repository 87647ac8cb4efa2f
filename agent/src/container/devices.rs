//! Which devices a container may use, as a cgroup v2 eBPF program.
//!
//! cgroup v2 has no device files: access is decided by a program attached to the
//! cgroup (BPF_PROG_TYPE_CGROUP_DEVICE). Without one, a container with
//! CAP_MKNOD could make a node for the pod's scratch disk and read the files of
//! its neighbours.
//!
//! Rules are those of `linux.resources.devices`: the last one that matches an
//! access decides, what no rule matches is denied. After the rules of the
//! specification come the devices every container has (OCI config-linux,
//! "Default Devices"), which therefore always work. Building is pure.

use std::{fs::File, path::Path};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::{
    error::{Context as _, Error, Result},
    sys::{self, BpfInsn},
};

/// More than any specification has; keeps the program far below jump range.
const MAX_RULES: usize = 512;

/// BPF_DEVCG_* of linux/bpf.h.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// One rule, checked. `None` stands for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

impl Rule {
    fn parse(from: &LinuxDeviceCgroup) -> Result<Self> {
        let bad = |what: &str| Error::invalid(format!("device rule {from}: {what}"));
        let number = |value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(value) => i32::try_from(value)
                .ok()
                .filter(|value| *value >= 0)
                .map(Some)
                .ok_or_else(|| bad("a device number is out of range")),
        };
        let kind = match from.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::A => None,
            LinuxDeviceType::B => Some(BLOCK),
            LinuxDeviceType::C | LinuxDeviceType::U => Some(CHARACTER),
            LinuxDeviceType::P => return Err(bad("a fifo is no device")),
        };
        let access = match from.access().as_deref() {
            None | Some("") => MKNOD | READ | WRITE,
            Some(letters) => letters.chars().try_fold(0, |bits, letter| match letter {
                'm' => Ok(bits | MKNOD),
                'r' => Ok(bits | READ),
                'w' => Ok(bits | WRITE),
                _ => Err(bad("access is made of r, w and m")),
            })?,
        };
        Ok(Self {
            allow: from.allow(),
            kind,
            major: number(from.major())?,
            minor: number(from.minor())?,
            access,
        })
    }
}

/// What every container may do: make any node (using it is another matter), and
/// use null, zero, full, random, urandom, tty, console, ptmx and terminals.
fn defaults() -> impl Iterator<Item = Rule> {
    let rule = |kind, major, minor, access| Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    };
    let all = MKNOD | READ | WRITE;
    let node = |major, minor| rule(CHARACTER, Some(major), minor, all);
    [
        rule(CHARACTER, None, None, MKNOD),
        rule(BLOCK, None, None, MKNOD),
        node(1, Some(3)),
        node(1, Some(5)),
        node(1, Some(7)),
        node(1, Some(8)),
        node(1, Some(9)),
        node(5, Some(0)),
        node(5, Some(1)),
        node(5, Some(2)),
        node(136, None),
    ]
    .into_iter()
}

/// Whether a rule, as the last one, lets a container use every device there is.
#[must_use]
pub fn allows_every_device(rule: &LinuxDeviceCgroup) -> bool {
    let all = |rule: Rule| {
        rule.allow
            && rule.kind.is_none()
            && rule.major.is_none()
            && rule.minor.is_none()
            && rule.access == MKNOD | READ | WRITE
    };
    Rule::parse(rule).is_ok_and(all)
}

/// A device filter, ready to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFilter(Vec<BpfInsn>);

impl DeviceFilter {
    /// Builds the filter of a specification's rules.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for rules that make no sense, or too many.
    pub fn build(rules: &[LinuxDeviceCgroup]) -> Result<Self> {
        if rules.len() > MAX_RULES {
            return Err(Error::invalid(format!(
                "{} device rules, more than {MAX_RULES}",
                rules.len()
            )));
        }
        let mut all = rules.iter().map(Rule::parse).collect::<Result<Vec<_>>>()?;
        all.extend(defaults());
        Ok(Self(assemble(&all)))
    }

    /// Loads the filter and attaches it to a cgroup.
    ///
    /// # Errors
    /// When the kernel refuses: a container whose devices cannot be confined is
    /// not run.
    pub fn attach(&self, cgroup: &Path) -> Result<()> {
        let program =
            sys::bpf_load_device_filter(&self.0).context(|| "load the device filter (bpf(2))")?;
        let dir = File::open(cgroup).context(|| format!("open {}", cgroup.display()))?;
        sys::bpf_attach_device_filter(&dir, &program)
            .context(|| format!("attach the device filter to {}", cgroup.display()))
    }
}

// Registers: r1 the context, r2 type, r3 access, r4 major, r5 minor, r0 result.
const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> BpfInsn {
    BpfInsn {
        code,
        regs: dst | (src << 4),
        off,
        imm,
    }
}
const LOAD32: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOV32: u8 = 0xb4; // BPF_ALU | BPF_MOV | BPF_K
const MOV32_REG: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
const AND32: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RSH32: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const JNE: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const JEQ: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

fn assemble(rules: &[Rule]) -> Vec<BpfInsn> {
    // struct bpf_cgroup_dev_ctx { access_type, major, minor }, access_type =
    // access << 16 | type.
    let mut out = vec![
        insn(LOAD32, 2, 1, 0, 0),
        insn(MOV32_REG, 3, 2, 0, 0),
        insn(AND32, 2, 0, 0, 0xffff),
        insn(RSH32, 3, 0, 0, 16),
        insn(LOAD32, 4, 1, 4, 0),
        insn(LOAD32, 5, 1, 8, 0),
    ];
    // The last match decides, so the last rule is asked first.
    for rule in rules.iter().rev() {
        let mut body = Vec::new();
        if let Some(kind) = rule.kind {
            body.push(insn(JNE, 2, 0, 0, kind));
        }
        body.push(insn(MOV32_REG, 0, 3, 0, 0));
        if rule.allow {
            // Everything asked for must be allowed.
            body.push(insn(AND32, 0, 0, 0, !rule.access));
            body.push(insn(JNE, 0, 0, 0, 0));
        } else {
            // Anything asked for being denied is enough.
            body.push(insn(AND32, 0, 0, 0, rule.access));
            body.push(insn(JEQ, 0, 0, 0, 0));
        }
        if let Some(major) = rule.major {
            body.push(insn(JNE, 4, 0, 0, major));
        }
        if let Some(minor) = rule.minor {
            body.push(insn(JNE, 5, 0, 0, minor));
        }
        body.push(insn(MOV32, 0, 0, 0, i32::from(rule.allow)));
        body.push(insn(EXIT, 0, 0, 0, 0));
        // Every jump leads to the next rule.
        let len = body.len();
        for (index, instruction) in body.iter_mut().enumerate() {
            if matches!(instruction.code, JNE | JEQ) {
                instruction.off = i16::try_from(len - index - 1).unwrap_or(0);
            }
        }
        out.extend(body);
    }
    out.push(insn(MOV32, 0, 0, 0, 0));
    out.push(insn(EXIT, 0, 0, 0, 0));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The machine, as far as the filter uses it.
    fn run(program: &[BpfInsn], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let context = [(access << 16) | kind, major, minor];
        let mut registers = [0_i32; 6];
        let mut at = 0;
        loop {
            let BpfInsn {
                code,
                regs,
                off,
                imm,
            } = program[at];
            let (dst, src) = (usize::from(regs & 15), usize::from(regs >> 4));
            at += 1;
            let jump = usize::try_from(off).unwrap();
            match code {
                LOAD32 => registers[dst] = context[jump / 4],
                MOV32 => registers[dst] = imm,
                MOV32_REG => registers[dst] = registers[src],
                AND32 => registers[dst] &= imm,
                RSH32 => registers[dst] >>= imm,
                JNE if registers[dst] != imm => at += jump,
                JEQ if registers[dst] == imm => at += jump,
                JNE | JEQ => {}
                EXIT => return registers[0] == 1,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    fn rules(json: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn an_ordinary_container_has_the_default_devices_and_what_it_was_given() {
        let filter = DeviceFilter::build(&rules(
            r#"[{"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]"#,
        ))
        .unwrap();
        let ask = |kind, access, major, minor| run(&filter.0, kind, access, major, minor);
        assert!(ask(CHARACTER, READ | WRITE, 1, 3)); // null
        assert!(ask(CHARACTER, READ, 136, 7)); // a terminal
        assert!(ask(CHARACTER, READ | WRITE, 10, 229)); // fuse, as given
        assert!(ask(BLOCK, MKNOD, 254, 0)); // making a node is harmless
        assert!(!ask(BLOCK, READ, 254, 0)); // the scratch disk
        assert!(!ask(CHARACTER, READ, 1, 1)); // /dev/mem
    }

    #[test]
    fn a_privileged_container_has_them_all() {
        let filter =
            DeviceFilter::build(&rules(r#"[{"allow": true, "type": "a", "access": "rwm"}]"#))
                .unwrap();
        assert!(run(&filter.0, BLOCK, READ | WRITE, 254, 0));
        let every = |json: &str| allows_every_device(&rules(json)[0]);
        assert!(every(r#"[{"allow": true, "type": "a", "access": "rwm"}]"#));
        assert!(every(r#"[{"allow": true}]"#));
        assert!(!every(r#"[{"allow": false}]"#));
        assert!(!every(r#"[{"allow": true, "access": "r"}]"#));
        assert!(!every(r#"[{"allow": true, "type": "c", "access": "rwm"}]"#));
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for json in [
            r#"[{"allow": true, "access": "rx"}]"#,
            r#"[{"allow": true, "type": "c", "major": -2}]"#,
            r#"[{"allow": true, "type": "c", "major": 4294967296}]"#,
            r#"[{"allow": true, "type": "p"}]"#,
        ] {
            assert!(DeviceFilter::build(&rules(json)).is_err(), "{json}");
        }
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let number = proptest::option::of(0..3_i32);
        (
            any::<bool>(),
            proptest::option::of(1..3_i32),
            number.clone(),
            number,
            1..8_i32,
        )
            .prop_map(|(allow, kind, major, minor, access)| Rule {
                allow,
                kind,
                major,
                minor,
                access,
            })
    }

    proptest! {
        #[test]
        fn the_last_matching_rule_decides(
            rules in proptest::collection::vec(any_rule(), 0..12),
            (kind, access, major, minor) in (1..3_i32, 1..8_i32, 0..3_i32, 0..3_i32),
        ) {
            let expected = rules.iter().rev().find(|rule| {
                rule.kind.is_none_or(|k| k == kind)
                    && rule.major.is_none_or(|m| m == major)
                    && rule.minor.is_none_or(|m| m == minor)
                    && if rule.allow { access & !rule.access == 0 } else { access & rule.access != 0 }
            }).is_some_and(|rule| rule.allow);
            prop_assert_eq!(run(&assemble(&rules), kind, access, major, minor), expected);
        }
    }
}
