//! An image's layers: several at a time, the base first.
//!
//! Most layers are the same file system whatever they are on, and are kept under their
//! diff id. One that leans on what is beneath it ([`bulkhead_erofs::Beneath`]) waits,
//! at its end, until the layers there are complete, and is kept under its chain id, for
//! others that are on the same. Who waits, waits for a shorter chain only: nobody waits
//! for himself.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bulkhead_erofs::Beneath;
use bulkhead_erofs::read::{Image, ReadAt};

use super::{LayerSource, Layers, Progress, Report, Totals, layer};
use crate::digest::Digest;
use crate::error::Result;
use crate::records::LayerRecord;
use crate::store::Inner;

/// A layer's place in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// What it is.
    pub(crate) diff_id: Digest,
    /// What it is on, if it is on anything; and both together (OCI image-spec, config.md,
    /// "Layer ChainID").
    pub(crate) base: Option<Digest>,
    pub(crate) chain_id: Digest,
}

impl Place {
    /// What the store may keep it under, the likelier first where both are there.
    pub(crate) fn keys(&self) -> [Digest; 2] {
        [self.chain_id, self.diff_id]
    }

    /// Whether a layer that the store has is this one in this place.
    pub(crate) fn is(&self, record: &LayerRecord) -> bool {
        record.diff_id == self.diff_id && (!record.leans || record.base == self.base)
    }
}

/// The places of layers, the base first.
pub(crate) fn places(diff_ids: &[Digest]) -> Vec<Place> {
    let mut base = None;
    let place = |diff_id: &Digest| {
        let chain_id = chain_id(base.as_ref(), diff_id);
        let before = base.replace(chain_id);
        Place {
            diff_id: *diff_id,
            base: before,
            chain_id,
        }
    };
    diff_ids.iter().map(place).collect()
}

/// What a layer is together with what it is on.
pub(crate) fn chain_id(base: Option<&Digest>, diff_id: &Digest) -> Digest {
    match base {
        None => *diff_id,
        Some(base) => Digest::of(format!("{base} {diff_id}").as_bytes()),
    }
}

/// The layers to stack. One that occurs twice counts at its upper place: all it
/// says is said there, above whatever came between.
pub(crate) fn stack(keys: &[Digest]) -> Vec<Digest> {
    let mut layers: Vec<Digest> = Vec::with_capacity(keys.len());
    for key in keys.iter().rev() {
        if !layers.contains(key) {
            layers.push(*key);
        }
    }
    layers.reverse();
    layers
}

/// Sees to it that all layers are in the store. Returns what they are kept under.
pub(super) fn ensure(
    store: &Arc<Inner>,
    source: &dyn Layers,
    layers: &[LayerSource],
    places: &[Place],
    at_once: usize,
    progress: &Report<'_>,
) -> Result<(Vec<Digest>, Totals)> {
    let work = Work {
        store,
        source,
        progress,
        layers,
        places,
        next: AtomicUsize::new(0),
        state: Mutex::new(State {
            keys: vec![None; places.len()],
            outcome: Ok(Totals::default()),
        }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 1..at_once.clamp(1, places.len().max(1)) {
            scope.spawn(|| work.run());
        }
        work.run();
    });
    let state = work.state.into_inner();
    let state = state.unwrap_or_else(PoisonError::into_inner);
    let totals = state.outcome?;
    Ok((state.keys.into_iter().flatten().collect(), totals))
}

struct Work<'a> {
    store: &'a Arc<Inner>,
    source: &'a dyn Layers,
    progress: &'a Report<'a>,
    layers: &'a [LayerSource],
    places: &'a [Place],
    /// The layer that nobody has begun with.
    next: AtomicUsize,
    state: Mutex<State>,
    /// Signalled when a layer is complete or has failed.
    changed: Condvar,
}

struct State {
    /// What the complete ones are kept under.
    keys: Vec<Option<Digest>>,
    outcome: Result<Totals>,
}

impl Work<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let (Some(place), Some(layer)) = (self.places.get(index), self.layers.get(index))
            else {
                return;
            };
            let done = self.one(index, place, layer);
            let mut state = self.lock();
            match (&mut state.outcome, done) {
                (Ok(totals), Ok((key, done))) => {
                    totals.add(&done);
                    if let Some(slot) = state.keys.get_mut(index) {
                        *slot = Some(key);
                    }
                }
                (Ok(_), Err(error)) => state.outcome = Err(error),
                // The first that failed is told of.
                (Err(_), _) => {}
            }
            if state.outcome.is_err() {
                self.next.store(self.places.len(), Ordering::Relaxed);
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    fn one(&self, index: usize, place: &Place, layer: &LayerSource) -> Result<(Digest, Totals)> {
        let diff_id = place.diff_id;
        let report = |done, total| {
            (self.progress)(Progress::Layer {
                index,
                diff_id,
                done,
                total,
            });
        };
        let open = || self.source.open(layer);
        let beneath = Under { work: self, index };
        let (key, done) = layer::ensure(self.store, place, layer, open, &beneath, &report)?;
        (self.progress)(Progress::LayerDone {
            index,
            diff_id,
            reused: done.reused > 0,
        });
        Ok((key, done))
    }
}

/// What is under one of the layers.
struct Under<'a> {
    work: &'a Work<'a>,
    index: usize,
}

impl Beneath for Under<'_> {
    fn images(&self) -> io::Result<Vec<Image<Box<dyn ReadAt>>>> {
        let keys = self.keys()?;
        let paths: Vec<_> = {
            let state = self.work.store.lock();
            let path = |key| Some(self.work.store.layer_path(state.layers.get(key)?));
            let paths: Option<_> = keys.iter().map(path).collect();
            // It was damaged, and taken out meanwhile.
            paths.ok_or(io::ErrorKind::NotFound)?
        };
        let image = |path| Image::open(Box::new(File::open(path)?) as Box<dyn ReadAt>);
        paths.iter().map(image).collect()
    }
}

impl Under<'_> {
    /// Waits until all of them are complete.
    fn keys(&self) -> io::Result<Vec<Digest>> {
        let mut state = self.work.lock();
        loop {
            if state.outcome.is_err() {
                return Err(io::Error::other("it is not there"));
            }
            let below = state.keys.iter().take(self.index);
            if below.clone().all(Option::is_some) {
                return Ok(below.copied().flatten().collect());
            }
            let changed = self.work.changed.wait(state);
            state = changed.unwrap_or_else(PoisonError::into_inner);
        }
    }
}
