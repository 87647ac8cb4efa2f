//! Content store, image import and records.
