//! Delivers one batch: sends it, in parts where the target can take no more, again where it may
//! pass, and settles it once the fate of every item is known.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    change::{Phase, RuleIndex},
    checkpoint::tracker::{Claim, Claims},
    rules::{model::DeliverySettings, units::written_time},
    status::Settled,
    target::{LEASE, Outcome, PlaceKey, Pressure, Request, Retry, Right, Standing},
};

use super::{
    Halt,
    batch::{Batch, Entry, Origin, lettered},
    contested::Waits,
    dead_letters::{Letter, Stage},
    lane::{self, Subject},
    places::Trim,
    retry::{Backoff, pause},
    writer::{Context, deadline},
};

/// The label in metrics of what is tried no more.
const GIVEN_UP: &str = "given_up";
/// So long an owed removal is tried where a person asks for it: what it may hold up the lane.
const ASKED_FOR: Duration = Duration::from_secs(60);

/// How much a request may hold, as the target's answers have taught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    actions: usize,
    bytes: usize,
    most_actions: usize,
    most_bytes: usize,
}

impl Limits {
    /// What the rule file allows.
    pub fn new(settings: &DeliverySettings) -> Self {
        Self {
            actions: settings.max_actions,
            bytes: settings.max_bytes,
            most_actions: settings.max_actions,
            most_bytes: settings.max_bytes,
        }
    }

    /// Items in a request, at the most.
    pub fn actions(&self) -> usize {
        self.actions
    }

    /// Bytes of a request's body, at the most, but for a single item that is larger.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A request went through: an eighth more next time.
    fn grow(&mut self) {
        self.actions = (self.actions + self.actions / 8 + 1).min(self.most_actions);
        self.bytes = (self.bytes + self.bytes / 8 + 1).min(self.most_bytes);
    }

    /// The target asked for less (429).
    fn shrink(&mut self, sent: &Request) {
        self.actions = (sent.items.len() / 2).max(1);
    }

    /// The target takes no body of this size (413): never again one as large.
    fn too_large(&mut self, sent: &Request) {
        self.most_bytes = self.most_bytes.min(sent.body.len().saturating_sub(1)).max(1);
        self.bytes = (sent.body.len() / 2).clamp(1, self.most_bytes);
    }

    /// The first of the outstanding items that fit into one request; at least one.
    fn part<'a>(&self, request: &Request, outstanding: &'a [usize]) -> &'a [usize] {
        let mut bytes = 0;
        let mut count = 0;
        for &index in outstanding {
            bytes += request.items[index].range.len();
            if count > 0 && (count >= self.actions || bytes > self.bytes) {
                break;
            }
            count += 1;
        }
        &outstanding[..count]
    }
}

/// What one batch of a lane learns for the next.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// How much a request may hold.
    pub limits: Limits,
    /// Bytes of documents that may stand aside, see [`super::aside`].
    pub aside: usize,
    /// Since when nothing has gone through, whatever was given up meanwhile.
    stuck: Option<Instant>,
}

impl Course {
    /// Of a lane that has sent nothing yet; nothing may stand aside.
    pub fn new(settings: &DeliverySettings) -> Self {
        Self { limits: Limits::new(settings), aside: 0, stuck: None }
    }
}

/// A batch of which every item is applied, superseded, or a durable dead letter.
#[derive(Debug)]
pub struct Delivered {
    /// What the next batch begins with.
    pub course: Course,
    /// Not yet written, by the task that also loads places: a trim under way beside a load would
    /// take away what the load has not seen.
    trims: Vec<Trim>,
    /// Not yet settled: a position must not pass places that are still to be trimmed.
    claims: Claims,
    /// Documents that are to be looked up again behind all that their lane holds.
    pub behind: Vec<Arc<Origin>>,
    /// Documents that came too late for a place that was another's before: what was removed there was
    /// newer. Or for one that they are to leave: what an earlier run has put there, when it was asked for
    /// them, was newer. They are to be looked up once more, as of now.
    pub late: Vec<Arc<Origin>>,
    /// Documents that stand aside, each with why; only where there was room for them.
    pub held: Vec<(Arc<Origin>, Retry)>,
    /// Places whose removals have become letters, or have stayed letters.
    pub owed: Vec<PlaceKey>,
    /// The room that the body took, for another one; nothing where it is still in use.
    pub spare: Vec<u8>,
}

