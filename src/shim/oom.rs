//! When the kernel kills for memory in a container.
//!
//! Version 2 notifies a change of `memory.events`, which counts the kills. Version 1 notifies by an eventfd that a group
//! is **about** to be out of memory: before the kill is counted, in all groups below the one whose limit it is, and once
//! more when the group is removed (cgroup-v1/memory.rst of the kernel, section 9). So there, the count is looked at for a
//! second before a notice is taken for nothing.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::cgroups::Cgroups;
use crate::sys::cgroup::{oom_kill_line, read_if_there};

/// How often the count is looked at after a notice of version 1, and how many times.
const LOOK: Duration = Duration::from_millis(20);
const LOOKS: u32 = 50;

/// What a wake-up meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fired {
    /// Something was killed since the last one.
    Oom,
    Nothing,
    /// The group is gone: the watch is of no more use.
    Gone,
}

/// A watch over one container. Its descriptor is readable when [`Watch::fired`] is to be called.
#[derive(Debug)]
pub struct Watch {
    source: Source,
    /// Where the kills are counted.
    file: PathBuf,
    /// How many were told.
    kills: u64,
}

#[derive(Debug)]
enum Source {
    V1 {
        /// Of the two others.
        either: Epoll,
        notice: EventFd,
        /// There while looks are left.
        looking: Option<(TimerFd, u32)>,
    },
    V2(Inotify),
}

impl Watch {
    /// Watches the memory controller's group from now on. None: the container has none.
    pub fn start(cgroups: &Cgroups) -> io::Result<Option<Self>> {
        let Some(group) = cgroups.with("memory") else {
            return Ok(None);
        };
        let (file, source) = match cgroups {
            Cgroups::V1 { .. } => {
                let file = group.join("memory.oom_control");
                let notice = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
                let control = File::open(&file)?;
                let (event, of) = (notice.as_fd().as_raw_fd(), control.as_raw_fd());
                fs::write(group.join("cgroup.event_control"), format!("{event} {of}"))?;
                let either = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
                either.add(&notice, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
                let looking = None;
                (
                    file,
                    Source::V1 {
                        either,
                        notice,
                        looking,
                    },
                )
            }
            Cgroups::V2 { .. } => {
                let file = group.join("memory.events");
                let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
                inotify.add_watch(&file, AddWatchFlags::IN_MODIFY)?;
                (file, Source::V2(inotify))
            }
        };
        let mut watch = Self { source, file, kills: 0 };
        watch.kills = watch.count()?.flatten().unwrap_or(0);
        Ok(Some(watch))
    }

    /// How many kills were told so far.
    pub fn told(&self) -> u64 {
        self.kills
    }

    /// The next [`Watch::fired`] also tells kills of before the watch started, but for the first `told`.
    pub fn after(self, told: u64) -> Self {
        Self { kills: told, ..self }
    }

    /// What happened. Does not block.
    pub fn fired(&mut self) -> io::Result<Fired> {
        let noticed = self.source.drain()?;
        let fired = match self.count()? {
            None => Fired::Gone,
            Some(Some(kills)) if kills > self.kills => {
                self.kills = kills;
                Fired::Oom
            }
            Some(Some(_)) => Fired::Nothing,
            // A kernel that does not count: the notice is all there is.
            Some(None) if noticed => Fired::Oom,
            Some(None) => Fired::Nothing,
        };
        if let Source::V1 { either, looking, .. } = &mut self.source {
            match fired {
                Fired::Nothing if noticed => *looking = Some((look(either)?, LOOKS)),
                Fired::Nothing => {}
                Fired::Oom | Fired::Gone => *looking = None,
            }
        }
        Ok(fired)
    }

    /// How many were killed. The outer None: the group is gone; the inner: the kernel does not count.
    fn count(&self) -> io::Result<Option<Option<u64>>> {
        Ok(read_if_there(&self.file)?.map(|text| oom_kill_line(&text)))
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V1 { either, .. } => either.0.as_fd(),
            Source::V2(inotify) => inotify.as_fd(),
        }
    }
}

impl Source {
    /// Empties it. Whether the kernel has given notice.
    fn drain(&mut self) -> io::Result<bool> {
        match self {
            Self::V1 { notice, looking, .. } => {
                if let Some((timer, left)) = looking {
                    // It has not to have expired: then this is the notice's wake-up.
                    if waiting(timer.wait())?.is_some() {
                        *left -= 1;
                    }
                    if *left == 0 {
                        *looking = None;
                    }
                }
                Ok(waiting(notice.read())?.is_some())
            }
            Self::V2(inotify) => {
                let mut noticed = false;
                while waiting(inotify.read_events())?.is_some_and(|events| !events.is_empty()) {
                    noticed = true;
                }
                Ok(noticed)
            }
        }
    }
}

