//! What a target is asked, or told, until it takes it.

use tokio_util::sync::CancellationToken;

use crate::{
    delivery::retry::{Backoff, pause},
    rules::model::DeliverySettings,
    status::TargetStatus,
    target::Retry,
};

/// Asks a target again and again, with growing waits and its state shown as waiting, until it
/// answers. `None` where that was ended by `stop`; a question that is under way is dropped then.
pub async fn insist_on_target<T, F>(
    status: &TargetStatus,
    settings: &DeliverySettings,
    stop: &CancellationToken,
    ask: impl Fn() -> F,
) -> Option<T>
where
    F: Future<Output = Result<T, Retry>>,
{
    let mut backoff = Backoff::new(settings.retry_initial, settings.retry_max);
    loop {
        let answer = tokio::select! {
            answer = ask() => answer,
            () = stop.cancelled() => return None,
        };
        let retry = match answer {
            Ok(answer) => {
                if backoff.tries() > 0 {
                    status.recovered();
                }
                return Some(answer);
            }
            Err(retry) => retry,
        };
        let wait = backoff.next(retry.after);
        status.waiting(&retry.message);
        status.retry(retry.reason);
        // That it waits is told already.
        if backoff.tries() > 1 {
            tracing::warn!(
                target = status.name(),
                error = retry.message,
                wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                "target does not take what it is asked, trying again"
            );
        }
        if !pause(wait, stop).await {
            return None;
        }
    }
}
