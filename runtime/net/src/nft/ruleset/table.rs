//! Writing tables, sets, chains and rules into a batch.

use crate::nft::expr::{Expr, INTERFACE_NAME_LEN};
use crate::nft::message::{APPEND, Attributes, Batch, CREATE, Family, Kind};

pub(super) fn create_table(batch: &mut Batch, name: &str, family: Family) {
    batch.push(
        format!("create table {} {name}", family_name(family)),
        Kind::NewTable,
        family,
        CREATE,
        // NFTA_TABLE_NAME
        |table| {
            table.text(1, name);
        },
    );
}

pub(super) fn delete_table(batch: &mut Batch, name: &str, family: Family) {
    batch.push(
        format!("delete table {} {name}", family_name(family)),
        Kind::DeleteTable,
        family,
        0,
        |table| {
            table.text(1, name);
        },
    );
}

pub(super) fn replace_table(batch: &mut Batch, name: &str, family: Family) {
    create_table(batch, name, family);
    delete_table(batch, name, family);
    create_table(batch, name, family);
}

pub(super) fn family_name(family: Family) -> &'static str {
    match family {
        Family::Unspecified => "any",
        Family::Inet => "inet",
        Family::Ipv4 => "ip",
        Family::Bridge => "bridge",
        Family::Ipv6 => "ip6",
    }
}

/// Types of set keys and values, as userspace numbers them: the kernel keeps the
/// number for `nft list` and doesn't look at it.
pub(super) mod key_type {
    pub(in super::super) const IPV4: u32 = 7;
    pub(in super::super) const IPV6: u32 = 8;
    pub(in super::super) const ETHERNET: u32 = 9;
    pub(in super::super) const TRANSPORT: u32 = 12;
    pub(in super::super) const PORT: u32 = 13;
    pub(in super::super) const INTERFACE_NAME: u32 = 41;
}

/// The type of several fields side by side: 6 bits each.
pub(super) fn concatenated(types: &[u32]) -> u32 {
    types.iter().fold(0, |all, one| (all << 6) | one)
}

/// What tells `nft list` to print a key that is an interface name forwards: a type (0, the key's byte
/// order), a length, and 1 for the host's order as a number in that order.
const KEY_IN_HOST_ORDER: [u8; 6] = {
    let [a, b, c, d] = 1_u32.to_ne_bytes();
    [0, 4, a, b, c, d]
};

/// A table that rules are written into.
pub(super) struct Table<'a> {
    pub(super) name: &'a str,
    pub(super) family: Family,
}

/// Where a chain is called from the kernel.
pub(super) struct Hook {
    /// `NFT_CHAIN_TYPE`: `filter` or `nat`.
    pub(super) kind: &'static str,
    /// Place on the packet's way (`enum nf_inet_hooks`, `NF_BR_*`).
    pub(super) number: u32,
    /// Order among chains of the same place; lower is earlier.
    pub(super) priority: i32,
}

/// Keys or values of a set: how userspace calls the type, and the bytes they have.
pub(super) type Typed = (u32, usize);

impl Table<'_> {
    pub(super) fn set(&self, batch: &mut Batch, set: &'static str, key: Typed) {
        self.set_or_map(batch, set, key, None);
    }

    pub(super) fn map(&self, batch: &mut Batch, map: &'static str, key: Typed, value: Typed) {
        self.set_or_map(batch, map, key, Some(value));
    }

    fn set_or_map(
        &self,
        batch: &mut Batch,
        set: &'static str,
        (key_type, key_length): Typed,
        value: Option<Typed>,
    ) {
        /// `NFT_SET_MAP`
        const MAP: u32 = 8;
        let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let identifier = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        batch.push(
            format!("create set {set} in table {}", self.name),
            Kind::NewSet,
            self.family,
            CREATE,
            |message| {
                // NFTA_SET_TABLE, _NAME, _FLAGS, _KEY_TYPE, _KEY_LEN, _ID, _USERDATA
                message.text(1, self.name);
                message.text(2, set);
                message.number(3, if value.is_some() { MAP } else { 0 });
                message.number(4, key_type);
                message.number(5, number(key_length));
                if let Some((value_type, value_length)) = value {
                    // NFTA_SET_DATA_TYPE, _DATA_LEN
                    message.number(6, value_type);
                    message.number(7, number(value_length));
                }
                message.number(10, identifier);
                if key_length == INTERFACE_NAME_LEN {
                    message.bytes(13, &KEY_IN_HOST_ORDER);
                }
            },
        );
    }

    pub(super) fn chain(&self, batch: &mut Batch, chain: &str, hook: Option<&Hook>) {
        batch.push(
            format!("create chain {chain} in table {}", self.name),
            Kind::NewChain,
            self.family,
            CREATE,
            |message| {
                // NFTA_CHAIN_TABLE, _NAME, _HOOK { _HOOKNUM, _PRIORITY }, _POLICY, _TYPE
                message.text(1, self.name);
                message.text(3, chain);
                if let Some(hook) = hook {
                    message.nest(4, |place| {
                        place.number(1, hook.number);
                        place.bytes(2, &hook.priority.to_be_bytes());
                    });
                    // NF_ACCEPT: what isn't from a pod is none of our business.
                    message.number(5, 1);
                    message.text(7, hook.kind);
                }
            },
        );
    }

    pub(super) fn rule(&self, batch: &mut Batch, chain: &str, comment: &str, body: &[Expr]) {
        batch.push(
            format!(
                "add rule \"{comment}\" to chain {chain} in table {}",
                self.name
            ),
            Kind::NewRule,
            self.family,
            CREATE | APPEND,
            |message| {
                // NFTA_RULE_TABLE, _CHAIN, _EXPRESSIONS, _USERDATA
                message.text(1, self.name);
                message.text(2, chain);
                message.nest(4, |list| {
                    for expr in body {
                        expr.write(list);
                    }
                });
                write_comment(message, comment);
            },
        );
    }
}

/// The comment that `nft list` prints: a type, a length, a NUL-terminated text.
fn write_comment(message: &mut Attributes<'_>, comment: &str) {
    const USERDATA: u16 = 7;
    const COMMENT: u8 = 0;
    if let Ok(length) = u8::try_from(comment.len() + 1) {
        let mut userdata = vec![COMMENT, length];
        userdata.extend_from_slice(comment.as_bytes());
        userdata.push(0);
        message.bytes(USERDATA, &userdata);
    }
}
