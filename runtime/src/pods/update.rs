//! Changing what containers and pods may use while they live.
//!
//! A container's limits are files of its cgroup in the guest; the agent changes all
//! of them or none. CPUs are switched on in the guest when limits sum up to more than
//! run, as far as the virtual machine has any. Memory can't be added to a running
//! machine yet: what would need that is refused.

use std::sync::Arc;

use bulkhead_cri_api::v1::LinuxContainerResources;
use bulkhead_sandbox::{PlaceKind, Sandbox};

use super::{Inner, Pods, detached, model::Pod, oci, sizing};
use crate::{
    error::{Error, Result},
    store::{ContainerPhase, ContainerRecord, PodRecord},
};

impl Pods {
    /// Changes the limits of a created or running container: what is given. A value
    /// of 0 or an empty one leaves a limit as it is.
    ///
    /// # Errors
    /// It has ended; a value makes no sense; the container holds more memory than it
    /// shall have. Then no limit has changed.
    pub async fn update_container(&self, id: &str, wanted: LinuxContainerResources) -> Result<()> {
        let container = self.inner.model.container(id)?;
        let pod = self.inner.model.pod(&container.key.pod_id)?;
        let attempted = format!("update container {}", container.id);
        let inner = Arc::clone(&self.inner);
        let update = detached(async move {
            let _turn = container.turn.lock().await;
            let record = container.record();
            if !record.phase.is_alive() {
                return Err(Error::precondition("the container has ended"));
            }
            let sandbox = pod.ready_sandbox()?;
            inner.check_memory(&pod, &record, &wanted)?;
            let limits = oci::changed_limits(&wanted)?;
            sandbox.update_container(&container.id, &limits).await?;
            let mut next = ContainerRecord::clone(&record);
            next.resources = Some(merged(record.limits(), &wanted));
            // A start waits for the turn, an end may have come: it is not undone.
            inner.container_fact(&container, next).await;
            inner.online_enough(&pod, sandbox.as_ref()).await;
            Ok(())
        });
        update.await.map_err(|error| error.while_(attempted))
    }

    /// Records what a pod's containers may use together, and gives the guest as many
    /// CPUs as that needs.
    ///
    /// # Errors
    /// It is more memory than the pod's virtual machine has.
    pub async fn update_pod(
        &self,
        id: &str,
        resources: Option<LinuxContainerResources>,
        overhead: Option<LinuxContainerResources>,
    ) -> Result<()> {
        let pod = self.inner.model.pod(id)?;
        let attempted = format!("update pod {}", pod.id);
        let inner = Arc::clone(&self.inner);
        let update = detached(async move {
            let _turn = pod.turn.lock().await;
            let sandbox = pod.ready_sandbox()?;
            if let Some(resources) = &resources {
                let limit = u64::try_from(resources.memory_limit_in_bytes).unwrap_or(0);
                inner.check_fits(&pod, limit)?;
            }
            let record = pod.record();
            let next = PodRecord {
                resources: resources.or_else(|| record.resources.clone()),
                overhead: overhead.or_else(|| record.overhead.clone()),
                ..PodRecord::clone(&record)
            };
            inner.pod_fact(&pod, next).await;
            inner.online_enough(&pod, sandbox.as_ref()).await;
            Ok(())
        });
        update.await.map_err(|error| error.while_(attempted))
    }
}

impl Inner {
    /// A larger memory limit must be one that the virtual machine can honour.
    fn check_memory(
        &self,
        pod: &Pod,
        record: &ContainerRecord,
        wanted: &LinuxContainerResources,
    ) -> Result<()> {
        let before = record.limits().map_or(0, |it| it.memory_limit_in_bytes);
        if wanted.memory_limit_in_bytes <= before {
            return Ok(());
        }
        let limit = u64::try_from(wanted.memory_limit_in_bytes).unwrap_or(0);
        self.check_fits(pod, limit)
    }

