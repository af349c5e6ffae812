//! The threads that enter namespaces to make sockets there: long-lived, so that a check costs no thread.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
use tokio::sync::{mpsc, oneshot};

/// A socket takes some ten microseconds; one thread makes thousands a second, the other is there when one is slow.
const THREADS: usize = 2;

/// Who finds it full waits.
const QUEUE: usize = 64;

/// As a kubelet's probes have it. See [`super::Connection`] for why nobody waits for it.
const LINGER: libc::linger = libc::linger {
    l_onoff: 1,
    l_linger: 1,
};

struct Job {
    net: PathBuf,
    address: SocketAddr,
    answer: oneshot::Sender<io::Result<OwnedFd>>,
}

#[derive(Debug, Clone)]
pub struct Sockets(mpsc::Sender<Job>);

impl Sockets {
    pub fn start() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let jobs = Arc::new(Mutex::new(receiver));
        for _ in 0..THREADS {
            let (jobs, home) = (Arc::clone(&jobs), File::open("/proc/thread-self/ns/net")?);
            thread::Builder::new()
                .name("sockets".into())
                .spawn(move || work(&jobs, &home))?;
        }
        Ok(Self(sender))
    }

    /// A socket for connecting to `address`, made in the namespace pinned at `net`.
    pub async fn make_in(&self, net: &Path, address: SocketAddr) -> io::Result<OwnedFd> {
        let (answer, answered) = oneshot::channel();
        let job = Job {
            net: net.to_owned(),
            address,
            answer,
        };
        let gone = || io::Error::other("the threads that make sockets have ended");
        self.0.send(job).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

fn work(jobs: &Mutex<mpsc::Receiver<Job>>, home: &File) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(job) = job else { return };
        if job.answer.is_closed() {
            continue;
        }
        let made = File::open(&job.net)
            .and_then(|net| Ok(setns(net, CloneFlags::CLONE_NEWNET)?))
            .and_then(|()| make(job.address));
        // To stay would keep the namespace alive, nothing more: every job enters its own.
        if let Err(error) = setns(home, CloneFlags::CLONE_NEWNET) {
            tracing::warn!(%error, "a thread cannot leave a pod's network namespace");
        }
        // Who has gone drops the socket.
        let _ = job.answer.send(made);
    }
}

/// A socket for connecting to `address` in the calling thread's namespace.
pub fn make(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&made, sockopt::Linger, &LINGER)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[test]
    fn so_linger_is_1_s() {
        let made = make("127.0.0.1:1".parse().unwrap()).unwrap();
        let linger = getsockopt(&made, sockopt::Linger).unwrap();
        assert_eq!((linger.l_onoff, linger.l_linger), (1, 1));
    }
}
