//! One open container in the pump: its FIFOs, its log, and what stands in their way.

use std::time::{Duration, Instant};

use super::journal::Entry;
use super::line::Output;
use super::protocol::{Drained, Open, Status, StreamStatus};
use super::report;
use super::stream::{Bench, Stream, Turn};
use super::writer::LogFile;
use crate::model::causes;

/// The pause after a write that failed: the first, and the longest after repeated doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The most turns that a container which is to be forgotten gets at once: some megabytes, should it still write.
const LAST_TURNS: usize = 64;

#[derive(Debug)]
pub struct Container {
    pub open: Open,
    pub streams: Vec<Stream>,
    pub drain: Option<Drain>,
    log: Option<LogFile>,
    stuck: Option<Stuck>,
    failures: u64,
    /// An output could not be read, and that was reported.
    unreadable: bool,
}

/// Somebody waits for the container's end.
#[derive(Debug)]
pub struct Drain {
    pub deadline: Instant,
    /// The connections to answer.
    pub waiters: Vec<u64>,
}

/// The log cannot be written.
#[derive(Debug)]
struct Stuck {
    reason: String,
    /// None while a new try is under way.
    retry_at: Option<Instant>,
    pause: Duration,
    failures_before: u64,
}

impl Container {
    /// Opens all of it, or nothing; an error names the path.
    pub fn open(open: Open) -> Result<Self, String> {
        let paths = [
            (Output::Stdout, Some(&open.stdout)),
            (Output::Stderr, open.stderr.as_ref()),
        ];
        let mut streams = Vec::new();
        for (output, path) in paths {
            let Some(path) = path else { continue };
            let cannot = |error| {
                format!(
                    "cannot open {} of the container, {}: {error}",
                    output.as_str(),
                    path.display()
                )
            };
            streams.push(Stream::open(path, &open.id, output).map_err(cannot)?);
        }
        let log = open.log_path.as_deref().map(LogFile::open);
        let log = log.transpose().map_err(|error| causes(&error))?;
        Ok(Self {
            open,
            streams,
            drain: None,
            log,
            stuck: None,
            failures: 0,
            unreadable: false,
        })
    }

    /// Finishes the turn in which the last pump died, if it was one of this container.
    pub fn resume(&mut self, entry: &Entry, bench: &mut Bench) {
        let Some(log) = self.log.as_ref().filter(|_| entry.id == self.open.id) else {
            return;
        };
        for stream in self.streams.iter_mut().filter(|it| it.output() == entry.output) {
            match stream.resume(bench, log, entry) {
                Ok(false) => {}
                Ok(true) => report(&format!("container {}: its last turn is finished", self.open.id)),
                Err(error) => report(&format!("container {}: lines may be repeated: {error}", self.open.id)),
            }
        }
    }

    /// One turn of one stream. True when there may be more to do at once.
    pub fn turn(&mut self, stream: usize, bench: &mut Bench, now: Instant) -> bool {
        if self.retry_at().is_some_and(|at| now < at) {
            return false;
        }
        match self.streams[stream].turn(bench, self.log.as_mut()) {
            Ok(Turn::Idle) => false,
            Ok(Turn::More) => {
                self.written();
                true
            }
            Ok(Turn::Stuck(error)) => {
                self.failed(causes(&error), now);
                false
            }
            Err(error) => {
                // Once: the container may be able to bring this about as often as it likes.
                if !std::mem::replace(&mut self.unreadable, true) {
                    let output = self.streams[stream].output().as_str();
                    report(&format!("container {}: cannot read {output}: {error}", self.open.id));
                }
                false
            }
        }
    }

    /// When a log that could not be written is to be tried again.
    pub fn retry_at(&self) -> Option<Instant> {
        self.stuck.as_ref()?.retry_at
    }

    /// Lets the next turn try a log again that could not be written.
    pub fn retry(&mut self) {
        if let Some(stuck) = &mut self.stuck {
            stuck.retry_at = None;
        }
    }

    pub fn reopen(&mut self) -> Result<(), String> {
        let log = self.log.as_mut().ok_or("the container has no log file")?;
        log.reopen().map_err(|error| causes(&error))
    }

    /// Every output came to its end and is in the log.
    pub fn ended(&self) -> bool {
        self.streams.iter().all(Stream::ended)
    }

    /// Makes the kernel tell us of outputs that nobody writes any more.
    pub fn rouse(&self) {
        for stream in self.streams.iter().filter(|stream| !stream.ended()) {
            if let Err(error) = stream.rouse() {
                let output = stream.output().as_str();
                report(&format!("container {}: cannot rouse {output}: {error}", self.open.id));
            }
        }
    }

    /// Writes what is there, as if it were the end, and says whether it was.
    pub fn finish(mut self, bench: &mut Bench) -> Drained {
        self.stuck = None;
        for stream in 0..self.streams.len() {
            self.streams[stream].hang_up(true);
            let now = Instant::now();
            let _ = (0..LAST_TURNS).find(|_| !self.turn(stream, bench, now));
        }
        let live = self.streams.iter().find(|stream| !stream.ended());
        let reason = live.map(|stream| match &self.stuck {
            Some(stuck) => stuck.reason.clone(),
            None => format!("{} is still open for writing", stream.output().as_str()),
        });
        if let Some(reason) = &reason {
            report(&format!("container {}: closed before its end: {reason}", self.open.id));
        }
        Drained {
            complete: reason.is_none(),
            reason,
        }
    }

    pub fn status(&self) -> Status {
        let stream = |stream: &Stream| StreamStatus {
            output: stream.output(),
            taken: stream.taken(),
            missing: stream.missing(),
            ended: stream.ended(),
        };
        Status {
            open: self.open.clone(),
            streams: self.streams.iter().map(stream).collect(),
            stuck: self.stuck.as_ref().map(|stuck| stuck.reason.clone()),
            failures: self.failures,
        }
    }

    fn failed(&mut self, reason: String, now: Instant) {
        let (pause, failures_before) = match &self.stuck {
            Some(stuck) => ((stuck.pause * 2).min(LONGEST_PAUSE), stuck.failures_before),
            None => {
                report(&format!("container {} has to wait: {reason}", self.open.id));
                (FIRST_PAUSE, self.failures)
            }
        };
        self.failures += 1;
        self.stuck = Some(Stuck {
            reason,
            retry_at: Some(now + pause),
            pause,
            failures_before,
        });
    }

    fn written(&mut self) {
        if let Some(stuck) = self.stuck.take() {
            let failures = self.failures - stuck.failures_before;
            report(&format!(
                "container {}: written again after {failures} failures",
                self.open.id
            ));
        }
    }
}
