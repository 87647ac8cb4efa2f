//! CRI v1 and the operator service, as tonic types.
