//! What a thousand HTTP probes a second cost.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth::dial::Dialer;
use berth::model::Id;
use berth::model::probe::{ProbeKind, Probes};
use berth::probe::{Checks, Engine, Saved, Subject, Told, Verdict};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::ground::{NoCommands, POD_IP, Pod, read};

const PODS: usize = 100;
const PROBES: usize = 1000;
const SECONDS: u64 = 10;

/// Answers with a thread of its own each pod, so that the server's share can be told from ours.
fn serve(listener: std::net::TcpListener) {
    use std::io::{Read, Write};
    listener.set_nonblocking(false).unwrap();
    std::thread::Builder::new()
        .name("a-server".into())
        .spawn(move || {
            let mut head = [0; 1024];
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut head);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
            }
        })
        .unwrap();
}

/// CPU time of this process, and that of its servers' threads.
fn times() -> (Duration, Duration) {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let all = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let mut servers = 0;
    for thread in std::fs::read_dir("/proc/self/task").unwrap() {
        let read = |name| std::fs::read_to_string(thread.as_ref().unwrap().path().join(name)).unwrap_or_default();
        if read("comm").trim() == "a-server" {
            servers += read("schedstat").split(' ').next().unwrap().parse::<u64>().unwrap();
        }
    }
    (Duration::from_micros(all as u64), Duration::from_nanos(servers))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of half a minute: run it alone, with --nocapture and in a release build"]
async fn a_thousand_http_probes_a_second() {
    let pods: Vec<_> = (0..PODS).map(|_| Pod::new()).collect();
    let (engine, mut reports) = Engine::new(Checks::new(Dialer::new().unwrap(), Arc::new(NoCommands)));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64;
    for pod in &pods {
        let (listener, port) = pod.listen(POD_IP);
        serve(listener.into_std().unwrap());
        let probe = read(
            ProbeKind::Readiness,
            &format!(r#"{{"httpGet": {{"port": {port}}}, "periodSeconds": 1}}"#),
        );
        for _ in 0..PROBES / PODS {
            let subject = Subject {
                container: Id::random(),
                sandbox: Id::random(),
                name: "demo".into(),
                started_at: now,
                target: pod.target(),
                probes: Probes {
                    readiness: Some(probe.clone()),
                    ..Probes::default()
                },
            };
            engine.start(subject, Some(Saved::default()));
        }
    }
    let warm = tokio::time::Instant::now() + Duration::from_secs(2);
    while let Ok(Some(_)) = tokio::time::timeout_at(warm, reports.next()).await {}
    let (before, servers_before) = times();
    let (mut late, mut took, mut missed, mut failed) = (Vec::new(), Vec::new(), 0, 0);
    let end = tokio::time::Instant::now() + Duration::from_secs(SECONDS);
    while let Ok(Some(told)) = tokio::time::timeout_at(end, reports.next()).await {
        if let Told::Checked(checked) = told {
            late.push(checked.late);
            took.push(checked.took);
            missed += checked.missed;
            failed += u64::from(checked.verdict != Verdict::Success);
        }
    }
    let (after, servers_after) = times();
    late.sort_unstable();
    took.sort_unstable();
    let at = |sorted: &[Duration], part: usize| sorted[sorted.len() * part / 100];
    let (all, servers) = (after - before, servers_after - servers_before);
    println!(
        "{} checks in {SECONDS} s, {missed} missed, {failed} failed, {} untold",
        late.len(),
        engine.lost()
    );
    println!(
        "late p50 {:?} p99 {:?} max {:?}",
        at(&late, 50),
        at(&late, 99),
        late[late.len() - 1]
    );
    println!("took p50 {:?} p99 {:?}", at(&took, 50), at(&took, 99));
    println!("CPU {all:?}, of it the servers {servers:?}");
    assert!(late.len() as u64 >= PROBES as u64 * (SECONDS - 2) && failed == 0);
}
