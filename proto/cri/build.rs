//! Generates messages, servers and clients from the two `.proto` files, in pure
//! Rust: no protoc on the build machine.

use std::error::Error;

const INTERFACES: [&str; 2] = ["runtime/v1/api.proto", "bulkhead/v1/operator.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(INTERFACES, ["proto"])?;
    tonic_prost_build::configure()
        .build_server(true)
        .build_client(true)
        // Output and environment values may be large: share, don't copy.
        .bytes(".")
        // In order, so that records and verbose output read the same each time.
        .btree_map(".")
        // Credentials must never reach a log through `{:?}`; lib.rs writes its own.
        .skip_debug([".runtime.v1.AuthConfig"])
        // Messages are kept in the state database and shown in verbose output. A
        // field that an older daemon did not know is absent in its records.
        .type_attribute(
            ".runtime.v1",
            "#[derive(serde::Serialize, serde::Deserialize)]",
        )
        .message_attribute(".runtime.v1", "#[serde(default)]")
        .field_attribute(".runtime.v1.PullImageRequest.auth", "#[serde(skip)]")
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
