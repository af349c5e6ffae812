//! Runs a further program in a running container, in about a millisecond and without the OCI runtime: joins the
//! container's control groups and namespaces and becomes what its specification says.
//!
//! ```text
//!   berth, shim ──request, descriptors──▶ helper ──fork──▶ first ──vfork──▶ second ──execve──▶ the program
//!               ◀─started─ ◀─exited─────    │ (one thread)  joins            becomes
//!                                           └─ a control group of its own for each exec: what kills all of it
//! ```
//!
//! The **helper** ([`helper`]) is a process of one thread that a shim starts when somebody connects to its
//! `exec.sock`, and again should it die. It runs from a sealed file in memory, so nothing that a container does to
//! `/proc/self/exe` reaches a file of the node; it knows nobody's secrets, as only its children read the requests. A
//! connection is one exec, and its end is the exec's: whoever is killed, or loses interest, leaves nothing behind.
//!
//! * [`program`]: what is run, from an OCI specification; pure. [`seccomp`]: its filter. [`request`]: the words on the
//!   socket. [`client`]: the requesting end. [`helper`], [`child`]: the other one. [`leaf`]: the group of one exec.
//!
//! The result is to be indistinguishable from what `runc exec` makes. What this cannot do (a seccomp agent, for one)
//! it says before anything is done ([`Unsuited`]); the OCI runtime does it then.

mod child;
pub mod client;
pub mod helper;
mod leaf;
pub mod program;
pub mod request;
pub mod seccomp;
mod sweep;

pub use client::{Connection, Error, Exec, begin, kill, receive};
pub use program::{Program, Setting, Unsuited, is_joinable, keyring};
pub use request::{Failure, Groups, Reply};
pub use sweep::sweep;