/// None when a read would have to wait.
fn waiting<T>(read: nix::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// A timer that `either` wakes for until it is dropped.
fn look(either: &Epoll) -> io::Result<TimerFd> {
    let timer = TimerFd::new(
        ClockId::CLOCK_MONOTONIC,
        TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
    )?;
    timer.set(Expiration::Interval(LOOK.into()), TimerSetTimeFlags::empty())?;
    either.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
    Ok(timer)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::Instant;

    use nix::poll::{PollFd, PollFlags, PollTimeout};

    use super::super::cgroups::tests::Groups;
    use super::*;

    /// What it says until it says something, or nothing for `time`.
    fn wait(watch: &mut Watch, time: Duration) -> Fired {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut polled = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap();
            if nix::poll::poll(&mut polled, timeout).unwrap() == 0 {
                return Fired::Nothing;
            }
            match watch.fired().unwrap() {
                Fired::Nothing => {}
                fired => return fired,
            }
        }
    }

    const LONG: Duration = Duration::from_secs(10);
    const SHORT: Duration = Duration::from_millis(1500);
    /// Grows by a line that never ends.
    const EAT: &str = "tail /dev/zero || true";

    #[test]
    fn each_kill_for_memory_is_told_once_and_the_groups_end_is_none() {
        let mut groups = Groups::new();
        groups.limit(8 << 20);
        let cgroups = groups.run(&format!("{EAT}; sleep 3; {EAT}; exec sleep 60"));
        let mut watch = Watch::start(&cgroups).unwrap().unwrap();
        assert_eq!(wait(&mut watch, LONG), Fired::Oom);
        assert_eq!(wait(&mut watch, SHORT), Fired::Nothing);
        assert_eq!(wait(&mut watch, LONG), Fired::Oom);
        drop(groups);
        // Version 2 may not wake at all.
        let gone = wait(&mut watch, SHORT);
        assert!(gone == Fired::Gone || matches!(cgroups, Cgroups::V2 { .. }), "{gone:?}");
        assert_eq!(watch.fired().unwrap(), Fired::Gone);
    }

    #[test]
    fn a_kill_for_memory_above_is_not_told_to_a_group_that_lost_nobody() {
        let pod = Groups::new();
        pod.limit(16 << 20);
        let mut quiet = pod.below("quiet");
        let mut watch = Watch::start(&quiet.run("exec sleep 60")).unwrap().unwrap();
        let mut greedy = pod.below("greedy");
        let mut told = Watch::start(&greedy.run(&format!("sleep 1; {EAT}; exec sleep 60")))
            .unwrap()
            .unwrap();
        assert_eq!(wait(&mut told, LONG), Fired::Oom);
        assert_eq!(wait(&mut watch, SHORT), Fired::Nothing);
        drop((quiet, greedy));
        assert_eq!(wait(&mut watch, SHORT), Fired::Gone);
    }

    /// A plain file notifies as that of version 2 does, which this host may not have.
    #[test]
    fn version_2_tells_a_kill_when_its_count_has_risen() {
        let directory = tempfile::tempdir().unwrap();
        let group = directory.path().to_owned();
        let write = |text: &str| fs::write(group.join("memory.events"), text).unwrap();
        write("max 5\noom 1\noom_kill 1\n");
        let mut watch = Watch::start(&Cgroups::V2 { group: group.clone() }).unwrap().unwrap();
        assert_eq!(wait(&mut watch, Duration::from_millis(50)), Fired::Nothing);
        write("max 9\noom 2\noom_kill 1\n");
        assert_eq!(wait(&mut watch, Duration::from_millis(50)), Fired::Nothing);
        write("max 9\noom 2\noom_kill 2\n");
        assert_eq!(wait(&mut watch, LONG), Fired::Oom);
        drop(directory);
        assert_eq!(watch.fired().unwrap(), Fired::Gone);
    }

    #[test]
    fn without_a_memory_controller_there_is_nothing_to_watch() {
        let cgroups = Cgroups::V1 {
            groups: [("cpu".to_owned(), PathBuf::from("/nowhere"))].into(),
            unified: None,
        };
        assert!(Watch::start(&cgroups).unwrap().is_none());
        let gone = Cgroups::V2 {
            group: "/nowhere".into(),
        };
        assert_eq!(Watch::start(&gone).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
