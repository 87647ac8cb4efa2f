//! Generates the ttrpc service and its messages from `proto/vmm.proto`.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .inputs(["proto/vmm.proto"])
        .include("proto")
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize {
            async_all: true,
            gen_mod: true,
            ..Default::default()
        })
        .rust_protobuf_customize(ttrpc_codegen::ProtobufCustomize::default())
        .run()?;
    // The generator writes an inner attribute into mod.rs, which include!() refuses.
    let path = out.join("mod.rs");
    let text: String = fs::read_to_string(&path)?
        .lines()
        .filter(|line| !line.starts_with("#!["))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&path, text)?;
    println!("cargo:rerun-if-changed=proto/vmm.proto");
    Ok(())
}
