//! Measurement, statistics and records of kernel tuning.
