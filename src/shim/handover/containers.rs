//! The containers' part: their processes and who waits for them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Bag, Fd};
use crate::nsexec::Connection;
use crate::shim::container::{Container, Phase, Process, State, Waiter};
use crate::shim::core::Shim;
use crate::shim::record::{Io, Record};
use crate::shim::stdio;
use crate::sys::children::Children;
use crate::sys::process::Handle;

/// What a shim holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Held {
    containers: Vec<HeldContainer>,
    /// Whose each child is: container and exec id.
    pids: Vec<(u32, String, String)>,
    /// How many kills for memory were told of each container that is watched.
    ooms: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct HeldContainer {
    record: Record,
    init: HeldProcess,
    execs: BTreeMap<String, HeldProcess>,
    claimed: bool,
    adopted: bool,
    paused: bool,
    checkpoint: Option<String>,
    mounted: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct HeldProcess {
    phase: Phase,
    pid: u32,
    handle: Option<Fd>,
    io: Io,
    kept: Option<stdio::Handed>,
    waiters: Vec<Waiter>,
    spec: Vec<u8>,
    #[serde(default)]
    connection: Option<Fd>,
}

impl Held {
    /// Everything of a shim that is at rest. Fails, too, when something is half done after all.
    pub fn pack(shim: &Shim, ooms: BTreeMap<String, u64>, bag: &mut Bag) -> io::Result<Self> {
        let containers = shim.containers();
        let containers = containers.iter().map(|container| pack(&container.state(), bag));
        Ok(Self {
            containers: containers.collect::<io::Result<_>>()?,
            pids: shim.known_pids(),
            ooms,
        })
    }

    /// Goes on with it. To be called once, before the first child is reaped and anybody is served.
    pub fn unpack(self, shim: &Arc<Shim>) -> io::Result<()> {
        for (pid, id, exec_id) in self.pids {
            // It has not been reaped, whether or not it has ended.
            shim.claim(pid, &id, &exec_id);
        }
        for held in self.containers {
            let told = self.ooms.get(&held.record.id).copied();
            let container = unpack(held, &shim.children)?;
            shim.add(&container).expect("each container has an id of its own");
            if let Some(told) = told {
                shim.watch_oom_after(&container, told);
            }
            let state = container.state();
            if let (true, None, Some(handle)) = (state.adopted, state.init.phase.exit(), &state.init.handle) {
                shim.watch_end(&container, Arc::clone(handle));
            }
            for (exec_id, process) in &state.execs {
                if let Some(connection) = &process.connection {
                    shim.watch_command(&container, exec_id, connection);
                }
            }
        }
        Ok(())
    }
}

fn pack(state: &State, bag: &mut Bag) -> io::Result<HeldContainer> {
    let mut execs = BTreeMap::new();
    for (id, process) in &state.execs {
        execs.insert(id.clone(), pack_process(process, bag)?);
    }
    Ok(HeldContainer {
        record: state.record.clone(),
        init: pack_process(&state.init, bag)?,
        execs,
        claimed: state.claimed,
        adopted: state.adopted,
        paused: state.paused,
        checkpoint: state.checkpoint.clone(),
        mounted: state.mounted,
    })
}

fn pack_process(process: &Process, bag: &mut Bag) -> io::Result<HeldProcess> {
    if matches!(process.phase, Phase::Starting(_)) {
        return Err(io::Error::other("a process is being started"));
    }
    Ok(HeldProcess {
        phase: process.phase,
        pid: process.pid,
        handle: bag.put_some(process.handle.as_deref())?,
        io: process.io.clone(),
        kept: process.kept.as_ref().map(|kept| kept.pack(bag)).transpose()?,
        waiters: process.waiters.clone(),
        spec: process.spec.clone(),
        connection: bag.put_some(process.connection.as_deref())?,
    })
}

fn unpack(held: HeldContainer, children: &Children) -> io::Result<Arc<Container>> {
    let init = unpack_process(held.init, children)?;
    let mut execs = BTreeMap::new();
    for (id, process) in held.execs {
        execs.insert(id, unpack_process(process, children)?);
    }
    let container = Container::new(held.record, init, held.claimed);
    let mut state = container.state();
    state.execs = execs;
    state.adopted = held.adopted;
    state.paused = held.paused;
    state.checkpoint = held.checkpoint;
    state.mounted = held.mounted;
    drop(state);
    Ok(container)
}

fn unpack_process(held: HeldProcess, children: &Children) -> io::Result<Process> {
    let handle = held.handle.map(Fd::take).transpose()?;
    let connection = held.connection.map(Fd::take).transpose()?;
    Ok(Process {
        phase: held.phase,
        pid: held.pid,
        handle: handle.map(|fd| Arc::new(Handle::from(fd))),
        io: held.io,
        kept: held.kept.map(|kept| kept.unpack(children)).transpose()?,
        waiters: held.waiters,
        spec: held.spec,
        connection: connection.map(|fd| Arc::new(Connection::from(fd))),
    })
}
