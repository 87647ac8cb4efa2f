//! Traces as a collector receives them.

use anyhow::{Context as _, Result, ensure};
use bulkhead_cri_api::v1 as cri;

use super::node;
use bulkhead_e2e::{
    collector::Collector,
    node::{PATIENCE, Programs},
    pod::{Pod, pod_config},
};

/// The trace and the span that the client is in (W3C Trace Context).
const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const PARENT: u64 = 0x00f0_67aa_0ba9_02b7;

/// A call's spans continue its client's trace, from the daemon over the VMM into the
/// guest; calls that nobody traces have none.
pub(crate) async fn continue_the_clients(programs: &Programs) -> Result<()> {
    let collector = Collector::start()?;
    let extra = format!("[monitoring]\notlp_endpoint = \"{}\"\n", collector.endpoint);
    let (mut node, _) = node(programs, "traces", &extra).await?;
    let config = pod_config(&node, "traced", 0);
    let mut request = tonic::Request::new(cri::RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    });
    let context = format!("00-{TRACE:032x}-{PARENT:016x}-01");
    request
        .metadata_mut()
        .insert("traceparent", context.parse()?);
    let id = node.runtime().run_pod_sandbox(request).await?.into_inner();
    // Nobody traces this one.
    let mut pod = Pod::attach(&node, id.pod_sandbox_id, config);
    pod.remove().await?;
    // The last spans leave when the daemon does.
    node.stop().await?;

    let wanted = [
        "runtime.v1.RuntimeService/RunPodSandbox",
        "run",
        "prepare",
        "vmm exec",
        "guest kernel",
        "agent",
        "configure",
    ];
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let spans = loop {
        let spans = collector.spans();
        if wanted
            .iter()
            .all(|name| spans.iter().any(|it| it.name == *name))
        {
            break spans;
        }
        let names: Vec<_> = spans.iter().map(|it| &it.name).collect();
        ensure!(tokio::time::Instant::now() < deadline, "only {names:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    for span in &spans {
        ensure!(
            span.trace_id == TRACE.to_be_bytes(),
            "of no trace: {span:?}"
        );
        ensure!(
            span.end_time_unix_nano >= span.start_time_unix_nano,
            "ends before it begins: {span:?}"
        );
        // Up to the client's span, whatever lies between.
        let mut at = span;
        for _ in 0..spans.len() {
            if at.parent_span_id == PARENT.to_be_bytes() {
                break;
            }
            at = spans
                .iter()
                .find(|it| it.span_id == at.parent_span_id)
                .with_context(|| format!("{:?} has no parent", at.name))?;
        }
        ensure!(
            at.parent_span_id == PARENT.to_be_bytes() && at.name == wanted[0],
            "{:?} is beneath {:?}",
            span.name,
            at.name
        );
    }
    println!("    {} spans", spans.len());
    Ok(())
}
