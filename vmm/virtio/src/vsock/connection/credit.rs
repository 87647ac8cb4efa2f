//! Who may send how much (5.10.6.3). Counters wrap.

/// The guest's room in our buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) size: u32,
    pub(super) received: u32,
    pub(super) forwarded: u32,
    /// `forwarded` as the guest last heard of it.
    pub(super) announced: u32,
}

impl Window {
    /// Takes `len` bytes; false when the guest was not allowed to send them.
    pub(super) fn receive(&mut self, len: u32) -> bool {
        let held = self.received.wrapping_sub(self.forwarded);
        if len > self.size.saturating_sub(held) {
            return false;
        }
        self.received = self.received.wrapping_add(len);
        true
    }

    /// Whether the guest should hear that there is room: before it runs out of it.
    pub(super) fn update_due(&self) -> bool {
        self.forwarded.wrapping_sub(self.announced) >= self.size / 2
    }
}

/// Our room in the guest's buffer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Credit {
    pub(super) size: u32,
    pub(super) forwarded: u32,
    pub(super) sent: u32,
}

impl Credit {
    /// Bytes that may be sent; none to a guest that claims to have forwarded what it never got.
    pub(super) fn available(&self) -> u32 {
        self.size
            .saturating_sub(self.sent.wrapping_sub(self.forwarded))
    }
}
