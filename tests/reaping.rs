//! A process that reaps: its own helpers in passing, and orphans that it inherits with their exits told. In a process of
//! its own, as it takes every child there is.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use berth::sys::children::{Children, Dead, bury};
use berth::sys::process::{self, Handle};

const SOON: Duration = Duration::from_secs(20);

fn next(children: &Children) -> Dead {
    let begin = Instant::now();
    loop {
        if let Some(dead) = children.next_dead().unwrap() {
            return dead;
        }
        assert!(begin.elapsed() < SOON, "nobody died");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts a helper that leaves an orphan behind, which runs `script`, and answers its pid.
fn orphan(children: &Children, script: &str) -> u32 {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    // Not before its parent is gone: a shell may reap a child that ends at once.
    let patience = "while kill -0 $$ 2>/dev/null; do sleep 0.01; done";
    let script = format!("({patience}; {script}) & echo $! > {}", path.display());
    let helper = children.spawn(Command::new("/bin/sh").args(["-c", &script])).unwrap();
    let begin = Instant::now();
    while helper.wait(Duration::from_millis(2)).is_err() {
        assert!(begin.elapsed() < SOON);
        // An orphan may be dead already, and stays one until it is buried.
        children.next_dead().unwrap();
    }
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

#[test]
fn orphans_are_told_with_their_true_codes_and_stay_until_they_are_buried() {
    process::become_subreaper().unwrap();
    let children = Children::default();
    assert_eq!(children.next_dead().unwrap(), None, "no children at all");
    for (script, code) in [("exit 9", 9), ("kill -TERM $(cut -d' ' -f4 /proc/self/stat)", 143)] {
        let pid = orphan(&children, script);
        let dead = next(&children);
        assert_eq!((dead.pid, dead.code), (pid, code), "{script}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        assert!(now - u128::try_from(dead.at).unwrap() < SOON.as_nanos());
        assert_eq!(
            children.next_dead().unwrap().map(|dead| dead.pid),
            Some(pid),
            "asked again"
        );
        assert!(process::is_child(pid) && process::is_zombie(pid));

        // A zombie that waits for its burial keeps no helper's waiter waiting.
        let helper = children.spawn(&mut Command::new("/bin/false")).unwrap();
        let begin = Instant::now();
        let exit = loop {
            children.next_dead().unwrap();
            match helper.wait(Duration::from_millis(2)) {
                Ok(code) => break code,
                Err(_) => assert!(begin.elapsed() < SOON),
            }
        };
        assert_eq!(exit, 1);

        let handle = Handle::open(pid).unwrap();
        assert_eq!(handle.exit_info().unwrap(), Some(code));
        bury(pid).unwrap();
        assert!(bury(pid).is_err());
        assert_eq!(children.next_dead().unwrap(), None);
        assert!(
            matches!(handle.exit_info().unwrap(), Some(exit) if exit == code) || handle.exit_info().unwrap().is_none()
        );
    }
}
