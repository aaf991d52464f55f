//! Every test that stands outside the library: one binary, so that it is linked once.

mod check;
mod checkpoint;
mod commands;
mod copy;
mod edges;
mod engine_target;
mod ids;
mod kill;
mod kill_points;
mod load;
mod lookups;
mod losses;
mod places;
mod random;
mod requests;
mod resync;
mod selection;
mod size;
mod source_faults;
mod status;
mod stops;
mod store_faults;
mod target_faults;
mod ready_rules;
mod support;
mod trying;
