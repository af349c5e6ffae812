//! What a container can do that holds its FIFO itself. Its own log may suffer; the pump and other logs do not.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{COMPLETE, Container, LONG, Pump, numbered, wait_for};

/// Runs `attack` in a loop for a while beside a container that writes line after line, and asserts that the other one
/// gets all its lines, in order and soon, and that the pump sleeps once it is over.
fn beside_a_victim(attack: impl Fn(&Container, &mut File) + Sync) -> (Pump, Container) {
    let pump = Pump::start();
    let (hostile, victim) = (pump.container(), pump.container());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut out = hostile.shim("out");
            fcntl(&out, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
            while !over.load(Ordering::Relaxed) {
                attack(&hostile, &mut out);
            }
        });
        let mut out = victim.shim("out");
        for line in numbered(0..1000) {
            writeln!(out, "{line}").unwrap();
            thread::sleep(Duration::from_micros(200));
        }
        wait_for("the victim's lines", || victim.count() == 1000);
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(victim.texts(), numbered(0..1000));
    wait_for("quiet", || {
        let before = pump.awoken();
        thread::sleep(Duration::from_millis(50));
        pump.awoken() == before
    });
    let cpu = pump.cpu();
    thread::sleep(Duration::from_millis(300));
    assert!(pump.cpu() - cpu <= 2, "the pump spins");
    (pump, hostile)
}

#[test]
fn a_container_that_reads_its_own_output_harms_only_its_log_and_is_counted() {
    let (pump, hostile) = beside_a_victim(|_, out| {
        for _ in 0..50 {
            let _ = out.write(b"some line\nand half");
        }
        let _ = out.read(&mut [0; 333]);
    });
    let missing = pump.client.list().unwrap()[0].streams[0].missing;
    println!("{missing} bytes missing");
    assert_eq!(pump.client.drain(&hostile.id, LONG).unwrap(), COMPLETE);
    assert!(hostile.count() > 0);
}

#[test]
fn a_container_in_packet_mode_harms_only_its_log() {
    let (pump, hostile) = beside_a_victim(|_, out| {
        fcntl(&*out, FcntlArg::F_SETFL(OFlag::O_DIRECT | OFlag::O_NONBLOCK)).unwrap();
        let _ = out.write(b"some line\nand half");
        let _ = out.write(&[b'x'; 4000]);
    });
    assert_eq!(pump.client.drain(&hostile.id, LONG).unwrap(), COMPLETE);
    assert!(hostile.count() > 0);
}

#[test]
fn a_container_that_resizes_and_reopens_its_pipe_harms_nobody() {
    let (pump, hostile) = beside_a_victim(|hostile, out| {
        for size in [4096, 1 << 20, 65536] {
            let _ = fcntl(&*out, FcntlArg::F_SETPIPE_SZ(size));
            let _ = out.write(&[b'y'; 3000]);
            // By name here, by /proc/self/fd/1 there: one more writer, and a last one that leaves.
            let mut again = hostile.shim("out");
            fcntl(&again, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
            let _ = again.write(b"\nagain\n");
            thread::sleep(Duration::from_micros(100));
        }
    });
    assert_eq!(pump.client.drain(&hostile.id, LONG).unwrap(), COMPLETE);
    assert!(hostile.texts().iter().any(|text| text == "again"));
}

#[test]
fn a_fifo_made_smaller_or_larger_by_its_writer_does_not_stand_still() {
    for size in [4096, 1 << 20] {
        let pump = Pump::start();
        let container = pump.container();
        let mut out = container.shim("out");
        assert!(fcntl(&out, FcntlArg::F_SETPIPE_SZ(size)).unwrap() >= size);
        let text = "z".repeat(100_000);
        // Slots of their own for each byte, and no newline.
        fcntl(&out, FcntlArg::F_SETFL(OFlag::O_DIRECT)).unwrap();
        (0..2000).for_each(|_| out.write_all(b"w").unwrap());
        fcntl(&out, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        out.write_all(text.as_bytes()).unwrap();
        drop(out);
        assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
        assert_eq!(container.texts().concat(), "w".repeat(2000) + &text);
        assert!(container.records().iter().rev().skip(1).all(|record| record.1 == "P"));
    }
}

#[test]
fn a_container_that_makes_its_fifo_unreadable_is_read_by_the_next_pump() {
    let mut pump = Pump::start();
    let container = pump.container();
    let mut out = container.shim("out");
    std::os::unix::fs::fchown(&out, Some(4711), Some(4711)).unwrap();
    out.set_permissions(std::fs::Permissions::from_mode(0o000)).unwrap();
    pump.kill();
    writeln!(out, "line").unwrap();
    pump.start_again();
    wait_for("the line", || container.count() == 1);
    write!(out, "unfinished").unwrap();
    drop(out);
    assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
    assert_eq!(container.texts(), ["line", "unfinished"]);
}

#[test]
fn a_fifo_full_of_tiny_packets_does_not_stand_still() {
    let pump = Pump::start();
    let container = pump.container();
    // Packets are not merged (pipe(7), O_DIRECT): 64 of them fill 64 slots, with 64 bytes.
    let mut out = OpenOptions::new().write(true).open(container.dir.join("out")).unwrap();
    fcntl(&out, FcntlArg::F_SETFL(OFlag::O_DIRECT)).unwrap();
    for _ in 0..1000 {
        out.write_all(b"x").unwrap();
    }
    drop(out);
    assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
    assert_eq!(container.texts().concat(), "x".repeat(1000));
    assert_eq!(container.records().last().unwrap().1, "F");
}
