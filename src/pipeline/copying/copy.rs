//! One copy as far as it has come: which chunks are settled, and how much of the others.

use std::{
    ops::AddAssign,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    change::{Namespace, RuleIndex, key::KeyShape},
    checkpoint::{
        chunks::ChunkSet,
        records::{CopyPlanRecord, CopyProgressRecord},
        tracker::Completion,
    },
    source::{lookup::Read, scan::reply_documents},
};

/// The copy of one namespace under one rule, as it is planned and as far as it has come.
pub struct Copy {
    /// Whose.
    pub rule: RuleIndex,
    /// Of what.
    pub namespace: Namespace,
    /// Whether it is a view, which is read by one cursor.
    pub view: bool,
    /// What was decided before the first document was read.
    pub plan: CopyPlanRecord,
    /// The document key's fields.
    pub shape: KeyShape,
    /// Reads the document key alone.
    pub(super) keys_only: Read,
    /// Documents in a reply.
    pub batch: u32,
    progress: Mutex<Progress>,
    /// Whether an earlier run brought it to its end.
    pub complete: bool,
    /// Every chunk was found settled: what many ask about again and again is not counted each time.
    settled: AtomicBool,
    /// Whether nothing is left of what the target held before.
    swept: AtomicBool,
    /// Whether that is left to a later run.
    deferred: AtomicBool,
}

#[derive(Default)]
struct Progress {
    done: ChunkSet,
    /// Documents in the chunks that are done.
    documents: u64,
    /// Settled since somebody took it.
    untold: Volume,
    open: Vec<(u32, Arc<OpenChunk>)>,
}

/// What was read from the source.
#[derive(Clone, Copy, Default)]
pub struct Volume {
    /// Documents.
    pub documents: u64,
    /// Bytes, in the source.
    pub bytes: u64,
}

impl AddAssign for Volume {
    fn add_assign(&mut self, more: Self) {
        self.documents += more.documents;
        self.bytes += more.bytes;
    }
}

/// A chunk that is being read, or waits for the target.
#[derive(Default)]
pub(super) struct OpenChunk {
    pages: Mutex<Pages>,
}

/// The pages of a chunk, from the moment that one is handed over.
#[derive(Default)]
struct Pages {
    /// Those that are not settled. The volume of one that was handed over as a whole; nothing of one
    /// that was not, and is read again.
    open: Vec<(Arc<OpenPage>, Volume)>,
    /// Documents of those that are.
    documents: u64,
    /// No more pages come.
    read: bool,
}

/// What of a page is not settled. Each lane counts for itself: a count that all of them change for every
/// document is where they would wait for one another.
pub(super) struct OpenPage {
    lanes: Vec<Completion>,
}

impl OpenPage {
    /// What goes to a lane holds claims of this.
    pub(super) fn of_lane(&self, lane: usize) -> &Completion {
        &self.lanes[lane]
    }

    fn close(&self) {
        self.lanes.iter().for_each(Completion::close);
    }

    fn is_done(&self) -> bool {
        self.lanes.iter().all(Completion::is_done)
    }

    async fn done(&self) {
        for lane in &self.lanes {
            lane.done().await;
        }
    }
}

impl OpenChunk {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next page, of which nothing has been handed over to so many lanes.
    pub(super) fn page(&self, lanes: usize) -> Arc<OpenPage> {
        let lanes = std::iter::repeat_with(Completion::new).take(lanes).collect();
        let page = Arc::new(OpenPage { lanes });
        self.pages().open.push((page.clone(), Volume::default()));
        page
    }

    /// All of a page has been handed over.
    pub(super) fn handed_over(&self, page: &Arc<OpenPage>, volume: Volume) {
        let mut pages = self.pages();
        if let Some(open) = pages.open.iter_mut().find(|(open, _)| Arc::ptr_eq(open, page)) {
            open.1 = volume;
        }
        page.close();
    }

    /// No more pages come.
    pub(super) fn close(&self) {
        let mut pages = self.pages();
        pages.read = true;
        // One that was broken off was read again in others.
        pages.open.iter().for_each(|(page, _)| page.close());
    }

    /// Waits until every page is settled; of a chunk that is closed. May be dropped.
    pub(super) async fn settled(&self) {
        let open = || {
            let pages = self.pages();
            pages.open.iter().map(|(page, _)| page).find(|page| !page.is_done()).cloned()
        };
        while let Some(page) = open() {
            page.done().await;
        }
    }

