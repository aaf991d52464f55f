//! What may become of one request on its way to a server and back. The servers in between, that of
//! bulk requests (`endpoint`) and that of MongoDB's commands (`mongo_proxy`), share these words.

use std::sync::Arc;

use tokio::sync::watch;

/// When it happens to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// It has arrived, and was not carried out.
    Before,
    /// It was carried out, and its answer is still to be given.
    After,
}

/// What happens to it then.
#[derive(Clone)]
pub enum Fault {
    /// The connection is closed: before, nothing was done; after, all was done and nobody told.
    Cut(Moment),
    /// It waits at a gate, for a test to do something at exactly this point.
    Hold(Moment, Arc<Gate>),
}

/// Where requests wait until a test lets them go on.
pub struct Gate {
    met: watch::Sender<usize>,
    then: watch::Sender<Then>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Wait,
    GoOn,
    Vanish,
}

impl Gate {
    /// A closed one.
    pub fn closed() -> Arc<Self> {
        Arc::new(Self { met: watch::Sender::new(0), then: watch::Sender::new(Then::Wait) })
    }

    /// A request arrives and waits. False where it is to vanish, as with the connection that it came
    /// on.
    pub async fn pass(&self) -> bool {
        self.met.send_modify(|met| *met += 1);
        let mut then = self.then.subscribe();
        // The gate outlives whoever waits at it.
        then.wait_for(|then| *then != Then::Wait).await.is_ok_and(|then| *then == Then::GoOn)
    }

    /// Waits until so many requests have arrived.
    pub async fn met(&self, count: usize) {
        let mut met = self.met.subscribe();
        let waited = met.wait_for(|met| *met >= count).await;
        waited.expect("the gate that waits holds the sender");
    }

    /// Who waits goes on, and who comes does too.
    pub fn open(&self) {
        self.then.send_replace(Then::GoOn);
    }

    /// Who waits vanishes, and who comes does too.
    pub fn discard(&self) {
        self.then.send_replace(Then::Vanish);
    }
}