    fn check_fits(&self, pod: &Pod, limit: u64) -> Result<()> {
        if pod.record().place == PlaceKind::Host {
            return Ok(());
        }
        let has = self.size_of(pod).memory_bytes;
        if limit <= has {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "a memory limit of {limit} bytes is more than the {has} bytes of the pod's virtual \
             machine, and memory can't be added to a running one in this version; create the pod \
             anew with the larger limit"
        )))
    }

    fn size_of(&self, pod: &Pod) -> sizing::VmSize {
        let record = pod.record();
        record.size.unwrap_or_else(|| {
            self.settings
                .sizing_of(&record.handler)
                .machine(&record.config)
        })
    }

    /// Switches on the CPUs that the limits sum up to. One that can't be switched on
    /// makes nothing wrong, only slower.
    async fn online_enough(&self, pod: &Pod, sandbox: &dyn Sandbox) {
        if pod.record().place == PlaceKind::Host {
            return;
        }
        let size = self.size_of(pod);
        let containers = self.model.containers_in(&pod.id);
        let containers: Vec<_> = containers.iter().map(|it| it.record()).collect();
        let wanted = cpus(&pod.record(), &containers).min(size.max_vcpus);
        if wanted <= size.boot_vcpus {
            return;
        }
        match sandbox.online_cpus(wanted).await {
            Ok(online) if online < wanted => {
                tracing::warn!(pod = %pod.id, online, wanted, "the guest has no more CPUs");
            }
            Ok(online) => tracing::debug!(pod = %pod.id, online, "CPUs are on"),
            Err(error) => tracing::warn!(pod = %pod.id, %error, "CPUs can't be switched on"),
        }
    }
}

/// CPUs that the pod's own limit, or the sum of its containers' limits, comes to.
fn cpus(pod: &PodRecord, containers: &[Arc<ContainerRecord>]) -> u32 {
    let whole = pod.resources.as_ref().and_then(sizing::milli_cpus);
    let sum = containers
        .iter()
        .filter(|it| matches!(it.phase, ContainerPhase::Created | ContainerPhase::Running))
        .filter_map(|it| sizing::milli_cpus(it.limits()?))
        .fold(0_u64, u64::saturating_add);
    let most = whole.unwrap_or(0).max(sum);
    u32::try_from(most.div_ceil(1000)).unwrap_or(u32::MAX)
}

/// The limits that hold after a change.
fn merged(
    before: Option<&LinuxContainerResources>,
    wanted: &LinuxContainerResources,
) -> LinuxContainerResources {
    let mut after = before.cloned().unwrap_or_default();
    for (value, new) in [
        (&mut after.cpu_period, wanted.cpu_period),
        (&mut after.cpu_quota, wanted.cpu_quota),
        (&mut after.cpu_shares, wanted.cpu_shares),
        (
            &mut after.memory_limit_in_bytes,
            wanted.memory_limit_in_bytes,
        ),
        (
            &mut after.memory_swap_limit_in_bytes,
            wanted.memory_swap_limit_in_bytes,
        ),
        (&mut after.oom_score_adj, wanted.oom_score_adj),
    ] {
        if new != 0 {
            *value = new;
        }
    }
    for (value, new) in [
        (&mut after.cpuset_cpus, &wanted.cpuset_cpus),
        (&mut after.cpuset_mems, &wanted.cpuset_mems),
    ] {
        if !new.is_empty() {
            value.clone_from(new);
        }
    }
    let unified = wanted.unified.iter();
    after
        .unified
        .extend(unified.map(|(file, value)| (file.clone(), value.clone())));
    after
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::PodPhase, testing::records};

    fn quota(quota: i64) -> LinuxContainerResources {
        LinuxContainerResources {
            cpu_quota: quota,
            cpu_period: 100_000,
            ..Default::default()
        }
    }

    #[test]
    fn what_is_not_given_stays() {
        let before = LinuxContainerResources {
            cpu_shares: 2,
            memory_limit_in_bytes: 100,
            unified: [("memory.high".to_owned(), "7".to_owned())].into(),
            ..quota(50_000)
        };
        let wanted = LinuxContainerResources {
            memory_limit_in_bytes: 200,
            cpuset_cpus: "0-1".into(),
            unified: [("memory.low".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        let after = merged(Some(&before), &wanted);
        assert_eq!((after.cpu_shares, after.cpu_quota), (2, 50_000));
        assert_eq!(
            (after.memory_limit_in_bytes, after.cpuset_cpus.as_str()),
            (200, "0-1")
        );
        assert_eq!(after.unified.len(), 2);
        assert_eq!(merged(None, &wanted), wanted);
    }

    #[test]
    fn limits_sum_up_to_cpus() {
        let container = |limit, phase| {
            let mut record = records::container("c", "p", phase);
            record.resources = Some(quota(limit));
            Arc::new(record)
        };
        let running = ContainerPhase::Running;
        let mut pod = records::pod("p", PodPhase::Ready);
        assert_eq!(cpus(&pod, &[]), 0);
        let two = [container(150_000, running), container(60_000, running)];
        assert_eq!(cpus(&pod, &two), 3);
        // Unlimited and ended ones need none.
        let none = [
            container(-1, running),
            container(900_000, ContainerPhase::Exited),
        ];
        assert_eq!(cpus(&pod, &none), 0);
        pod.resources = Some(quota(400_000));
        assert_eq!(cpus(&pod, &two), 4);
    }
}
