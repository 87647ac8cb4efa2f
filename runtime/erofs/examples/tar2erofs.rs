//! A layer's archive in a file to an image in a file: `tar2erofs ARCHIVE IMAGE`.

use std::error::Error;
use std::fs::File;

use bulkhead_erofs::{Options, convert};

fn main() -> Result<(), Box<dyn Error>> {
    let files: Vec<_> = std::env::args_os().skip(1).collect();
    let [archive, image] = files.as_slice() else {
        return Err("usage: tar2erofs ARCHIVE IMAGE".into());
    };
    let (archive, image) = (File::open(archive)?, File::create_new(image)?);
    convert(archive, image, &Options::default())?;
    Ok(())
}
