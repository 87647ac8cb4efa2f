//! A small assembler for classic BPF over `struct seccomp_data`.
//!
//! Jumps go forward only and are relative, so a piece of program can be put
//! anywhere: pieces are built apart and joined.

use super::{Action, Condition, Op, Rule};
use crate::error::{Error, Result};
use crate::sys::SockFilter;

// Operation codes of linux/filter.h, as far as they are used.
const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GT: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_GE: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// Offsets in struct seccomp_data of linux/seccomp.h.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

// linux/audit.h
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
/// Bit of an x32 call's number (asm/unistd.h).
const X32: u32 = 0x4000_0000;

/// A piece of a filter.
#[derive(Debug, Default)]
pub(super) struct Program(Vec<SockFilter>);

/// Where a conditional jump goes.
#[derive(Clone, Copy)]
enum To {
    Next,
    /// Past the end of the piece being built.
    End,
}

fn instruction(code: u16, k: u32) -> SockFilter {
    SockFilter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// A jump over `len` instructions, as far as a conditional one reaches.
fn reach(len: usize) -> Option<u8> {
    u8::try_from(len).ok()
}

impl Program {
    pub(super) fn finish(self) -> Vec<SockFilter> {
        self.0
    }

    fn load(&mut self, offset: u32) {
        self.0.push(instruction(LOAD_WORD, offset));
    }

    /// Ends the filter with this return value.
    pub(super) fn give(&mut self, value: u32) {
        self.0.push(instruction(RETURN, value));
    }

    fn jump_over(&mut self, len: usize) -> Result<()> {
        let len = u32::try_from(len).map_err(|_| Error::invalid("seccomp: profile too large"))?;
        self.0.push(instruction(JUMP, len));
        Ok(())
    }

    /// Runs `body`, which must not fall through, when what is loaded is `value`.
    pub(super) fn when_equal(&mut self, value: u32, body: Self) -> Result<()> {
        let mut test = instruction(JUMP_EQ, value);
        match reach(body.0.len()) {
            Some(len) => {
                test.jf = len;
                self.0.push(test);
            }
            None => {
                test.jt = 1;
                self.0.push(test);
                self.jump_over(body.0.len())?;
            }
        }
        self.0.extend(body.0);
        Ok(())
    }

    /// The whole filter out of its two architectures; an empty piece stands for
    /// one that is not allowed.
    pub(super) fn dispatch(&mut self, native: Self, foreign: Self, otherwise: u32) -> Result<()> {
        let mut native_block = Self::default();
        native_block.load(NUMBER);
        let mut x32 = instruction(JUMP_GE, X32);
        x32.jf = 1;
        native_block.0.push(x32);
        native_block.give(Action::ERRNO | libc::ENOSYS.cast_unsigned());
        native_block.0.extend(native.0);

        self.load(ARCH);
        self.when_equal(AUDIT_ARCH_X86_64, native_block)?;
        if !foreign.0.is_empty() {
            let mut block = Self::default();
            block.load(NUMBER);
            block.0.extend(foreign.0);
            self.when_equal(AUDIT_ARCH_I386, block)?;
        }
        self.give(otherwise);
        Ok(())
    }

    /// Returns the rule's action if its conditions hold, else falls through.
    pub(super) fn rule(&mut self, rule: &Rule) -> Result<()> {
        let mut piece = Piece::default();
        for condition in &rule.conditions {
            piece.condition(*condition);
        }
        piece.push(instruction(RETURN, rule.action.0), None);
        self.0.extend(piece.resolve()?);
        Ok(())
    }
}

/// Straight code with jumps to its own end, resolved when its length is known.
#[derive(Default)]
struct Piece {
    code: Vec<(SockFilter, Option<(To, To)>)>,
    /// Jumps to the end of the condition being built: (index, taken when true).
    met: Vec<(usize, bool)>,
}

impl Piece {
    fn push(&mut self, instruction: SockFilter, targets: Option<(To, To)>) {
        self.code.push((instruction, targets));
    }

    fn test(&mut self, code: u16, k: u32, when_true: To, when_false: To) {
        self.push(instruction(code, k), Some((when_true, when_false)));
    }

    /// Like [`Self::test`], where one side means that the condition is met.
    fn test_met(&mut self, code: u16, k: u32, met_when: bool, otherwise: To) {
        self.met.push((self.code.len(), met_when));
        let (when_true, when_false) = if met_when {
            (To::Next, otherwise)
        } else {
            (otherwise, To::Next)
        };
        self.test(code, k, when_true, when_false);
    }

    /// Falls through when the condition holds, else goes to the end.
    fn condition(&mut self, condition: Condition) {
        let low_at = ARGS + 8 * u32::try_from(condition.index).unwrap_or(0);
        let high_at = low_at + 4;
        let load = |piece: &mut Self, at| piece.push(instruction(LOAD_WORD, at), None);
        load(self, high_at);
        match condition.op {
            Op::Eq(value) => {
                self.test(JUMP_EQ, high(value), To::Next, To::End);
                load(self, low_at);
                self.test(JUMP_EQ, low(value), To::Next, To::End);
            }
            Op::Ne(value) => {
                self.test_met(JUMP_EQ, high(value), false, To::Next);
                load(self, low_at);
                self.test(JUMP_EQ, low(value), To::End, To::Next);
            }
            Op::MaskedEq { mask, value } => {
                self.push(instruction(AND, high(mask)), None);
                self.test(JUMP_EQ, high(value), To::Next, To::End);
                load(self, low_at);
                self.push(instruction(AND, low(mask)), None);
                self.test(JUMP_EQ, low(value), To::Next, To::End);
            }
            Op::Gt(value) | Op::Ge(value) => {
                self.test_met(JUMP_GT, high(value), true, To::Next);
                self.test(JUMP_EQ, high(value), To::Next, To::End);
                load(self, low_at);
                let code = if matches!(condition.op, Op::Gt(_)) {
                    JUMP_GT
                } else {
                    JUMP_GE
                };
                self.test(code, low(value), To::Next, To::End);
            }
            Op::Lt(value) | Op::Le(value) => {
                // Not (argument >= value), not (argument > value).
                self.test_met(JUMP_GE, high(value), false, To::Next);
                self.test(JUMP_EQ, high(value), To::Next, To::End);
                load(self, low_at);
                let code = if matches!(condition.op, Op::Lt(_)) {
                    JUMP_GE
                } else {
                    JUMP_GT
                };
                self.test(code, low(value), To::End, To::Next);
            }
        }
        self.land();
    }

    /// Points the jumps that mean "met" to what follows now.
    fn land(&mut self) {
        let here = self.code.len();
        for (index, met_when) in std::mem::take(&mut self.met) {
            if let Some((test, _)) = self.code.get_mut(index) {
                let len = reach(here - index - 1).unwrap_or(u8::MAX);
                if met_when {
                    test.jt = len;
                } else {
                    test.jf = len;
                }
            }
        }
    }

    fn resolve(self) -> Result<Vec<SockFilter>> {
        let end = self.code.len();
        self.code
            .into_iter()
            .enumerate()
            .map(|(index, (mut instruction, targets))| {
                if let Some((when_true, when_false)) = targets {
                    let far = reach(end - index - 1)
                        .ok_or_else(|| Error::invalid("seccomp: a rule has too many conditions"))?;
                    if matches!(when_true, To::End) {
                        instruction.jt = far;
                    }
                    if matches!(when_false, To::End) {
                        instruction.jf = far;
                    }
                }
                Ok(instruction)
            })
            .collect()
    }
}

fn high(value: u64) -> u32 {
    u32::try_from(value >> 32).unwrap_or(0)
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

/// The machine of linux/filter.h, as far as filters here use it: for tests.
#[cfg(test)]
pub(super) fn run(program: &[SockFilter], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend_from_slice(&number.to_le_bytes());
    data.extend_from_slice(&arch.to_le_bytes());
    data.extend_from_slice(&0_u64.to_le_bytes());
    for arg in args {
        data.extend_from_slice(&arg.to_le_bytes());
    }
    let (mut at, mut loaded) = (0, 0_u32);
    loop {
        let SockFilter { code, jt, jf, k } = program[at];
        at += 1;
        let branch = |condition: bool| usize::from(if condition { jt } else { jf });
        match code {
            LOAD_WORD => {
                let from = k as usize;
                loaded = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
            }
            AND => loaded &= k,
            JUMP => at += k as usize,
            JUMP_EQ => at += branch(loaded == k),
            JUMP_GT => at += branch(loaded > k),
            JUMP_GE => at += branch(loaded >= k),
            RETURN => return k,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

#[cfg(test)]
pub(super) const NATIVE: u32 = AUDIT_ARCH_X86_64;
#[cfg(test)]
pub(super) const FOREIGN: u32 = AUDIT_ARCH_I386;
