//! File tests, end to end tests, differential and fault tests.
