//! # berth: pods on containerd
//!
//! berth is a Kubernetes container runtime: a daemon (`berth serve`) that a kubelet, `crictl` or any gRPC client of the
//! Container Runtime Interface points at. It makes pods on containerd's **native** API (containers, tasks, snapshots,
//! content, images, leases) and never uses containerd's CRI plugin. The same daemon runs plain Pod manifests without a
//! kubelet (`berth run -f pod.yaml`).
//!
//! ```text
//!  kubelet, crictl          berth run, get, logs, …              one socket, mode 0600
//!        │ runtime.v1              │ berth.v1
//!        ▼                         ▼
//!      cri ────────┐       api ─ manifest      parse, translate; one door for errors (cri::status)
//!                  ▼         ▼
//!              lifecycle ─ probe, hook         what a life is made of beside its process
//!                  ▼
//!               pod          image             decide, order, undo, remember
//!                  │           │
//!   ┌──────────┬───┴────┬──────┴───┬────────┐
//!   containerd netns  network     shim     oci      do one thing each
//!   │          └────────┴──────────┘        │
//!   │                  sys                  │       the kernel, and all of `unsafe`
//!   └───────────────── model ───────────────┘       the words of the domain
//! ```
//!
//! Beside the daemon run, and outlive it:
//!
//! ```text
//!  berth ───gRPC──▶ containerd ──ttrpc──▶ containerd-shim-berth-v1 ──runc──▶ containers
//!    ├─────────── private socket ────────▶ (shim)   ├ a thread (logs) ◀─FIFOs─┤
//!    └─────────── a connection per command ────────▶└ a process (nsexec) ─fork┘
//! ```
//!
//! a containerd (a running one, or one of berth's own) and the shim, this crate's second binary ([`shim`]): a process
//! that holds the containers of all pods, or of as many as the configuration says, whose log writer ([`logs`])
//! writes their logs, and whose helper ([`nsexec`]) runs commands in them. Whatever dies comes back: the daemon restarts
//! its containerd and its shim, a new shim takes over the containers of the last ([`shim::adopt`]), and the next daemon
//! takes over all of them ([`pod`]'s recovery).
//!
//! ## Layers
//!
//! A module imports only what stands below it in this table; `tests/layers.rs` reads the imports and keeps it true.
//!
//! | layer | modules | what they know |
//! |---|---|---|
//! | 10 | [`daemon`], [`cli`] | everything there is to put together; the command line, which speaks to the socket only |
//! | 9 | [`api`] | gRPC of `berth.v1`, and metrics over HTTP |
//! | 8 | [`cri`], [`manifest`] | gRPC of `runtime.v1`; Pod manifests and the kubelet's semantics |
//! | 7 | [`lifecycle`] | start with postStart, stop with preStop, and what a failed probe calls for |
//! | 6 | [`probe`], [`hook`] | when a container is well; what is run at its start and its end |
//! | 5 | [`pod`] | verbs of sandboxes and containers, registry, recovery; no protobuf |
//! | 4 | [`image`], [`shim`] | references, registries, unpacking; the process that holds containers, and how to speak to it |
//! | 3 | [`containerd`], [`netns`], [`network`], [`logs`], [`nsexec`], [`dial`] | one adapter each; they do not know each other |
//! | 2 | [`oci`], [`sys`], [`ttrpc`] | the pure building of OCI specs; safe wrappers over the kernel; containerd's RPC for shims |
//! | 1 | [`model`] | ids, configs, states, refusals: plain data |
//! | 0 | [`proto`], [`config`], [`failpoint`] | generated wire types; the configuration file; points where a test may kill the daemon |
//!
//! `model` and `oci` know no tokio, tonic or nix, and [`shim`] and [`ttrpc`] neither of the first two. Nothing below
//! [`api`] and [`cri`] but [`containerd`], [`shim`] and [`ttrpc`], and the gRPC check of [`probe`], knows protobuf.
//!
//! ## Invariants
//!
//! 1. **Intent before effect.** A record in containerd is made before what it stands for and goes after it. What has no
//!    record of its own (a container's snapshot, a sandbox's lease) carries a label by which recovery finds it. So
//!    after `kill -9` at any instant the next daemon finishes or undoes what was under way.
//! 2. **Every name derives from an id** ([`pod::paths`]), so every effect has an inverse that needs no memory, and
//!    that is content when there is nothing to undo. Undoing, stopping and recovering are the same inverses, backwards.
//! 3. **containerd is the record.** A record is versioned JSON in one extension of a container record
//!    ([`model::record`]); labels only index it. A sandbox is a container record, too, mostly without a task.
//! 4. **Parse at the edge.** A request is checked whole before its first effect; a refusal names the field.
//! 5. **Nobody awaits in a foreign namespace.** Entering one is a closure on a thread of its own ([`netns::enter`], and
//!    the threads of [`dial`], which make sockets there for others to use).
//! 6. **No claim is held while waiting** for an exit or a grace period.
//! 7. **Everything is bounded:** every wait has a deadline, every buffer a cap, every queue a length.
//! 8. **A client that goes away changes nothing.** Mutating calls run as tasks of the daemon; a repeat joins them. Only
//!    pulls and streams follow their caller's cancellation.
//! 9. **Exits are true or Unknown.** containerd's Tasks.Wait is the truth; a code that nobody can know any more is 255
//!    with the reason `Unknown`. OOM kills are read from the cgroup's own counter.
//!
//! ## Deliberate absences
//!
//! * **No pause container.** Namespaces are pinned by bind mounts and outlive every process in them. Only a pod that
//!   shares its PID namespace has a process of ours in it, the holder of one kilobyte ([`netns::holder`]).
//! * **No endpoints, Services, scheduler or API server.** berth runs pods on one node and tells their addresses.
//! * **No subscription to containerd's events.** Each running container has one Tasks.Wait, which also survives
//!   restarts of containerd; there is nothing that an event could add.
//! * **No database.** containerd's records and leases, plus files for addresses and manifests.
//! * **No systemd cgroup driver:** cgroup parents are taken in cgroupfs syntax, on cgroup v1 and v2.
//!
//! What is promised by CRI and not built yet answers `UNIMPLEMENTED`, and a field that is not supported yet is refused
//! by name, never ignored.

pub mod api;
pub mod cli;
pub mod config;
pub mod containerd;
pub mod cri;
pub mod daemon;
pub mod dial;
pub mod failpoint;
pub mod hook;
pub mod image;
pub mod lifecycle;
pub mod logs;
pub mod manifest;
pub mod model;
pub mod netns;
pub mod network;
pub mod nsexec;
pub mod oci;
pub mod pod;
pub mod probe;
pub mod proto;
pub mod shim;
pub mod sys;
pub mod ttrpc;
