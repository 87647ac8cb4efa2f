//! Wire contract between the daemon and the guest agent.
