//! Every test that stands outside the library: one binary, so that it is linked once.

mod checkpoint;
mod commands;
mod copy;
mod edges;
mod engine_target;
mod ids;
mod kill;
mod load;
mod lookups;
mod losses;
mod places;
mod selection;
mod status;
mod ready_rules;
mod support;
mod trying;
