//! The pump's death by SIGKILL: no line is lost, none is repeated, and its successor needs nobody to tell it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use super::{COMPLETE, LONG, Pump, numbered, records, wait_for};

/// Durations up to `below` microseconds, in no order (xorshift).
fn random(below: u64) -> impl Iterator<Item = Duration> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id());
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Duration::from_micros(state % below)
    })
}

#[test]
fn fifty_deaths_at_random_moments_lose_and_repeat_no_line() {
    let mut pump = Pump::start();
    let container = pump.container();
    let (mut out, mut err) = (container.shim("out"), container.shim("err"));
    let done = std::sync::atomic::AtomicBool::new(false);
    let (lines, others) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut lines = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // Single lines, small and large batches: turns of all sizes.
                let batch = numbered(lines..lines + [1, 7, 300][lines % 3]);
                out.write_all((batch.join("\n") + "\n").as_bytes()).unwrap();
                lines += batch.len();
                thread::sleep(Duration::from_micros(50));
            }
            lines
        });
        let same = scope.spawn(|| {
            let mut lines = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // All alike: only their count tells.
                err.write_all(b"again\n").unwrap();
                lines += 1;
                thread::sleep(Duration::from_micros(100));
            }
            lines
        });
        for pause in random(20_000).take(50) {
            thread::sleep(pause);
            pump.kill();
            pump.start_again();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        (writer.join().unwrap(), same.join().unwrap())
    });
    drop((out, err));
    assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
    let (stdout, stderr): (Vec<_>, Vec<_>) = container.records().into_iter().partition(|it| it.0 == "stdout");
    let texts: Vec<_> = stdout.into_iter().map(|it| it.2).collect();
    println!("{lines} and {others} lines");
    assert!(
        texts == numbered(0..lines),
        "{} of {lines} lines, or not in order",
        texts.len()
    );
    assert_eq!(stderr.len(), others);
}

#[test]
fn deaths_under_full_load_and_rotation_lose_and_repeat_no_line() {
    const LINES: usize = 600_000;
    let mut pump = Pump::start();
    let container = pump.container();
    let mut out = container.shim("out");
    let writer = thread::spawn(move || {
        for chunk in numbered(0..LINES).chunks(100) {
            out.write_all((chunk.join("\n") + "\n").as_bytes()).unwrap();
        }
    });
    let mut rotated = Vec::new();
    for pause in random(15_000) {
        if writer.is_finished() {
            break;
        }
        thread::sleep(pause);
        // The kubelet renames before it says so, and the pump may die in between.
        let old = container.dir.join(format!("logs/rotated.{}", rotated.len()));
        fs::rename(container.log(), &old).unwrap();
        rotated.push(old);
        if rotated.len() % 2 == 0 {
            pump.client.reopen(&container.id).unwrap();
        }
        pump.kill();
        pump.start_again();
        wait_for("the log", || container.log().exists());
    }
    writer.join().unwrap();
    assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
    println!("{} deaths", rotated.len());
    rotated.push(container.log());
    let texts: Vec<_> = rotated.iter().flat_map(|log| records(log)).map(|it| it.2).collect();
    assert!(texts == numbered(0..LINES), "{} lines, or not in order", texts.len());
}

#[test]
fn what_a_container_wrote_and_left_while_no_pump_was_there_is_read_and_ended() {
    let mut pump = Pump::start();
    let container = pump.container();
    let mut out = container.shim("out");
    writeln!(out, "line 0").unwrap();
    wait_for("the line", || container.count() == 1);
    pump.kill();
    numbered(1..400)
        .iter()
        .for_each(|line| writeln!(out, "{line}").unwrap());
    write!(out, "line 400").unwrap();
    drop(out);
    pump.start_again();
    wait_for("all lines", || container.count() == 401);
    assert_eq!(container.texts(), numbered(0..401));
    let streams = pump.client.list().unwrap().remove(0).streams;
    wait_for("the end", || {
        pump.client.list().unwrap()[0].streams.iter().all(|it| it.ended)
    });
    assert!(streams.iter().all(|it| it.missing == 0));
    assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
    assert_eq!(container.texts(), numbered(0..401));
}

#[test]
fn a_container_about_to_start_is_not_at_its_end_for_a_new_pump() {
    let mut pump = Pump::start();
    let container = pump.container();
    pump.kill();
    pump.start_again();
    let mut out = container.shim("out");
    write!(out, "unfin").unwrap();
    thread::sleep(Duration::from_millis(50));
    writeln!(out, "ished").unwrap();
    wait_for("the line", || container.count() > 0);
    assert_eq!(container.texts(), ["unfinished"]);
}

#[test]
fn what_was_closed_or_removed_is_not_opened_again() {
    let mut pump = Pump::start();
    let containers = [pump.container(), pump.container(), pump.container()];
    pump.client.close(&containers[0].id).unwrap();
    pump.kill();
    fs::remove_dir_all(&containers[1].dir).unwrap();
    fs::write(pump.dir.path().join("open/garbage.json"), "{").unwrap();
    pump.start_again();
    let open: Vec<_> = pump.client.list().unwrap().into_iter().map(|it| it.open.id).collect();
    assert_eq!(open, [containers[2].id.clone()]);
    pump.client.open(&containers[2].open()).unwrap();
    assert_eq!(
        fs::read_dir(pump.dir.path().join("open")).unwrap().count(),
        3,
        "one, the garbage, the journal"
    );
}

#[test]
fn a_fifo_that_nobody_writes_is_at_its_end() {
    let mut pump = Pump::start();
    let never_started = pump.container();
    let begun = Instant::now();
    assert_eq!(pump.client.drain(&never_started.id, LONG).unwrap(), COMPLETE);

    // The container ended while no pump was there; the daemon kept what it had written, an unfinished line.
    let container = pump.container();
    writeln!(container.shim("out"), "before").unwrap();
    wait_for("the line", || container.count() == 1);
    pump.kill();
    write!(
        OpenOptions::new().write(true).open(container.dir.join("out")).unwrap(),
        "after"
    )
    .unwrap();
    pump.start_again();
    assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
    assert_eq!(container.texts(), ["before", "after"]);
    assert!(begun.elapsed() < LONG / 2);
}
