//! nftables without a library or the `nft` program: netlink messages of our own.
//!
//! The kernel's packet filter is programmed by netlink messages of the
//! `nfnetlink` kind (`linux/netfilter/nfnetlink.h`, `nf_tables.h`). A change is a
//! batch, applied whole or not at all:
//!
//! ```text
//! ┌ BATCH_BEGIN ┬ NEWTABLE ┬ NEWCHAIN ┬ NEWSET ┬ NEWRULE … ┬ BATCH_END ┐   one send()
//! ```
//!
//! - [`message`] lays out messages and attributes; it knows the byte format only.
//! - [`expr`] names the expressions that rules are made of.
//! - [`ruleset`] is our rule set, as text that happens to be Rust.
//! - [`inspect`] tries the rule set and looks for what gets in its way.
//! - [`socket`] sends a batch and waits for the kernel's verdict.

pub mod expr;
pub mod inspect;
pub mod message;
pub mod ruleset;
pub mod socket;
