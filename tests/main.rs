mod engine_target;