impl Delivered {
    /// Trims the places and settles the claims.
    ///
    /// # Errors
    /// See [`Halt`]; nothing is settled then.
    pub async fn settle(self, context: &Context) -> Result<(), Halt> {
        Claim::settle_all(self.trim(context).await?);
        Ok(())
    }

    /// Trims the places; what is left is to be settled.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn trim(self, context: &Context) -> Result<Claims, Halt> {
        context.places.trim(self.trims, &context.spots, &context.stop).await?;
        Ok(self.claims)
    }
}

/// Sends a batch until every item's fate is known, and stores what was refused. `lane` is whose batch it
/// is, see [`Request::lane`].
///
/// # Errors
/// See [`Halt`]; nothing is settled then.
pub async fn deliver(
    context: Arc<Context>,
    lane: usize,
    mut batch: Batch,
    mut course: Course,
) -> Result<Delivered, Halt> {
    let mut refused = std::mem::take(&mut batch.letters);
    let mut settled: Vec<Arc<Origin>> = Vec::new();
    let (mut behind, mut held, mut late) = (Vec::new(), Vec::new(), Vec::new());
    let mut owed = Vec::new();
    let mut given_up = HashSet::new();
    let mut spare = Vec::new();
    if let Some((request, entries)) = batch.seal() {
        let request = Request { lane, ..request };
        let mut fates = Fates::default();
        send_all(&context, &request, &entries, &mut course, &mut fates).await?;
        let Fates {
            mut through,
            letters,
            given_up: buried,
            behind: waiting,
            late: come_late,
            held: aside,
        } = fates;
        refused.extend(letters);
        behind = waiting;
        late.extend(come_late.iter().map(|&index| entries[index].origin.clone()));
        let comes_back: HashSet<usize> =
            aside.iter().map(|(index, _)| *index).chain(come_late).collect();
        let origin = |(index, retry): (usize, Retry)| (entries[index].origin.clone(), retry);
        held = aside.into_iter().map(origin).collect();
        settled.extend(through.iter().map(|&index| entries[index].origin.clone()));
        through.sort_unstable();
        for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.removes) {
            if through.binary_search(&index).is_ok() {
                continue;
            }
            let Origin { namespace, key, .. } = &*entry.origin;
            let trims = batch.places.iter_mut();
            // What stands aside, or came too late, has no letter, and comes back to be removed.
            if comes_back.contains(&index) {
                trims.for_each(|trim| trim.keep(namespace, key, &entry.place));
            } else {
                trims.for_each(|trim| trim.owe(namespace, key, &entry.place));
                owed.push(entry.place.clone());
            }
        }
        given_up.extend(buried.into_iter().map(|index| lettered(&entries[index].origin)));
        if let Ok(mut body) = request.body.try_into_mut() {
            body.clear();
            spare = body.into();
        }
    }
    settled.append(&mut batch.gone);
    // What has become a letter is no success of its document: only a part went through.
    let waiting = behind.iter().chain(&late).chain(&batch.waiting);
    given_up.extend(waiting.chain(held.iter().map(|(it, _)| it)).map(|it| lettered(it)));
    given_up.extend(refused.iter().map(|letter| lettered(letter.origin())));
    settled.retain(|origin| given_up.is_empty() || !given_up.contains(&lettered(origin)));
    for trim in &mut batch.places {
        trim.still_awaits(given_up.iter().map(|(_, subject, _)| subject));
    }
    context.dead_letters.settle(settled.iter().map(|origin| &**origin), &context.stop).await?;
    bury(&context, refused).await?;
    if !behind.is_empty() {
        // They come back with the next batch, and what they wait for may take longer than that.
        context.status.retry("behind");
        tokio::select! {
            () = tokio::time::sleep(BEHIND) => {}
            () = context.drain.cancelled() => {}
        }
    }
    Ok(Delivered {
        course,
        trims: batch.places,
        claims: batch.claims,
        behind,
        late,
        held,
        owed,
        spare,
    })
}

