//! An endpoint that is told by webhooks, behind a network that fails.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use serde_json::Value;

use super::{
    lines::{held_by, seen_in},
    side::{Side, Trouble},
};
use crate::support::{
    receiver::{Received, Receiver, Reply},
    tcp_proxy::{Direction, Flow, TcpProxy},
    told::{Told, told},
};

pub struct WebhookSide {
    receiver: Receiver,
    proxy: TcpProxy,
    /// What is refused and how long an answer takes, whatever else goes wrong.
    manners: Arc<Manners>,
}

#[derive(Default)]
struct Manners {
    refuses: AtomicBool,
    slow: AtomicBool,
}

impl Manners {
    fn answer(&self, request: &Received) -> Reply {
        let unfit = |message: &Value| message["data"]["document"]["unfit"] == true;
        if self.refuses.load(Ordering::Acquire) && request.messages().iter().any(unfit) {
            return Reply::with(422, "nobody asked for that");
        }
        let slow = self.slow.load(Ordering::Acquire);
        Reply { after: Duration::from_millis(if slow { 30 } else { 0 }), ..Reply::of(204) }
    }
}

impl WebhookSide {
    pub async fn new() -> Result<Self> {
        let receiver = Receiver::start().await?;
        let proxy = TcpProxy::in_front_of(receiver.url()).await?;
        let side = Self { receiver, proxy, manners: Arc::default() };
        side.behave();
        Ok(side)
    }

    fn behave(&self) {
        let manners = self.manners.clone();
        self.receiver.answer(move |request| manners.answer(request));
    }

    /// What was accepted, message by message.
    fn accepted(&self) -> Vec<Value> {
        let received = self.receiver.received();
        let accepted = received.iter().filter(|request| request.is_accepted());
        accepted.flat_map(Received::messages).map(|message| message["data"].clone()).collect()
    }
}

#[async_trait]
impl Side for WebhookSide {
    fn entry(&self, settings: &str) -> String {
        let address = self.proxy.address();
        format!(
            "{{ webhook: {{ url: \"http://{address}/in\", timeout: 3s, \
             retry: {{ initial: 20ms, max: 100ms }}, {settings} }} }}"
        )
    }

    fn dead(&self) -> String {
        "{ webhook: { url: \"http://127.0.0.1:1/in\" } }".to_owned()
    }

    async fn held(&self) -> Result<BTreeMap<String, Value>> {
        Ok(held_by(&self.accepted()))
    }

    async fn seen(&self) -> Result<Vec<(String, i64)>> {
        Ok(seen_in(&self.accepted()))
    }

    async fn told(&self) -> Result<Vec<Told>> {
        Ok(told(&self.receiver.received()))
    }

    async fn refuse_the_unfit(&mut self) -> Result<()> {
        self.manners.refuses.store(true, Ordering::Release);
        Ok(())
    }

    fn unfit(&self) -> Document {
        doc! { "unfit": true }
    }

    fn words(&self) -> &'static str {
        "nobody asked for that"
    }

    async fn take_the_unfit(&mut self) -> Result<()> {
        self.manners.refuses.store(false, Ordering::Release);
        Ok(())
    }

    fn slow(&mut self, slow: bool) {
        self.manners.slow.store(slow, Ordering::Release);
    }

    /// From the first one on, requests fail in turn.
    async fn jolt(&mut self, turn: u32) -> Result<()> {
        if turn % 5 == 3 {
            self.proxy.reset();
        }
        let (manners, count) = (self.manners.clone(), AtomicU32::new(turn));
        self.receiver.answer(move |request| match count.fetch_add(1, Ordering::AcqRel) % 12 {
            0 => Reply::of(503),
            3 => Reply { cut: true, ..Reply::default() },
            6 => Reply::of(429),
            9 => Reply::of(500),
            _ => manners.answer(request),
        });
        Ok(())
    }

    async fn calm(&mut self) -> Result<()> {
        self.behave();
        Ok(())
    }

    async fn begin(&mut self, trouble: Trouble) -> Result<()> {
        match trouble {
            Trouble::Answers(status) => self.receiver.answer(move |_| Reply::of(status)),
            Trouble::CutBefore => {
                self.receiver.answer(|_| Reply { cut: true, ..Reply::default() });
            }
            Trouble::NobodyListens => {
                self.proxy.refuse().await;
                self.proxy.reset();
            }
            Trouble::RequestsVanish => self.proxy.set(Direction::ToServer, Flow::Swallow),
            Trouble::AnswersVanish => self.proxy.set(Direction::FromServer, Flow::Swallow),
            other => unreachable!("{other:?} is no trouble of a webhook"),
        }
        Ok(())
    }

    async fn end(&mut self, trouble: Trouble) -> Result<()> {
        self.behave();
        self.proxy.set_both(Flow::Pass);
        if trouble == Trouble::NobodyListens {
            self.proxy.accept().await?;
        }
        Ok(())
    }
}
