//! containerd's Task service, version 2 and 3 (they differ in name only): which verb answers a call, and whether it may
//! do so on the main loop.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;

use super::container::Waiter;
use super::core::Shim;
use super::create::PATIENCE;
use crate::proto::shim::task;
use crate::ttrpc::{Call, Code, Status};

const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// How many calls of one connection may be under way that take their time. containerd has a connection for each task.
const MAX_UNDERWAY: usize = 1024;

/// Answers a call of `connection`, now or later.
pub fn take(shim: &Arc<Shim>, connection: u64, call: Call) {
    let stream = call.stream;
    if let Some(answer) = route(shim, connection, call) {
        shim.outbox.answer(connection, stream, answer);
    }
}

/// The answer; None: it comes later.
fn route(shim: &Arc<Shim>, connection: u64, call: Call) -> Option<Result<Vec<u8>, Status>> {
    if !SERVICES.contains(&call.service.as_str()) {
        let message = format!("there is no service {:?} here", call.service);
        return Some(Err(Status::new(Code::Unimplemented, message)));
    }
    let to = Waiter {
        connection,
        stream: call.stream,
    };
    match call.method.as_str() {
        "State" => quick(&call, |request| shim.state(&request)),
        "Kill" => quick(&call, |request| shim.kill(&request)),
        "Exec" => quick(&call, |request| shim.exec(request)),
        "CloseIO" => quick(&call, |request| shim.close_io(&request)),
        "ResizePty" => quick(&call, |request| shim.resize_pty(&request)),
        "Connect" => quick(&call, |request| shim.connect(&request)),
        // It leaves by itself when it holds nothing; until then other tasks may be its.
        "Shutdown" => quick(&call, |_: task::ShutdownRequest| Ok(())),
        "Wait" => match call.decode().and_then(|request| shim.wait(&request, to)) {
            Ok(None) => None,
            Ok(Some(ended)) => Some(Ok(ended)),
            Err(status) => Some(Err(status)),
        },
        "Create" => create(shim, to, &call),
        "Start" => slow(shim, to, &call, |shim, request, patience| shim.start(request, patience)),
        "Delete" => match call.decode::<task::DeleteRequest>() {
            Ok(request) => {
                let asked = (request, shim.making.latest());
                later(shim, to, &call, asked, |shim, (request, latest), patience| {
                    shim.delete(&request, latest, patience)
                })
            }
            Err(status) => Some(Err(status)),
        },
        "Pause" => slow(shim, to, &call, |shim, request, patience| {
            shim.pause(&request, patience)
        }),
        "Resume" => slow(shim, to, &call, |shim, request, patience| {
            shim.resume(&request, patience)
        }),
        "Update" => slow(shim, to, &call, |shim, request, patience| {
            shim.update(&request, patience)
        }),
        "Pids" => slow(shim, to, &call, |shim, request, _| shim.pids(&request)),
        "Stats" => slow(shim, to, &call, |shim, request, _| shim.stats(&request)),
        "Checkpoint" => Some(Err(Status::new(Code::Unimplemented, "checkpoints are not made"))),
        other => Some(Err(Status::new(
            Code::Unimplemented,
            format!("there is no method {other:?} here"),
        ))),
    }
}

/// A creation is under way from now on, not from when its turn comes: a Delete may be next.
fn create(shim: &Arc<Shim>, to: Waiter, call: &Call) -> Option<Result<Vec<u8>, Status>> {
    let request = match call.decode::<task::CreateTaskRequest>() {
        Ok(request) => request,
        Err(status) => return Some(Err(status)),
    };
    let id = request.id.clone();
    let making = shim.making.begin(&id);
    let answer = later(
        shim,
        to,
        call,
        (request, making),
        |shim, (request, making), patience| {
            let id = request.id.clone();
            let made = shim.create(request, patience);
            shim.making.end(&id, making);
            made
        },
    );
    if answer.is_some() {
        // It was refused, and has no turn.
        shim.making.end(&id, making);
    }
    answer
}

/// Answered at once: it looks at what is known, or makes a system call.
fn quick<Q: Message + Default, A: Message>(
    call: &Call,
    verb: impl FnOnce(Q) -> Result<A, Status>,
) -> Option<Result<Vec<u8>, Status>> {
    Some(call.decode().and_then(verb).map(|answer| answer.encode_to_vec()))
}

/// Answered by a job.
fn slow<Q: Message + Default + 'static, A: Message + 'static>(
    shim: &Arc<Shim>,
    to: Waiter,
    call: &Call,
    verb: fn(&Arc<Shim>, Q, Duration) -> Result<A, Status>,
) -> Option<Result<Vec<u8>, Status>> {
    match call.decode() {
        Ok(request) => later(shim, to, call, request, verb),
        Err(status) => Some(Err(status)),
    }
}

/// The same, of a request that was looked at already.
fn later<Q: Send + 'static, A: Message + 'static>(
    shim: &Arc<Shim>,
    to: Waiter,
    call: &Call,
    request: Q,
    verb: fn(&Arc<Shim>, Q, Duration) -> Result<A, Status>,
) -> Option<Result<Vec<u8>, Status>> {
    if !shim.begin_call(to.connection, MAX_UNDERWAY) {
        let message = format!("{MAX_UNDERWAY} calls of this connection are under way already");
        return Some(Err(Status::new(Code::ResourceExhausted, message)));
    }
    let patience = call.timeout.map_or(PATIENCE, |timeout| timeout.min(PATIENCE));
    let worker = Arc::clone(shim);
    shim.jobs.run(move || {
        let answer = verb(&worker, request, patience).map(|answer| answer.encode_to_vec());
        worker.end_call(to.connection);
        worker.outbox.answer(to.connection, to.stream, answer);
    });
    None
}