async fn bury(context: &Context, letters: Vec<Letter>) -> Result<(), Halt> {
    for letter in letters.iter().filter(|letter| !letter.is_owed()) {
        let origin = letter.origin();
        context.rules[usize::from(origin.rule.0)].count(origin.phase, Settled::DeadLetter, 1);
    }
    if !context.status.is_heard() {
        return context.dead_letters.bury(letters, &context.stop).await;
    }
    let told: Vec<_> = letters.iter().filter(|letter| !letter.is_owed()).cloned().collect();
    let buried = context.dead_letters.bury(letters, &context.stop).await;
    // One that ends the run for there are too many is stored all the same.
    if matches!(buried, Ok(()) | Err(Halt::TooManyRejected { .. })) {
        for letter in told {
            let origin = letter.origin();
            let rule = context.dead_letters.rule(origin.rule);
            let document = (&origin.namespace, origin.key.display());
            context.status.refused(rule, document, letter.words());
        }
    }
    buried
}

/// How long a lane pauses before it looks again at documents that wait for others.
const BEHIND: Duration = Duration::from_millis(100);

/// What has become of the entries of a batch.
#[derive(Default)]
struct Fates {
    /// Which went through.
    through: Vec<usize>,
    /// Of those that were refused.
    letters: Vec<Letter>,
    /// Whose letters are stored already.
    given_up: Vec<usize>,
    /// Of those that wait for other documents.
    behind: Vec<Arc<Origin>>,
    /// Those that came too late, see [`Delivered::late`].
    late: Vec<usize>,
    /// Those that stand aside.
    held: Vec<(usize, Retry)>,
}

async fn send_all(
    context: &Context,
    request: &Request,
    entries: &[Entry],
    Course { limits, aside, stuck }: &mut Course,
    fates: &mut Fates,
) -> Result<(), Halt> {
    let settings = &context.settings;
    let mut backoff = Backoff::new(settings.retry_initial, settings.retry_max);
    let mut outstanding: Vec<usize> = (0..entries.len()).collect();
    // Since when the first of them is tried.
    let mut begun = Instant::now();
    while !outstanding.is_empty() {
        let part = limits.part(request, &outstanding).to_vec();
        let mut sent = request.only(&part);
        let answer = send(context, &mut sent).await?;
        let mut trouble: Option<Retry> = None;
        let mut again = Vec::new();
        let mut progress = false;
        match answer {
            Ok(outcomes) => {
                // Documents whose owed removal has had its try: what was held back behind it goes on.
                let mut freed = HashSet::new();
                let mut counted = Counted::of(context);
                for (&index, outcome) in part.iter().zip(outcomes) {
                    let entry = &entries[index];
                    match conclude(context, entry, outcome, part.len(), &mut counted) {
                        Conclusion::Through => {
                            context.contested.settled(&entry.place);
                            fates.through.push(index);
                            progress = true;
                        }
                        Conclusion::Refused(letter) => {
                            context.contested.settled(&entry.place);
                            fates.letters.push(letter);
                            progress |= !entry.once;
                        }
                        Conclusion::Behind => {
                            fates.behind.push(entry.origin.clone());
                            progress = true;
                        }
                        Conclusion::Late => {
                            fates.late.push(index);
                            progress = true;
                        }
                        Conclusion::Held(retry) if !entry.once && cost(&entry.origin) <= *aside => {
                            *aside -= cost(&entry.origin);
                            fates.held.push((index, retry));
                            progress = true;
                        }
                        Conclusion::Again(retry) | Conclusion::Held(retry)
                            if was_tried(context, entry, &retry, (begun, part.len())) =>
                        {
                            context.status.retry(retry.reason);
                            fates.letters.push(refused(context, entry, retry.message));
                            freed.insert(lettered(&entry.origin));
                        }
                        Conclusion::Again(_) | Conclusion::Held(_)
                            if freed.contains(&lettered(&entry.origin)) =>
                        {
                            again.push(index);
                        }
                        Conclusion::Again(retry) | Conclusion::Held(retry) => {
                            again.push(index);
                            trouble = Some(worse(trouble, retry));
                        }
                    }
                }
            }
            Err(retry) if retry.pressure == Pressure::TooLarge && part.len() == 1 => {
                fates.letters.push(refused(context, &entries[part[0]], retry.message));
                progress = true;
            }
            Err(retry) => {
                for &index in &part {
                    match was_tried(context, &entries[index], &retry, (begun, part.len())) {
                        true => {
                            let words = retry.message.clone();
                            fates.letters.push(refused(context, &entries[index], words));
                        }
                        false => again.push(index),
                    }
                }
                trouble = (!again.is_empty()).then_some(retry);
            }
        }
        if progress {
            *stuck = None;
        }
        let mut given_up = false;
        if let (Some(retry), Some(limit)) = (&trouble, settings.give_up_after)
            && matches!(retry.pressure, Pressure::Same | Pressure::Less)
            && is_over(retry, stuck.get_or_insert_with(Instant::now), &begun, limit)
        {
            let words = format!("given up after {}: {}", written_time(limit), retry.message);
            let letters = again.iter().map(|&at| refused(context, &entries[at], words.clone()));
            // What comes next is tried no longer than once, as long as nothing goes through.
            bury(context, letters.collect()).await?;
            fates.given_up.append(&mut again);
            (trouble, given_up) = (None, true);
            context.status.retry(GIVEN_UP);
        }
        // What is to be sent again goes first: it is the older.
        again.extend_from_slice(&outstanding[part.len()..]);
        outstanding = again;
        if progress || given_up {
            begun = Instant::now();
        }
        match trouble {
            // What comes next is tried soon, and is not said to go well. All that waits behind an
            // endpoint that is not in order would be letters within a moment otherwise.
            None if given_up => {
                backoff.reset();
                if !pause(backoff.next(None), &context.drain).await && !outstanding.is_empty() {
                    return Err(Halt::Stopped);
                }
                backoff.reset();
            }
            // Only what is owed has had its try.
            None if !progress => {}
            None => {
                backoff.reset();
                limits.grow();
                context.status.recovered();
            }
            Some(retry) => {
                if progress {
                    backoff.reset();
                }
                hold_back(context, &sent, retry, limits, &mut backoff).await?;
            }
        }
    }
    Ok(())
}

