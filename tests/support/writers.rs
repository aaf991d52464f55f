//! Writes to a collection from several tasks at once: updates, deletes, insertions of what was
//! deleted, the last two also inside one transaction. The same operations for the same seed.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::Result;
use mongodb::{
    Client, Collection,
    bson::{Document, doc},
    error::TRANSIENT_TRANSACTION_ERROR,
};
use rand::Rng;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use super::documents::Documents;

/// Each task writes documents of its own, so that it knows which are there.
const TASKS: u32 = 8;
/// Documents of a task that it writes again and again.
const HOT: u32 = 4;

/// Tasks that write as many operations as they are allowed to.
pub struct Writers {
    tasks: JoinSet<Result<()>>,
    allowed: Arc<Semaphore>,
    total: u64,
    released: u64,
    done: watch::Receiver<u64>,
}

impl Writers {
    /// Tasks for a collection whose `_id`s are 0 to `documents`. They wait for
    /// [`Writers::release`].
    pub fn new(
        client: &Client,
        collection: &Collection<Document>,
        seed: u64,
        documents: u32,
        operations: u64,
    ) -> Self {
        let allowed = Arc::new(Semaphore::new(0));
        let counter = Arc::new(AtomicU64::new(0));
        let (counted, done) = watch::channel(0);
        let counted = Arc::new(counted);
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let (allowed, counter, counted) = (allowed.clone(), counter.clone(), counted.clone());
            let mut writer = Writer {
                client: client.clone(),
                collection: collection.clone(),
                random: Documents::new(seed * 1_000 + u64::from(task)),
                task,
                documents,
                added: 0,
            };
            tasks.spawn(async move {
                // Closed once all have been taken.
                while let Ok(permit) = allowed.acquire().await {
                    permit.forget();
                    writer.write().await?;
                    let number = counter.fetch_add(1, Ordering::AcqRel) + 1;
                    counted.send_modify(|done| *done = number.max(*done));
                    if number == operations {
                        allowed.close();
                    }
                }
                Ok(())
            });
        }
        Self { tasks, allowed, total: operations, released: 0, done }
    }

    /// Lets them go on until this many operations are done since the beginning.
    pub fn release(&mut self, operations: u64) {
        let operations = operations.min(self.total);
        let more = operations.saturating_sub(self.released);
        self.allowed.add_permits(usize::try_from(more).expect("a small number"));
        self.released += more;
    }

    /// Waits until this many operations are done.
    pub async fn done(&mut self, operations: u64) -> Result<()> {
        let wanted = operations.min(self.released);
        tokio::select! {
            done = self.done.wait_for(|done| *done >= wanted) => {
                // All tasks have ended: whether well is for `finish` to say.
                drop(done);
                Ok(())
            }
            Some(failed) = self.tasks.join_next() => failed?,
        }
    }

    /// Lets them write the rest and waits for it.
    pub async fn finish(mut self) -> Result<()> {
        self.release(self.total);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// Changes a part of a collection whose `_id`s are numbers, in every way: another part each round.
/// What is there already is updated, deleted, replaced and inserted again; ten documents are new.
pub async fn stir(
    collection: &Collection<Document>,
    documents: &mut Documents,
    round: i64,
) -> Result<()> {
    let part = |divisor: i64| doc! { "_id": { "$mod": [divisor, round % divisor] } };
    collection.update_many(part(11), doc! { "$set": { "int": round, "flag": true } }).await?;
    collection.update_many(part(13), doc! { "$unset": { "nested.tags": "" } }).await?;
    collection.delete_many(part(101)).await?;
    for id in [round, round + 50] {
        collection.delete_one(doc! { "_id": id }).await?;
        collection.insert_one(documents.document(id)).await?;
        let replaced = doc! { "_id": id + 100 };
        collection.replace_one(replaced, documents.document(id + 100)).upsert(true).await?;
    }
    let new = 1_000_000 + round * 10;
    collection.insert_many((new..new + 10).map(|id| documents.document(id))).await?;
    Ok(())
}

struct Writer {
    client: Client,
    collection: Collection<Document>,
    random: Documents,
    task: u32,
    documents: u32,
    added: u32,
}

impl Writer {
    async fn write(&mut self) -> Result<()> {
        let own = self.documents / TASKS;
        let among = if self.random.random().random_bool(0.3) { HOT } else { own };
        let id = i64::from(self.random.random().random_range(0..among) * TASKS + self.task);
        let by_id = doc! { "_id": id };
        let number = self.random.random().random_range(0..1_000_000);
        let collection = &self.collection;
        match self.random.random().random_range(0..10) {
            0..=2 => {
                let title = self.random.text(30);
                let update = doc! { "$set": { "int": number, "title": title } };
                collection.update_one(by_id, update).await?;
            }
            3 => {
                let update = doc! { "$unset": { "nested.tags": "" }, "$inc": { "long": 1_i64 } };
                collection.update_one(by_id, update).await?;
            }
            4 => {
                let document = self.random.document(id);
                collection.replace_one(by_id, document).upsert(true).await?;
            }
            5 => {
                collection.delete_one(by_id).await?;
            }
            6 | 7 => {
                let document = self.random.document(id);
                collection.delete_one(by_id).await?;
                collection.insert_one(document).await?;
            }
            8 => {
                let document = self.random.document(id);
                self.again_in_one_transaction(id, document).await?;
            }
            _ => {
                self.added += 1;
                let id = i64::from(self.documents + self.added * TASKS + self.task);
                let document = self.random.document(id);
                self.collection.insert_one(document).await?;
            }
        }
        Ok(())
    }

    /// Deletes and inserts one `_id` in one transaction: its events have one cluster time.
    async fn again_in_one_transaction(&self, id: i64, document: Document) -> Result<()> {
        let mut session = self.client.start_session().await?;
        loop {
            session.start_transaction().await?;
            let written = async {
                self.collection.delete_one(doc! { "_id": id }).session(&mut session).await?;
                self.collection.insert_one(&document).session(&mut session).await?;
                session.commit_transaction().await
            };
            match written.await {
                Ok(()) => return Ok(()),
                // As the server asks: the whole transaction again.
                Err(error) if error.contains_label(TRANSIENT_TRANSACTION_ERROR) => {
                    session.abort_transaction().await.ok();
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
