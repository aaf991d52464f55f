//! Every test that stands outside the library: one binary, so that it is linked once.

mod checkpoint;
mod copy;
mod engine_target;
mod ready_rules;
mod rule_files;
mod support;