async fn send(context: &Context, sent: &mut Request) -> Result<Result<Vec<Outcome>, Retry>, Halt> {
    // A process that was paused may have lost its lease without knowing yet. While it holds it, the
    // parts of a batch that has been begun are sent, though it is to end: what is told twice
    // otherwise is all that went through already.
    tokio::select! {
        biased;
        () = context.validity.valid() => {}
        () = context.drain.cancelled() => return Err(Halt::Stopped),
    }
    let (since, until) = context.validity.span();
    sent.right = Some(Right { since, until, alone: context.validity.alone() });
    let validity = context.validity.clone();
    sent.standing = Some(Standing::new(move || validity.is_valid()));
    let started = Instant::now();
    let deadline = deadline(&*context.target, &context.settings);
    let answer = tokio::select! {
        answer = tokio::time::timeout(deadline, context.target.send(sent)) => answer,
        () = context.stop.cancelled() => return Err(Halt::Stopped),
    };
    context.status.batch_seconds(started.elapsed());
    Ok(match answer {
        Ok(Ok(outcomes)) if outcomes.len() == sent.items.len() => Ok(outcomes),
        Ok(Ok(outcomes)) => Err(Retry {
            reason: "garbled",
            message: format!("{} answers to {} items", outcomes.len(), sent.items.len()),
            after: None,
            pressure: Pressure::Same,
        }),
        Ok(Err(retry)) => Err(retry),
        Err(_) => Err(Retry {
            reason: "timeout",
            message: "no answer in time".into(),
            after: None,
            pressure: Pressure::Same,
        }),
    })
}

enum Conclusion {
    Through,
    Refused(Letter),
    Again(Retry),
    Behind,
    Late,
    Held(Retry),
}

/// What a document takes that stands aside.
fn cost(origin: &Origin) -> usize {
    lane::cost(&Subject { namespace: origin.namespace.clone(), key: origin.key.clone() })
}

/// Counts documents that share rule, phase and fate, one behind the other, at once.
struct Counted<'a> {
    context: &'a Context,
    of: (RuleIndex, Phase, Settled),
    count: u64,
}

impl<'a> Counted<'a> {
    fn of(context: &'a Context) -> Self {
        Self { context, of: (RuleIndex(0), Phase::Copy, Settled::Delivered), count: 0 }
    }

