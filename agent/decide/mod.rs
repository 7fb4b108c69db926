//! What should be: pure functions over values.

pub mod filter;
