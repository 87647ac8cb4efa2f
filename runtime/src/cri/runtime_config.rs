//! RuntimeConfig: what kubelet adopts.

use bulkhead_cri_api::v1;

use super::Cri;
use crate::error::Result;

pub(super) async fn runtime_config(
    cri: &Cri,
    _: v1::RuntimeConfigRequest,
) -> Result<v1::RuntimeConfigResponse> {
    let driver = if cri.node.systemd_cgroups {
        v1::CgroupDriver::Systemd
    } else {
        v1::CgroupDriver::Cgroupfs
    };
    Ok(v1::RuntimeConfigResponse {
        linux: Some(v1::LinuxRuntimeConfiguration {
            cgroup_driver: driver.into(),
        }),
    })
}