    fn add(&mut self, origin: &Origin, settled: Settled) {
        let of = (origin.rule, origin.phase, settled);
        if of != self.of {
            self.tell();
            self.of = of;
        }
        self.count += 1;
    }

    fn tell(&mut self) {
        let (rule, phase, settled) = self.of;
        let count = std::mem::take(&mut self.count);
        if count > 0 {
            self.context.rules[usize::from(rule.0)].count(phase, settled, count);
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}

fn conclude(
    context: &Context,
    entry: &Entry,
    outcome: Outcome,
    sent_with: usize,
    counted: &mut Counted<'_>,
) -> Conclusion {
    let origin = &entry.origin;
    match outcome {
        Outcome::Applied => {
            let settled = if entry.removes { Settled::Removed } else { Settled::Delivered };
            counted.add(origin, settled);
            if let Some(since) = origin.since {
                let elapsed = bson::DateTime::now().timestamp_millis() - since.timestamp_millis();
                // The server's clock may run ahead of ours.
                let elapsed = Duration::from_millis(u64::try_from(elapsed).unwrap_or(0));
                context.status.delivery_seconds(elapsed);
            }
            Conclusion::Through
        }
        Outcome::Superseded if is_late(context, entry) => Conclusion::Late,
        Outcome::Superseded => {
            counted.add(origin, Settled::Superseded);
            Conclusion::Through
        }
        // What nobody looks up again can only be refused.
        Outcome::Behind { holder, .. }
            if context.shaper.follows(origin.rule)
                && waits(context, entry, holder.as_ref()) == Waits::Longer =>
        {
            Conclusion::Behind
        }
        Outcome::Rejected(words) | Outcome::Behind { words, .. } => {
            Conclusion::Refused(refused(context, entry, words))
        }
        Outcome::Retry(retry) if retry.pressure == Pressure::TooLarge && sent_with == 1 => {
            Conclusion::Refused(refused(context, entry, retry.message))
        }
        Outcome::Held(retry) if context.shaper.follows(origin.rule) => Conclusion::Held(retry),
        Outcome::Retry(retry) | Outcome::Held(retry) => Conclusion::Again(retry),
    }
}

/// Whether an operation was superseded by something else than a newer one of its document that did the same.
/// A document is put in a place by what another left there, for all that anybody knows: nothing newer of
/// this one was ever sent there. It is removed by what an earlier run put there of it.
fn is_late(context: &Context, entry: &Entry) -> bool {
    let Origin { rule, time, .. } = *entry.origin;
    let is_late = match entry.removes {
        true => !context.shaper.is_fixed(rule) && context.spots.is_earlier(time),
        false => entry.fresh,
    };
    is_late && context.shaper.follows(rule)
}

/// Has the document that holds what an item claims delivered as it is in the source, and says whether
/// the item waits for that.
fn waits(context: &Context, entry: &Entry, holder: Option<&PlaceKey>) -> Waits {
    let key = holder.and_then(|place| context.target.key(place));
    let subject = key.map(|key| Subject { namespace: entry.origin.namespace.clone(), key });
    context.contested.met(&entry.place, subject)
}

fn refused(context: &Context, entry: &Entry, words: String) -> Letter {
    let origin = &entry.origin;
    let place = Some(context.target.describe(&entry.place));
    let (rule, subject, _) = lettered(origin);
    let owed = entry.once && context.dead_letters.has(context.dead_letters.rule(rule), &subject);
    Letter::new(origin.clone(), Stage::Target, words, place).owed(owed)
}

/// Whether an entry that is tried once has had its try. One whose letter is asked for is tried like
/// any other, for some time.
fn was_tried(
    context: &Context,
    entry: &Entry,
    retry: &Retry,
    (begun, sent_with): (Instant, usize),
) -> bool {
    entry.once
        && retry.reason != LEASE
        && (sent_with == 1 || matches!(retry.pressure, Pressure::Same | Pressure::Less))
        && !(begun.elapsed() < ASKED_FOR && context.dead_letters.is_asked_for(&entry.origin))
}

/// Whether the time is over after which something is given up. `stuck` says since when nothing has gone
/// through, `begun` since when this is tried: who asks for a pause is there, and to be heard.
fn is_over(retry: &Retry, stuck: &Instant, begun: &Instant, limit: Duration) -> bool {
    let asks = retry.pressure == Pressure::Less || retry.after.is_some();
    let since = if asks { begun } else { stuck };
    since.elapsed() >= limit
}

/// Of two reasons to try again, the one that asks for more.
fn worse(one: Option<Retry>, other: Retry) -> Retry {
    let rank = |retry: &Retry| match retry.pressure {
        Pressure::Same => 0,
        Pressure::Less => 1,
        Pressure::Split => 2,
        Pressure::TooLarge => 3,
    };
    match one {
        Some(one) if rank(&one) >= rank(&other) => {
            Retry { after: one.after.max(other.after), ..one }
        }
        _ => other,
    }
}

async fn hold_back(
    context: &Context,
    sent: &Request,
    retry: Retry,
    limits: &mut Limits,
    backoff: &mut Backoff,
) -> Result<(), Halt> {
    context.status.retry(retry.reason);
    match retry.pressure {
        // Smaller parts are not a repetition: no wait.
        Pressure::TooLarge => {
            tracing::info!(
                bytes = sent.body.len(),
                target = context.status.name(),
                error = retry.message,
                "request too large for the target, sending less at once"
            );
            limits.too_large(sent);
            return Ok(());
        }
        Pressure::Split if sent.items.len() > 1 => {
            limits.shrink(sent);
            return Ok(());
        }
        Pressure::Less => limits.shrink(sent),
        Pressure::Same | Pressure::Split => {}
    }
    let wait = backoff.next(retry.after);
    context.status.waiting(&retry.message);
    // The first failure may be a blip; from the second on it is news.
    if backoff.tries() > 1 {
        tracing::warn!(
            target = context.status.name(),
            reason = retry.reason,
            error = retry.message,
            items = sent.items.len(),
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            "target does not take the batch, trying again"
        );
    }
    if pause(wait, &context.drain).await { Ok(()) } else { Err(Halt::Stopped) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Item;

    fn request(sizes: &[usize]) -> Request {
        let mut items = Vec::new();
        let mut end = 0;
        for (index, size) in sizes.iter().enumerate() {
            let place = PlaceKey([u8::try_from(index).expect("few")].into());
            items.push(Item { range: end..end + size, place });
            end += size;
        }
        Request { body: vec![0; end].into(), items, lane: 0, right: None, standing: None }
    }

    fn limits(actions: usize, bytes: usize) -> Limits {
        Limits { actions, bytes, most_actions: actions, most_bytes: bytes }
    }

    #[test]
    fn a_part_is_what_fits_and_never_empty() {
        let request = request(&[10, 10, 100, 10]);
        for (limits, outstanding, expected) in [
            (limits(10, 1000), vec![0, 1, 2, 3], 4),
            (limits(2, 1000), vec![0, 1, 2, 3], 2),
            (limits(10, 20), vec![0, 1, 2, 3], 2),
            (limits(10, 20), vec![2, 3], 1),
            (limits(1, 1), vec![3], 1),
        ] {
            assert_eq!(limits.part(&request, &outstanding).len(), expected);
        }
    }

    #[test]
    fn pressure_shrinks_and_success_grows_back() {
        let mut limits = limits(1000, 1000);
        limits.shrink(&request(&[1; 100]));
        assert_eq!(limits.actions(), 50);
        for _ in 0..100 {
            limits.grow();
        }
        assert_eq!(limits.actions(), 1000);
    }

    #[test]
    fn a_size_that_was_refused_is_never_sent_again() {
        let mut limits = limits(1000, 1000);
        limits.too_large(&request(&[400, 400]));
        assert_eq!(limits.bytes(), 400);
        for _ in 0..100 {
            limits.grow();
        }
        assert_eq!(limits.bytes(), 799);
    }

    #[test]
    fn the_reason_that_asks_for_more_counts() {
        let retry =
            |pressure, after| Retry { reason: "x", message: String::new(), after, pressure };
        let second = Some(Duration::from_secs(1));
        let both = worse(Some(retry(Pressure::Less, None)), retry(Pressure::Same, second));
        assert_eq!((both.pressure, both.after), (Pressure::Less, second));
        let both = worse(Some(retry(Pressure::Same, None)), retry(Pressure::TooLarge, None));
        assert_eq!(both.pressure, Pressure::TooLarge);
    }
}
