//! The words of the domain: identifiers, what a client asked for, and the states things can be in.
//!
//! Everything here is plain data. It knows no protobuf, no runtime and no kernel, and what it holds has been
//! checked: a value of these types needs no second look below the edge that parsed it. The types that are kept in
//! containerd's records (see [`record`]) serialise to JSON and are versioned there.

pub mod causes;
pub mod container;
pub mod event;
pub mod expand;
pub mod id;
pub mod image;
pub mod names;
pub mod probe;
pub mod record;
pub mod refusal;
pub mod resources;
pub mod sandbox;
pub mod security;
pub mod signal;

pub use causes::causes;
pub use id::Id;
pub use refusal::Refusal;
pub use signal::Signal;
