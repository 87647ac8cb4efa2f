//! How far an image is: a bar for each layer on a terminal, lines elsewhere.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Result, anyhow};
use bulkhead_cri_api::operator::image_progress::Progress;
use bulkhead_cri_api::operator::{ImageProgress, ImportedImage, LayerBytes, LayerDone};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tonic::Streaming;

use super::super::client::in_words;

/// Shows what the daemon tells until it has the images.
pub(super) async fn follow(
    mut steps: Streaming<ImageProgress>,
    quiet: bool,
) -> Result<Vec<ImportedImage>> {
    let mut shown: Box<dyn Shown + Send> = match (quiet, io::stderr().is_terminal()) {
        (true, _) => Box::new(Nothing),
        (false, true) => Box::new(Bars::default()),
        (false, false) => Box::new(Lines),
    };
    while let Some(message) = steps.message().await.map_err(|status| in_words(&status))? {
        match message.progress {
            Some(Progress::Done(done)) => return Ok(done.images),
            Some(Progress::Found(found)) => {
                shown.line(&format!("{}: {} layers", found.name, found.layers))?;
            }
            Some(Progress::Layer(layer)) => shown.layer(&layer)?,
            Some(Progress::LayerDone(layer)) => shown.done(&layer)?,
            None => {}
        }
    }
    Err(anyhow!("the daemon hung up before the image was in"))
}

trait Shown {
    fn line(&mut self, text: &str) -> io::Result<()>;
    fn layer(&mut self, layer: &LayerBytes) -> io::Result<()>;
    fn done(&mut self, layer: &LayerDone) -> io::Result<()>;
}

struct Nothing;

impl Shown for Nothing {
    fn line(&mut self, _text: &str) -> io::Result<()> {
        Ok(())
    }

    fn layer(&mut self, _layer: &LayerBytes) -> io::Result<()> {
        Ok(())
    }

    fn done(&mut self, _layer: &LayerDone) -> io::Result<()> {
        Ok(())
    }
}

/// For logs: what is complete.
struct Lines;

impl Shown for Lines {
    fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(io::stderr(), "{text}")
    }

    fn layer(&mut self, _layer: &LayerBytes) -> io::Result<()> {
        Ok(())
    }

    fn done(&mut self, layer: &LayerDone) -> io::Result<()> {
        let what = if layer.reused {
            "already there"
        } else {
            "done"
        };
        writeln!(
            io::stderr(),
            "{}: {what}",
            name(layer.index, &layer.diff_id)
        )
    }
}

/// For eyes.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    layers: HashMap<u32, ProgressBar>,
}

impl Shown for Bars {
    fn line(&mut self, text: &str) -> io::Result<()> {
        self.all.println(text)
    }

    fn layer(&mut self, layer: &LayerBytes) -> io::Result<()> {
        let bar = self.bar(layer.index, &layer.diff_id);
        bar.set_length(layer.total);
        bar.set_position(layer.done);
        Ok(())
    }

    fn done(&mut self, layer: &LayerDone) -> io::Result<()> {
        let bar = self.bar(layer.index, &layer.diff_id);
        match layer.reused {
            true => bar.finish_with_message("already there"),
            false => {
                bar.set_position(bar.length().unwrap_or(0));
                bar.finish_with_message("done");
            }
        }
        Ok(())
    }
}

impl Bars {
    fn bar(&mut self, index: u32, diff_id: &str) -> &ProgressBar {
        self.layers.entry(index).or_insert_with(|| {
            let style = "{prefix} [{bar:30}] {bytes:>10} of {total_bytes:<10} {msg}";
            let style = ProgressStyle::with_template(style);
            let bar = ProgressBar::new(0).with_prefix(name(index, diff_id));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            self.all.add(bar)
        })
    }
}

fn name(index: u32, diff_id: &str) -> String {
    let hex = diff_id.strip_prefix("sha256:").unwrap_or(diff_id);
    let short: String = hex.chars().take(12).collect();
    format!("layer {:>3} {short}", index.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_counted_from_one() {
        let id = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(name(0, &id), "layer   1 abababababab");
        assert_eq!(name(99, "odd"), "layer 100 odd");
    }

    #[test]
    fn a_layer_has_one_bar() {
        let mut bars = Bars::default();
        for done in [1, 5] {
            bars.layer(&LayerBytes {
                index: 3,
                done,
                total: 9,
                ..LayerBytes::default()
            })
            .unwrap();
        }
        assert_eq!(bars.layers.len(), 1);
        assert_eq!(bars.layers[&3].position(), 5);
        bars.done(&LayerDone {
            index: 3,
            ..LayerDone::default()
        })
        .unwrap();
        assert!(bars.layers[&3].is_finished() && bars.layers[&3].position() == 9);
    }
}
