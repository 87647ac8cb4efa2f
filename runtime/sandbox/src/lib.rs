//! Pod sandboxes: the trait, and the microVM behind it.
