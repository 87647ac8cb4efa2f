//! Wire contract between the daemon and the VMM.
