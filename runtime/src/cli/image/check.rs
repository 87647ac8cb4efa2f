//! `bulkhead image check`: whether all images are as they were written.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::anyhow;
use bulkhead_cri_api::operator::check_images_progress::Progress;
use bulkhead_cri_api::operator::{CheckImagesRequest, CheckedImages};
use serde_json::{Value, json};

use super::super::args::Format;
use super::super::client::{Daemon, in_words};
use super::super::quantity::human_bytes;
use super::super::{FAILED, Outcome, output};

/// Exit status 1 if something is damaged, mended or not.
pub(super) async fn check(daemon: &mut Daemon, repair: bool, format: Format) -> Outcome {
    let answer = daemon
        .operator
        .check_images(CheckImagesRequest { repair })
        .await;
    let mut steps = answer.map_err(|status| in_words(&status))?.into_inner();
    let is_terminal = io::stderr().is_terminal();
    let mut checked = None;
    while let Some(message) = steps.message().await.map_err(|status| in_words(&status))? {
        match message.progress {
            // One line, again and again.
            Some(Progress::Reading(what)) if is_terminal => {
                write!(io::stderr(), "\r\x1b[K{what}")?;
            }
            Some(Progress::Done(done)) => checked = Some(done),
            _ => {}
        }
    }
    if is_terminal {
        write!(io::stderr(), "\r\x1b[K")?;
    }
    let checked = checked.ok_or_else(|| anyhow!("the daemon hung up before it had read all"))?;
    tell(&checked, repair, format)?;
    Ok(if checked.problems.is_empty() {
        0
    } else {
        FAILED
    })
}

fn tell(checked: &CheckedImages, repair: bool, format: Format) -> anyhow::Result<()> {
    if format == Format::Table {
        let bytes = human_bytes(checked.bytes_read);
        writeln!(
            io::stderr(),
            "{} images, {} layers, {bytes} read: {} damaged",
            checked.images,
            checked.layers,
            checked.problems.len()
        )?;
        if checked.problems.is_empty() {
            return Ok(());
        }
        if repair {
            writeln!(
                io::stderr(),
                "what is damaged was taken out: pull or import its images again"
            )?;
        } else {
            writeln!(
                io::stderr(),
                "`bulkhead image check --repair` takes out what is damaged"
            )?;
        }
    }
    let value = in_json(checked, repair);
    output::print(format, &value, &["DAMAGED", "WHY"], || {
        let problems = checked.problems.iter();
        let row = problems.map(|it| vec![it.what.clone(), it.reason.clone()]);
        row.collect()
    })
}

fn in_json(checked: &CheckedImages, repair: bool) -> Value {
    let problems = checked.problems.iter();
    let problems: Vec<_> = problems
        .map(|it| json!({ "what": it.what, "reason": it.reason }))
        .collect();
    json!({
        "images": checked.images,
        "layers": checked.layers,
        "bytes_read": checked.bytes_read,
        "problems": problems,
        "repaired": repair,
    })
}
