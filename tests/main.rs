//! Every test that stands outside the library: one binary, so that it is linked once.

mod checkpoint;
mod copy;
mod edges;
mod engine_target;
mod support;
