//! Connections that misbehave.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use berth::proto::shim::task;
use berth::ttrpc::{self, Call, Code};

use crate::ground::{Ground, alive, becomes};
use crate::wire::{METHODS, SERVICE, Wire, call, code};

fn state(id: &str) -> Call {
    let request = task::StateRequest {
        id: id.to_owned(),
        ..Default::default()
    };
    call("State", &request)
}

#[test]
fn connections_that_hang_in_the_middle_of_a_frame_keep_nobody_waiting() {
    let ground = Ground::new();
    ground.ensure();
    let frame = ttrpc::request(state("a")).unwrap();
    let hanging: Vec<UnixStream> = (1..frame.len())
        .map(|length| {
            let mut socket = UnixStream::connect(ground.place.task_socket()).unwrap();
            socket.write_all(&frame[..length]).unwrap();
            socket
        })
        .collect();
    ground.serves();
    // And some of them break off there.
    drop(hanging.into_iter().step_by(2).collect::<Vec<_>>());
    ground.serves();
    ground.end();
}

#[test]
fn garbage_ends_at_most_the_connection_it_came_on() {
    let ground = Ground::new();
    let bundle = ground.sleeper();
    let pid = bundle.run();
    let garbage: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: shim\r\n\r\n",
        &[0; 4096],
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0, 0, 0, 4, 0, 0, 0, 1, 1, 0, 0xff, 0xff, 0xff, 0xff],
    ];
    for bytes in garbage {
        for path in [
            ground.place.task_socket(),
            ground.place.control_socket(),
            ground.place.log_socket(),
        ] {
            let mut socket = UnixStream::connect(path).unwrap();
            // It may be cut off meanwhile.
            let _ = socket.write_all(bytes).and_then(|()| socket.write_all(b"\n"));
            drop(socket);
        }
        assert!(alive(pid) && bundle.state().is_ok());
    }
    ground.serves();
    bundle.remove();
    ground.end();
}

#[test]
fn an_oversized_frame_is_refused_and_the_next_one_answered() {
    let ground = Ground::new();
    ground.ensure();
    let mut wire = ground.connect();
    let length = (4_u32 << 20) + 1;
    let header = [&length.to_be_bytes()[..], &1_u32.to_be_bytes(), &[1, 0]].concat();
    wire.socket.write_all(&header).unwrap();
    wire.socket.write_all(&vec![7; length as usize]).unwrap();
    let (stream, refused) = wire.next().unwrap();
    assert_eq!((stream, code(refused)), (1, Code::ResourceExhausted));
    let stream = wire.send(state("nobody"));
    assert_eq!(code(wire.answer(stream)), Code::NotFound);
    ground.end();
}

#[test]
fn an_error_does_not_repeat_a_callers_novel() {
    let ground = Ground::new();
    ground.ensure();
    let mut wire = ground.connect();
    let stream = wire.send(state(&"\u{1}".repeat(1 << 20)));
    let refused = wire.answer(stream).unwrap_err();
    assert_eq!(refused.code, Code::NotFound);
    assert!(refused.message.len() < 10_000, "{} bytes", refused.message.len());
    ground.end();
}

#[test]
fn a_client_that_reads_nothing_is_cut_off_and_costs_bounded_memory() {
    let ground = Ground::new();
    ground.ensure();
    let before = ground.resident();
    let mut wire = ground.connect();
    wire.socket.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut requests = Vec::new();
    for stream in (1..200_000_u32).step_by(2) {
        requests.extend(
            ttrpc::request(Call {
                stream,
                ..state(&"x".repeat(300))
            })
            .unwrap(),
        );
    }
    wire.socket.write_all(&requests).expect_err("it is cut off");
    ground.serves();
    let grown = ground.resident().saturating_sub(before);
    assert!(grown < 24 << 10, "{grown} KiB more");
    ground.end();
}

#[test]
fn calls_that_wait_in_vain_are_bounded_and_go_with_their_connection() {
    let ground = Ground::new();
    let bundle = ground.sleeper();
    bundle.run();
    let request = task::WaitRequest {
        id: bundle.id.clone(),
        ..Default::default()
    };
    let mut wire = ground.connect();
    for _ in 0..5000 {
        wire.send(call("Wait", &request));
    }
    let (_, refused) = wire.next().unwrap();
    assert_eq!(code(refused), Code::ResourceExhausted);
    drop(wire);
    becomes("there is room again", || {
        let mut wire = ground.connect();
        wire.send(call("Wait", &request));
        let end = wire.send(state(&bundle.id));
        wire.next().unwrap().0 == end
    });
    bundle.remove();
    ground.end();
}

