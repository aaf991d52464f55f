//! The metrics by name: their help, their buckets, and the recorder that renders them.
//!
//! Every name of the interface stands in this file; the other files of this module hold handles. A
//! gauge whose value is not known yet is not registered, because a gauge that says 0 without
//! knowing would be a lie that an alert believes.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use metrics::{
    Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, with_local_recorder,
};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

pub(super) const DOCUMENTS: &str = "mongosync_documents_total";
pub(super) const EVENTS: &str = "mongosync_events_total";
pub(super) const RETRIES: &str = "mongosync_retries_total";
pub(super) const DEAD_LETTERS: &str = "mongosync_dead_letters_total";
pub(super) const LAG: &str = "mongosync_lag_seconds";
pub(super) const COPY_DOCUMENTS: &str = "mongosync_copy_documents";
pub(super) const COPY_EXPECTED: &str = "mongosync_copy_documents_expected";
pub(super) const CHECKPOINT_TIMESTAMP: &str = "mongosync_checkpoint_timestamp_seconds";
pub(super) const OPLOG_WINDOW: &str = "mongosync_oplog_window_seconds";
pub(super) const BUFFER: &str = "mongosync_buffer_bytes";
pub(super) const DELIVERY: &str = "mongosync_delivery_seconds";
pub(super) const BATCH: &str = "mongosync_batch_seconds";
const BUILD_INFO: &str = "mongosync_build_info";

const COUNTERS: [(&str, &str); 4] = [
    (DOCUMENTS, "Documents settled, by what became of them"),
    (EVENTS, "Change events read"),
    (RETRIES, "Requests, or parts of them, that had to be sent again"),
    (DEAD_LETTERS, "Documents refused for good, in this process"),
];
const GAUGES: [(&str, &str); 7] = [
    (LAG, "Age of the oldest change that is not settled; 0 when all is"),
    (COPY_DOCUMENTS, "Documents that the copy has settled"),
    (COPY_EXPECTED, "Documents that the copy is expected to hold, an estimate"),
    (CHECKPOINT_TIMESTAMP, "Cluster time of the stored position, in seconds since 1970"),
    (OPLOG_WINDOW, "Time between the oldest and the newest entry of the source's oplog"),
    (BUFFER, "Bytes of documents between source and target"),
    (BUILD_INFO, "Always 1; the version is a label"),
];
const HISTOGRAMS: [(&str, &str, &[f64]); 2] = [
    (DELIVERY, "From a change's cluster time until the target acknowledged it", &DELIVERY_BUCKETS),
    (BATCH, "One request to the target", &BATCH_BUCKETS),
];

/// From an idle system's few milliseconds to a target that was away for a day.
const DELIVERY_BUCKETS: [f64; 16] = [
    0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3_600.0,
    86_400.0,
];
/// Up to the longest usual timeout.
const BATCH_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];

/// The recorder keeps every sample of a histogram until it is asked to sum them up. Nobody may ever
/// ask (`http: off`), so the one who records the last of so many samples does it.
const SAMPLES_KEPT: usize = 4096;

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// A recorder and what it takes to render it.
pub(super) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    process: metrics_process::Collector,
    samples: Arc<AtomicUsize>,
}

impl Metrics {
    pub(super) fn new() -> Arc<Self> {
        let mut builder = PrometheusBuilder::new();
        for (name, _, buckets) in HISTOGRAMS {
            builder = builder
                .set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)
                .expect("no list of buckets is empty");
        }
        let recorder = builder.build_recorder();
        for (name, help) in COUNTERS {
            recorder.describe_counter(name.into(), None, help.into());
        }
        for (name, help) in GAUGES {
            recorder.describe_gauge(name.into(), None, help.into());
        }
        for (name, help, _) in HISTOGRAMS {
            recorder.describe_histogram(name.into(), None, help.into());
        }
        let process = metrics_process::Collector::default();
        with_local_recorder(&recorder, || process.describe());
        let handle = recorder.handle();
        let metrics = Self { recorder, handle, process, samples: Arc::default() };
        metrics.gauge(BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        Arc::new(metrics)
    }

    pub(super) fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    pub(super) fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    pub(super) fn samples(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Samples {
        Samples {
            histogram: self.recorder.register_histogram(&key(name, labels), &METADATA),
            kept: self.samples.clone(),
            handle: self.handle.clone(),
        }
    }

    /// The text of `GET /metrics`.
    pub(super) fn render(&self) -> String {
        with_local_recorder(&self.recorder, || self.process.collect());
        self.handle.render()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels = labels.iter().map(|&(label, value)| Label::new(label, value.to_owned()));
    Key::from_parts(name, labels.collect::<Vec<_>>())
}

/// A histogram of durations that stays bounded without anyone reading it.
pub(super) struct Samples {
    histogram: Histogram,
    kept: Arc<AtomicUsize>,
    handle: PrometheusHandle,
}

impl Samples {
    pub(super) fn record(&self, duration: Duration) {
        self.histogram.record(duration.as_secs_f64());
        if self.kept.fetch_add(1, Relaxed) % SAMPLES_KEPT == SAMPLES_KEPT - 1 {
            self.handle.run_upkeep();
        }
    }
}

impl fmt::Debug for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Samples").finish_non_exhaustive()
    }
}
