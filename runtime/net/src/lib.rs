//! Embedded pod network: bridge, address pool, NAT, tap.
