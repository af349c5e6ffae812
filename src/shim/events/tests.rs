use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender as Channel, channel};

use super::*;
use crate::proto::shim::unpack;
use crate::ttrpc::{Requests, Status, answer};

const LONG: Duration = Duration::from_secs(10);

/// containerd's events service: takes connections one at a time and tells what is forwarded on each. A connection is
/// closed after `each` events.
fn containerd(path: &Path, each: usize) -> Receiver<Envelope> {
    let listener = UnixListener::bind(path).unwrap();
    let (told, events) = channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            if !serve(connection.unwrap(), each, &told) {
                return;
            }
        }
    });
    events
}

fn serve(mut connection: UnixStream, each: usize, told: &Channel<Envelope>) -> bool {
    let (mut requests, mut count) = (Requests::default(), 0);
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = connection.read(&mut chunk) {
        requests.push(&chunk[..read]);
        while let Some(call) = requests.take() {
            let call = call.unwrap();
            assert_eq!((call.service.as_str(), call.method.as_str()), (SERVICE, "Forward"));
            let envelope = call.decode::<ForwardRequest>().unwrap().envelope.unwrap();
            assert_eq!(call.namespace.as_deref(), Some(envelope.namespace.as_str()));
            let result = if envelope.namespace == "refused" {
                Err(Status::new(Code::InvalidArgument, "namespace"))
            } else {
                Ok(Vec::new())
            };
            if told.send(envelope).is_err() {
                return false;
            }
            connection.write_all(&answer(call.stream, result)).unwrap();
            count += 1;
            if count == each {
                return true;
            }
        }
    }
    true
}

fn start(pid: u32) -> TaskStart {
    TaskStart {
        container_id: "c".to_owned(),
        pid,
    }
}

fn pid(envelope: &Envelope) -> u32 {
    let event = envelope.event.as_ref().unwrap();
    unpack::<TaskStart>(event).unwrap().unwrap().pid
}

fn soon() -> Instant {
    Instant::now() + LONG
}

#[test]
fn events_arrive_in_order_with_their_time_though_the_connection_is_closed_again_and_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ttrpc");
    let events = containerd(&path, 7);
    let publisher = Publisher::start(Some(path)).unwrap();
    let before = SystemTime::now();
    for number in 0..100 {
        publisher.publish("k8s.io", &start(number));
    }
    let after = SystemTime::now();
    assert!(publisher.flush(soon()));
    for number in 0..100 {
        let envelope = events.recv_timeout(LONG).unwrap();
        assert_eq!((pid(&envelope), envelope.topic.as_str()), (number, "/tasks/start"));
        let time = SystemTime::try_from(envelope.timestamp.unwrap()).unwrap();
        assert!(before <= time && time <= after);
    }
    assert_eq!((events.try_recv().ok(), publisher.lost()), (None, 0));
}

#[test]
fn events_wait_for_a_containerd_that_is_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ttrpc");
    let publisher = Publisher::start(Some(path.clone())).unwrap();
    publisher.publish("a", &start(1));
    publisher.publish(
        "b",
        &TaskOom {
            container_id: "c".to_owned(),
        },
    );
    assert!(!publisher.flush(Instant::now() + Duration::from_millis(300)));
    let events = containerd(&path, usize::MAX);
    assert!(publisher.flush(soon()));
    let told: Vec<_> = events.try_iter().map(|event| (event.namespace, event.topic)).collect();
    let expected = [("a", "/tasks/start"), ("b", "/tasks/oom")];
    assert_eq!(
        told,
        expected.map(|(namespace, topic)| (namespace.to_owned(), topic.to_owned()))
    );
}

#[test]
fn when_too_many_wait_the_oldest_are_dropped_and_the_caller_never_waits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ttrpc");
    let publisher = Publisher::start(Some(path.clone())).unwrap();
    let began = Instant::now();
    let sent = u32::try_from(QUEUE).unwrap() + 100;
    for number in 0..sent {
        publisher.publish("k8s.io", &start(number));
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let events = containerd(&path, usize::MAX);
    assert!(publisher.flush(soon()));
    let told: Vec<_> = events.try_iter().map(|event| pid(&event)).collect();
    assert_eq!(told.len() as u64 + publisher.lost(), u64::from(sent));
    assert!(told.is_sorted() && told.len() >= QUEUE && *told.last().unwrap() == sent - 1);
}

#[test]
fn a_refused_event_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ttrpc");
    let _events = containerd(&path, usize::MAX);
    let publisher = Publisher::start(Some(path)).unwrap();
    publisher.publish("refused", &start(1));
    publisher.publish("taken", &start(2));
    assert!(publisher.flush(soon()));
    assert_eq!(publisher.lost(), 1);
}

#[test]
fn without_an_address_events_go_nowhere() {
    let publisher = Publisher::start(None).unwrap();
    publisher.publish("k8s.io", &start(1));
    assert!(publisher.flush(Instant::now()));
    assert_eq!(publisher.lost(), 0);
}

#[test]
fn the_thread_ends_with_its_publisher() {
    let directory = tempfile::tempdir().unwrap();
    let publisher = Publisher::start(Some(directory.path().join("nobody"))).unwrap();
    publisher.publish("k8s.io", &start(1));
    let shared = publisher.0.clone();
    drop(publisher);
    let end = soon();
    while Arc::strong_count(&shared) > 1 {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_was_not_sent_goes_to_another_address_or_on_with_another_publisher() {
    let directory = tempfile::tempdir().unwrap();
    let (nobody, path) = (directory.path().join("nobody"), directory.path().join("ttrpc"));
    let publisher = Publisher::start(Some(nobody.clone())).unwrap();
    for pid in 1..=3 {
        publisher.publish("k8s.io", &start(pid));
    }
    let pending = publisher.pending();
    drop(publisher);
    let pending: Pending = serde_json::from_slice(&serde_json::to_vec(&pending).unwrap()).unwrap();
    assert_eq!((pending.address.as_ref(), pending.waiting.len()), (Some(&nobody), 3));

    let next = Publisher::start(pending.address.clone()).unwrap();
    next.resume(pending);
    next.publish("k8s.io", &start(4));
    let events = containerd(&path, usize::MAX);
    assert!(next.redirect(path.clone()) && !next.redirect(path));
    assert!(next.flush(soon()));
    let pids: Vec<_> = events.try_iter().map(|event| pid(&event)).collect();
    assert_eq!(pids, [1, 2, 3, 4]);
}
