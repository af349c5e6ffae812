//! (in the making)

pub mod pipe;
pub mod spawn;
