//! The stand-in as a program: what `paths.vmm` of a daemon's configuration names.

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    bulkhead_standin::serve(&arguments)
}
