//! MongoDB's own fail point for commands, for one client by its application's name, and the proof
//! that it has struck.

use anyhow::{Context, Result, ensure};
use mongodb::{
    Client, Database,
    bson::{Bson, Document, doc},
};
use tokio::sync::{Mutex, MutexGuard};

/// A server has one such fail point, so there is one at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// The fail point, switched on. Where it is dropped without [`FailCommand::end`], the test has
/// failed already; it strikes nobody else, since nobody else has that name.
pub struct FailCommand {
    admin: Database,
    before: i64,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl FailCommand {
    /// Strikes commands of the clients that call themselves `app_name`, so many `times`.
    ///
    /// `data` is as in `configureFailPoint`: `failCommands`, and `errorCode`, `closeConnection`,
    /// `writeConcernError` or `blockConnection`.
    pub async fn times(
        client: &Client,
        times: i32,
        app_name: &str,
        data: Document,
    ) -> Result<Self> {
        Self::set(client, doc! { "times": times }.into(), app_name, data).await
    }

    /// The same, until it ends.
    pub async fn always(client: &Client, app_name: &str, data: Document) -> Result<Self> {
        Self::set(client, "alwaysOn".into(), app_name, data).await
    }

    /// So many `times`, in a server that no other test uses: nobody's turn is waited for.
    pub async fn own(client: &Client, times: i32, app_name: &str, data: Document) -> Result<Self> {
        Self::on(client, doc! { "times": times }.into(), app_name, data, None).await
    }

    async fn set(client: &Client, mode: Bson, app_name: &str, data: Document) -> Result<Self> {
        let turn = TURN.lock().await;
        Self::on(client, mode, app_name, data, Some(turn)).await
    }

    async fn on(
        client: &Client,
        mode: Bson,
        app_name: &str,
        mut data: Document,
        turn: Option<MutexGuard<'static, ()>>,
    ) -> Result<Self> {
        let admin = client.database("admin");
        data.insert("appName", app_name);
        let command = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
        let before = count(&admin.run_command(command).await?)?;
        Ok(Self { admin, before, _turn: turn })
    }

    /// How often it has struck so far.
    pub async fn struck(&self) -> Result<i64> {
        let name = "failpoint.failCommand";
        let found = self.admin.run_command(doc! { "getParameter": 1, name: 1 }).await?;
        let entered = found.get_document(name)?.get("timesEntered").context("a counter")?;
        Ok(number(entered)? - self.before)
    }

    /// Switches it off. Returns how often it has struck.
    ///
    /// # Errors
    /// Where it never has: the test would have shown nothing.
    pub async fn end(self) -> Result<i64> {
        let struck = self.off().await?;
        ensure!(struck > 0, "the fail point has struck nothing");
        Ok(struck)
    }

    /// Switches it off. Returns how often it has struck, which may be never.
    pub async fn off(self) -> Result<i64> {
        let off = doc! { "configureFailPoint": "failCommand", "mode": "off" };
        Ok(count(&self.admin.run_command(off).await?)? - self.before)
    }
}

/// How often the fail point had struck since the server's start when the command came.
fn count(reply: &Document) -> Result<i64> {
    number(reply.get("count").context("a fail point counts")?)
}

fn number(value: &Bson) -> Result<i64> {
    value.as_i64().or(value.as_i32().map(i64::from)).context("a number")
}

/// Nothing but the commands of that application counts.
#[tokio::test(flavor = "multi_thread")]
async fn the_fail_point_tells_how_often_it_has_struck() -> Result<()> {
    let world = super::World::new().await?;
    let named = |name: &str| Client::with_uri_str(format!("{}&appName={name}", world.mongo.uri()));
    let (struck, other) = (named("struck").await?, named("other").await?);
    let ping = doc! { "find": "nothing" };
    let data = doc! { "failCommands": ["find"], "errorCode": 2 };
    let point = FailCommand::times(&world.client, 2, "struck", data.clone()).await?;
    other.database("nothing").run_command(ping.clone()).await?;
    for _ in 0..2 {
        assert!(struck.database("nothing").run_command(ping.clone()).await.is_err());
    }
    struck.database("nothing").run_command(ping.clone()).await?;
    assert_eq!(point.end().await?, 2);
    let point = FailCommand::always(&world.client, "struck", data).await?;
    other.database("nothing").run_command(ping).await?;
    assert_eq!(point.struck().await?, 0);
    assert!(point.end().await.is_err());
    Ok(())
}