    /// What was settled since the last call, and whether that is all.
    fn settle(&self) -> (Volume, bool) {
        let mut pages = self.pages();
        let mut settled = Volume::default();
        pages.open.retain(|(page, volume)| {
            let done = page.is_done();
            if done {
                settled += *volume;
            }
            !done
        });
        pages.documents += settled.documents;
        (settled, pages.read && pages.open.is_empty())
    }
}

impl Copy {
    /// A copy as far as an earlier run has brought it.
    pub fn new(
        rule: RuleIndex,
        namespace: Namespace,
        view: bool,
        plan: CopyPlanRecord,
        progress: Option<CopyProgressRecord>,
        shape: KeyShape,
        average: u64,
    ) -> Self {
        let complete = progress.as_ref().is_some_and(|own| own.complete && own.plan == plan.id);
        let swept = complete && progress.as_ref().is_some_and(|own| own.swept);
        let swept = AtomicBool::new(swept || !plan.sweep);
        let progress = progress.filter(|progress| progress.plan == plan.id);
        let (done, documents) =
            progress.map_or_else(Default::default, |progress| (progress.done, progress.documents));
        Self {
            rule,
            namespace,
            view,
            plan,
            keys_only: Read::keys(shape.paths()),
            shape,
            batch: reply_documents(average),
            progress: Mutex::new(Progress { done, documents, ..Default::default() }),
            complete,
            settled: AtomicBool::new(complete),
            swept,
            deferred: AtomicBool::new(false),
        }
    }

    /// Whether nothing is left to be removed of what the target held before the copy.
    pub fn is_swept(&self) -> bool {
        self.swept.load(Ordering::Acquire)
    }

    /// Everything that the sweep removes is settled.
    pub fn swept(&self) {
        self.swept.store(true, Ordering::Release);
    }

    /// The sweep is left to a later run.
    pub fn defer_sweep(&self) {
        self.deferred.store(true, Ordering::Release);
    }

    /// Whether this run has nothing to sweep any more.
    pub fn is_past_sweep(&self) -> bool {
        self.is_swept() || self.deferred.load(Ordering::Acquire)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is settled now, as it is stored.
    pub fn settled(&self) -> CopyProgressRecord {
        let mut progress = self.progress();
        let Progress { done, documents, untold, open } = &mut *progress;
        open.retain(|(chunk, open)| {
            let (settled, whole) = open.settle();
            *untold += settled;
            if whole {
                done.insert(*chunk);
                *documents += open.pages().documents;
            }
            !whole
        });
        CopyProgressRecord {
            plan: self.plan.id,
            done: done.clone(),
            documents: *documents,
            complete: self.complete,
            swept: self.is_swept(),
        }
    }

    /// What was settled since the last call.
    pub fn newly_settled(&self) -> Volume {
        self.settled();
        std::mem::take(&mut self.progress().untold)
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> u32 {
        u32::try_from(self.plan.bounds.len() + 1).expect("a plan has a few thousand chunks at most")
    }

    /// Whether every chunk is settled.
    pub fn is_settled(&self) -> bool {
        if !self.settled.load(Ordering::Acquire) && self.settled().done.len() == self.chunks() {
            self.settled.store(true, Ordering::Release);
        }
        self.settled.load(Ordering::Acquire)
    }

    pub(super) fn open(&self, chunk: u32) -> Arc<OpenChunk> {
        let open = Arc::new(OpenChunk::default());
        self.progress().open.push((chunk, open.clone()));
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tracker::Claim;

    fn volume(documents: u64) -> Volume {
        Volume { documents, bytes: 100 * documents }
    }

    #[test]
    fn a_page_counts_once_it_is_settled_and_one_that_broke_off_never() {
        let chunk = OpenChunk::default();
        let (first, broken, second) = (chunk.page(2), chunk.page(2), chunk.page(2));
        let claims = [first.of_lane(0).claim(), first.of_lane(1).claim()];
        let of_broken = broken.of_lane(1).claim();
        let of_second = second.of_lane(0).claim();
        chunk.handed_over(&first, volume(2));
        chunk.handed_over(&second, volume(3));
        assert_eq!(chunk.settle().0.documents, 0);

        of_second.settle();
        let (settled, whole) = chunk.settle();
        assert_eq!((settled.documents, settled.bytes, whole), (3, 300, false));
        for (claim, documents) in claims.into_iter().zip([0, 2]) {
            Claim::settle(claim);
            assert_eq!(chunk.settle().0.documents, documents, "once both lanes have settled it");
        }

        chunk.close();
        assert!(!chunk.settle().1, "what was handed over of the page that broke off is under way");
        of_broken.settle();
        let (settled, whole) = chunk.settle();
        assert_eq!((settled.documents, whole), (0, true));
        assert_eq!(chunk.pages().documents, 5);
    }
}
