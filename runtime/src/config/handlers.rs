//! Runtime handlers: sections with names of the operator's choice.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use super::sections::Vm;

/// What kind of place a handler's pods run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandlerKind {
    /// A virtual machine each.
    MicroVm,
    /// The host, where `host_pods` allows it.
    Host,
}

/// One handler. What it doesn't say is as in `[vm]` and `[paths]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handler {
    /// What kind of place its pods run in.
    pub kind: HandlerKind,
    /// Guest kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// As `vm.vcpus_boot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus_boot: Option<u32>,
    /// As `vm.vcpus_max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus_max: Option<u32>,
    /// As `vm.memory_mib`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    /// As `vm.scratch_gib`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch_gib: Option<u32>,
    /// As `vm.kernel_cmdline_extra`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_cmdline_extra: Option<String>,
}

impl Handler {
    /// One that says nothing but its kind.
    #[must_use]
    pub fn of(kind: HandlerKind) -> Self {
        Self {
            kind,
            kernel: None,
            vcpus_boot: None,
            vcpus_max: None,
            memory_mib: None,
            scratch_gib: None,
            kernel_cmdline_extra: None,
        }
    }

    /// The virtual machine of its pods, where they don't ask for more.
    #[must_use]
    pub fn machine(&self, usual: &Vm) -> Vm {
        Vm {
            vcpus_boot: self.vcpus_boot.unwrap_or(usual.vcpus_boot),
            vcpus_max: self.vcpus_max.unwrap_or(usual.vcpus_max),
            memory_mib: self.memory_mib.unwrap_or(usual.memory_mib),
            scratch_gib: self.scratch_gib.unwrap_or(usual.scratch_gib),
            kernel_cmdline_extra: self
                .kernel_cmdline_extra
                .clone()
                .unwrap_or_else(|| usual.kernel_cmdline_extra.clone()),
            ..usual.clone()
        }
    }

    /// Whether it says anything that only a virtual machine has.
    #[must_use]
    pub fn has_machine_keys(&self) -> bool {
        *self != Self::of(self.kind)
    }
}

/// Handlers by name. Two are always there; what a file says of them counts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Handlers(pub BTreeMap<String, Handler>);

impl Default for Handlers {
    fn default() -> Self {
        Self(
            [
                ("bulkhead", HandlerKind::MicroVm),
                ("host", HandlerKind::Host),
            ]
            .map(|(name, kind)| (name.to_owned(), Handler::of(kind)))
            .into(),
        )
    }
}

impl<'de> Deserialize<'de> for Handlers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut all = Self::default();
        all.0.extend(BTreeMap::deserialize(from)?);
        Ok(all)
    }
}

/// What the printed default says of handlers, and of the two that are there.
pub(super) const COMMENT: &[&str] = &[
    " Runtime handlers: what the `handler` of a RuntimeClass names. Pods without one have",
    " \"bulkhead\". Others can be added, [handlers.NAME], with a kernel and sizes of their own:",
    " kernel, vcpus_boot, vcpus_max, memory_mib, scratch_gib, kernel_cmdline_extra. What one",
    " doesn't say is as in [vm] and [paths].",
];
pub(super) const KIND_COMMENT: &str =
    " \"microvm\": a virtual machine to each pod. \"host\": the host itself, see [host_pods].";
