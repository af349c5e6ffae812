//! Much output, many containers, full disks: memory stays flat and nobody waits for another.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use berth::logs;

use super::{COMPLETE, LONG, Pump, numbered, wait_for};

#[test]
fn a_thousand_quiet_containers_need_little_memory_and_one_more_is_served_at_once() {
    let pump = Pump::start();
    let before = pump.resident();
    let containers: Vec<_> = (0..500).map(|_| pump.container()).collect();
    let shims: Vec<_> = containers.iter().map(|c| (c.shim("out"), c.shim("err"))).collect();
    let opened = pump.resident();
    for (mut out, mut err) in shims {
        writeln!(out, "hello").unwrap();
        writeln!(err, "hello").unwrap();
    }
    for container in &containers {
        assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
        assert_eq!(container.texts(), ["hello", "hello"]);
    }
    let after = pump.resident();
    println!("1000 FIFOs: {before} KiB, open {opened} KiB, used and closed {after} KiB");
    assert!(
        opened < before + 2048 && after < before + 2048,
        "{before} {opened} {after}"
    );
}

#[test]
fn two_hundred_megabytes_among_a_thousand_quiet_containers_do_not_grow_the_pump_nor_keep_others_waiting() {
    const MEGABYTES: usize = 200;
    logs::allow_many_descriptors().unwrap();
    let pump = Pump::start();
    let (loud, quiet) = (pump.container(), pump.container());
    let crowd: Vec<_> = (0..1000).map(|_| pump.container()).collect();
    let _held: Vec<_> = crowd.iter().map(|it| (it.shim("out"), it.shim("err"))).collect();
    let mut quiet_out = quiet.shim("out");
    writeln!(quiet_out, "warm").unwrap();
    wait_for("the first line", || quiet.count() == 1);
    let before = pump.resident();

    let mut out = loud.shim("out");
    let begun = Instant::now();
    let writer = thread::spawn(move || {
        let chunk = format!("{}\n", "x".repeat(127)).repeat(256);
        for _ in 0..MEGABYTES * 32 {
            out.write_all(chunk.as_bytes()).unwrap();
        }
    });
    let (mut largest, mut longest, mut lines) = (0, Duration::ZERO, 1);
    while !writer.is_finished() {
        let asked = Instant::now();
        writeln!(quiet_out, "quiet").unwrap();
        lines += 1;
        wait_for("the quiet line", || quiet.count() == lines);
        longest = longest.max(asked.elapsed());
        largest = largest.max(pump.resident());
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(pump.client.drain(&loud.id, LONG).unwrap(), COMPLETE);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{:.0} MB/s; {before} KiB before, at most {largest} KiB; a quiet container waited at most {longest:?}",
        MEGABYTES as f64 * 1.048_576 / seconds
    );
    let length = fs::metadata(loud.log()).unwrap().len();
    assert_eq!(
        length,
        MEGABYTES as u64 * 32 * 256 * (30 + " stdout F ".len() as u64 + 128)
    );
    assert!(largest < before + 2048, "{before} KiB grew to {largest} KiB");
}

#[test]
fn on_a_full_disk_the_container_waits_and_nothing_is_lost_or_repeated() {
    let pump = Pump::start();
    let container = pump.container();
    pump.client.close(&container.id).unwrap();
    let disk = SmallDisk::mount(container.dir.join("logs"), "256k");
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![0; 192 * 1024]).unwrap();
    pump.client.open(&container.open()).unwrap();

    let mut out = container.shim("out");
    let writer = thread::spawn(move || {
        numbered(0..3000)
            .iter()
            .for_each(|line| writeln!(out, "{line}").unwrap())
    });
    let status = || pump.client.list().unwrap().remove(0);
    wait_for("the full disk", || status().failures > 1);
    let stuck = status().stuck.unwrap();
    assert!(
        stuck.contains("No space left") && stuck.contains(container.log().to_str().unwrap()),
        "{stuck}"
    );
    let texts = container.texts();
    assert_eq!(texts, numbered(0..texts.len()), "what is there is whole");

    fs::remove_file(&ballast).unwrap();
    writer.join().unwrap();
    assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
    assert_eq!(container.texts(), numbered(0..3000));
}

#[test]
fn draining_onto_a_full_disk_gives_up_in_time_and_says_why() {
    let pump = Pump::start();
    let container = pump.container();
    pump.client.close(&container.id).unwrap();
    let _disk = SmallDisk::mount(container.dir.join("logs"), "16k");
    pump.client.open(&container.open()).unwrap();
    let mut out = container.shim("out");
    numbered(0..600)
        .iter()
        .for_each(|line| writeln!(out, "{line}").unwrap());
    drop(out);
    let drained = pump.client.drain(&container.id, Duration::from_millis(300)).unwrap();
    assert!(!drained.complete && drained.reason.unwrap().contains("No space left"));
}

/// A tmpfs for as long as the value lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Self {
        let options = format!("size={size}");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &at, Some("tmpfs"), flags, Some(options.as_str())).unwrap();
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