#[test]
fn a_flood_of_slow_calls_is_refused_to_its_own_connection_alone() {
    let ground = Ground::new();
    let slow = ground.sleeper().by("sleep 0.2; exit 1");
    slow.prepare();
    let mut flood = ground.connect();
    let create = |number: u32| task::CreateTaskRequest {
        id: format!("flood-{number}"),
        ..slow.request()
    };
    let streams: Vec<u32> = (0..1500)
        .map(|number| flood.send(call("Create", &create(number))))
        .collect();
    // Another one's slow call waits for its turn.
    let mut other = ground.connect();
    let stats = task::StatsRequest {
        id: "nobody".to_owned(),
    };
    assert_eq!(code(other.ask::<()>("Stats", &stats)), Code::NotFound);
    let mut refused = Vec::new();
    for _ in &streams {
        let (stream, answer) = flood.next().unwrap();
        if code(answer) == Code::ResourceExhausted {
            refused.push(stream);
        }
    }
    assert!((1..500).contains(&refused.len()), "{} refused", refused.len());
    // What was refused is not waited for.
    let number = streams.iter().position(|stream| *stream == refused[0]).unwrap();
    let delete = task::DeleteRequest {
        id: create(number.try_into().unwrap()).id,
        ..Default::default()
    };
    assert_eq!(code(other.ask::<()>("Delete", &delete)), Code::NotFound);
    ground.serves();
    ground.end();
}

#[test]
fn deletions_between_creations_of_one_id_keep_nobody_from_their_turn() {
    let ground = Ground::new();
    ground.ensure();
    let mut wire = ground.connect();
    let create = task::CreateTaskRequest {
        id: "one".to_owned(),
        bundle: ground.path("nowhere").display().to_string(),
        ..Default::default()
    };
    let delete = task::DeleteRequest {
        id: "one".to_owned(),
        ..Default::default()
    };
    let begin = Instant::now();
    for _ in 0..200 {
        wire.send(call("Create", &create));
        wire.send(call("Delete", &delete));
    }
    ground.serves();
    for _ in 0..400 {
        let (_, refused) = wire.next().unwrap();
        assert!([Code::Unknown, Code::NotFound].contains(&code(refused)));
    }
    assert!(begin.elapsed() < Duration::from_secs(30));
    ground.end();
}

#[test]
fn five_hundred_connections_are_served_at_once() {
    let ground = Ground::new();
    ground.ensure();
    let mut wires: Vec<Wire> = (0..500).map(|_| ground.connect()).collect();
    let streams: Vec<u32> = wires.iter_mut().map(|wire| wire.send(state("nobody"))).collect();
    for (wire, stream) in wires.iter_mut().zip(streams) {
        assert_eq!(code(wire.answer(stream)), Code::NotFound);
    }
    ground.serves();
    drop(wires);
    ground.end();
}

#[test]
fn two_creations_of_one_id_make_one_container() {
    let ground = Ground::new();
    let bundle = ground.sleeper();
    bundle.prepare();
    let results: Vec<_> = std::thread::scope(|scope| {
        let creations: Vec<_> = (0..8).map(|_| scope.spawn(|| bundle.create())).collect();
        creations.into_iter().map(|creation| creation.join().unwrap()).collect()
    });
    let (made, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), 1);
    for refusal in refused {
        assert_eq!(code(refusal), Code::AlreadyExists);
    }
    assert_eq!(bundle.start().unwrap(), *made[0].as_ref().unwrap());
    bundle.remove();
    ground.end();
}

/// Fuzzing without a fuzzer, from a fixed seed: calls of every method, broken at random places.
#[test]
fn twenty_thousand_broken_frames_harm_nobody() {
    let ground = Ground::new();
    let bundles = [ground.sleeper(), ground.sleeper()];
    let pids = bundles.each_ref().map(|bundle| bundle.run());
    let shim = ground.shim();
    let mut random = random();
    let mut rounds = |count: usize| {
        for _ in 0..count {
            let mut wire = UnixStream::connect(ground.place.task_socket()).unwrap();
            let mut bytes = Vec::new();
            for stream in [1, 3, 5, 7, 9] {
                let method = METHODS[random(METHODS.len())];
                // What changes a container is called for another one.
                let harmless = ["State", "Pids", "Wait", "Stats", "Connect", "CloseIO", "ResizePty"].contains(&method);
                let id = if harmless {
                    bundles[random(2)].id.clone()
                } else {
                    "another".to_owned()
                };
                let request = task::StateRequest {
                    id,
                    exec_id: String::new(),
                };
                let frame = ttrpc::request(Call {
                    stream,
                    service: SERVICE.to_owned(),
                    ..call(method, &request)
                });
                bytes.extend(frame.unwrap());
            }
            for _ in 0..random(6) {
                let at = random(bytes.len());
                bytes[at] = u8::try_from(random(256)).unwrap();
            }
            bytes.truncate(bytes.len() - random(4));
            // It may be cut off.
            let _ = wire.write_all(&bytes);
        }
    };
    rounds(1000);
    let before = ground.resident();
    rounds(3000);
    let grown = ground.resident().saturating_sub(before);
    assert!(grown < 3 << 10, "{grown} KiB more");
    assert!(ground.shim() == shim && pids.into_iter().all(alive));
    ground.serves();
    for bundle in &bundles {
        bundle.remove();
    }
    ground.end();
}

fn random() -> impl FnMut(usize) -> usize {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    }
}
