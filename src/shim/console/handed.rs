//! Terminals that another program goes on with ([`crate::shim::handover`]).

use std::fs::File;
use std::io;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::copy::Copier;
use super::{Consoles, State};
use crate::shim::handover::{Bag, Fd};

/// One terminal.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handed {
    key: String,
    master: Fd,
    stdin: Option<Fd>,
    stdout: Option<Fd>,
    output: Vec<u8>,
    input: Vec<u8>,
    stdin_closing: bool,
    /// Its process has ended: how long it may be silent still.
    linger: Option<Duration>,
}

/// While it lives, nothing is copied.
pub struct Paused<'a>(MutexGuard<'a, State>);

impl Consoles {
    pub fn pause(&self) -> Paused<'_> {
        Paused(self.0.lock())
    }

    /// Goes on with a terminal.
    pub fn resume(&self, handed: Handed) -> io::Result<()> {
        let key = handed.key.clone();
        self.copy(&key, Copier::unpack(handed)?)
    }
}

impl Paused<'_> {
    /// All terminals.
    pub fn pack(&self, bag: &mut Bag) -> io::Result<Vec<Handed>> {
        let numbers = self.0.numbers.iter();
        let open = numbers.filter_map(|(key, number)| Some((key, self.0.terminals.get(number)?)));
        open.map(|(key, terminal)| terminal.pack(key, bag)).collect()
    }
}

impl Copier {
    fn pack(&self, key: &str, bag: &mut Bag) -> io::Result<Handed> {
        Ok(Handed {
            key: key.to_owned(),
            master: bag.put(&self.master)?,
            stdin: bag.put_some(self.stdin.as_ref())?,
            stdout: bag.put_some(self.stdout.as_ref())?,
            output: self.output.clone(),
            input: self.input.clone(),
            stdin_closing: self.stdin_closing,
            linger: self
                .finished
                .map(|until| until.saturating_duration_since(Instant::now())),
        })
    }

    fn unpack(handed: Handed) -> io::Result<Self> {
        let take = |fd: Option<Fd>| fd.map(Fd::take).transpose();
        Ok(Self {
            master: handed.master.take()?.into(),
            stdin: take(handed.stdin)?.map(File::from),
            stdout: take(handed.stdout)?.map(File::from),
            output: handed.output,
            input: handed.input,
            stdin_closing: handed.stdin_closing,
            finished: handed.linger.map(|linger| Instant::now() + linger),
        })
    }
}
