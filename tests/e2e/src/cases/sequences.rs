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
        standin: false,
    };
    model::run(programs, &plan, "").await
}

/// The same without virtual machines: many more operations, on more pods.
pub(crate) async fn random_without_vms(programs: &Programs) -> Result<()> {
    let plan = Plan {
        operations: 600,
        seed: None,
        pods: 5,
        handler: String::new(),
        standin: true,
    };
    model::run(programs, &plan, "").await
}
