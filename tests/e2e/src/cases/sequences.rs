//! Random sequences, compared with a model.

use anyhow::Result;

use crate::model::{self, Plan};
use bulkhead_e2e::node::Programs;

/// Another sequence at every run; `model --seed` makes a failed one again.
pub(crate) async fn random(programs: &Programs) -> Result<()> {
    let plan = Plan {
        operations: 60,
        seed: None,
        pods: 3,
        handler: String::new(),
    };
    model::run(programs, &plan, "").await
}
