use proptest::prelude::*;

use super::*;

fn call(stream: u32) -> Call {
    Call {
        stream,
        service: "containerd.task.v2.Task".to_owned(),
        method: "State".to_owned(),
        payload: vec![10, 1, b'a'],
        timeout: Some(Duration::from_millis(1500)),
        namespace: Some("k8s.io".to_owned()),
    }
}

fn taken(bytes: &[u8]) -> Vec<Result<Call, Refused>> {
    let mut requests = Requests::default();
    requests.push(bytes);
    std::iter::from_fn(|| requests.take()).collect()
}

fn code(bytes: &[u8]) -> Code {
    taken(bytes).pop().unwrap().unwrap_err().status.code
}

#[test]
fn a_call_comes_out_as_it_went_in() {
    let bare = Call {
        timeout: None,
        namespace: None,
        ..call(3)
    };
    let bytes = [request(call(1)).unwrap(), request(bare.clone()).unwrap()].concat();
    assert_eq!(taken(&bytes), [Ok(call(1)), Ok(bare)]);
}

#[test]
fn an_answer_is_a_response_or_an_error_of_its_stream() {
    let read = |bytes: &[u8]| {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        match decoder.take() {
            Some(Received::Frame(frame)) => (frame.stream, frame.kind, response(&frame.body)),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read(&answer(5, Ok(vec![1, 2]))), (5, Kind::Response, Ok(vec![1, 2])));
    let missing = Status::new(Code::NotFound, "container not created");
    assert_eq!(
        read(&answer(7, Err(missing.clone()))),
        (7, Kind::Response, Err(missing))
    );
    let (_, _, too_long) = read(&answer(9, Ok(vec![0; frame::MAX_BODY])));
    assert_eq!(too_long.unwrap_err().code, Code::ResourceExhausted);
}

#[test]
fn what_is_no_call_is_refused_as_containerd_does() {
    assert_eq!(code(&request(call(2)).unwrap()), Code::InvalidArgument);
    assert_eq!(code(&frame::encode(1, Kind::Data, b"").unwrap()), Code::InvalidArgument);
    assert_eq!(
        code(&frame::encode(1, Kind::Request, &[0xff; 8]).unwrap()),
        Code::InvalidArgument
    );
    let twice = [request(call(3)).unwrap(), request(call(3)).unwrap()].concat();
    assert_eq!(code(&twice), Code::InvalidArgument);
    let oversized = [0, 0x50, 0, 0, 0, 0, 0, 1, 1, 0];
    assert_eq!(code(&oversized), Code::ResourceExhausted);
    assert_eq!(taken(&frame::encode(1, Kind::Response, b"").unwrap()), []);
    assert_eq!(taken(&frame::encode(1, Kind::Unknown(9), b"?").unwrap()), []);
}

#[test]
fn a_refused_frame_does_not_end_the_connection() {
    let bytes = [request(call(2)).unwrap(), request(call(1)).unwrap()].concat();
    assert_eq!(taken(&bytes).pop(), Some(Ok(call(1))));
}

#[test]
fn a_timeout_that_has_passed_is_zero() {
    let late = wire::Request {
        timeout_nano: -5,
        ..Default::default()
    };
    let bytes = frame::encode(1, Kind::Request, &late.encode_to_vec()).unwrap();
    assert_eq!(taken(&bytes)[0].as_ref().unwrap().timeout, Some(Duration::ZERO));
}

proptest! {
    #[test]
    fn any_call_survives_the_wire(
        stream in (0..u32::MAX / 2).prop_map(|half| 2 * half + 1),
        service in ".{0,40}",
        method in ".{0,40}",
        payload in prop::collection::vec(any::<u8>(), 0..200),
        nanos in prop::option::of(1..i64::MAX.unsigned_abs()),
        namespace in prop::option::of(".{0,20}"),
    ) {
        let timeout = nanos.map(Duration::from_nanos);
        let call = Call { stream, service, method, payload, timeout, namespace };
        prop_assert_eq!(taken(&request(call.clone()).unwrap()), [Ok(call)]);
    }
}

/// Fuzzing without a fuzzer: valid traffic, broken at random places, split at random places, from a fixed seed.
#[test]
fn broken_traffic_never_panics_and_what_is_whole_is_answered() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    };
    let valid = [request(call(1)).unwrap(), request(call(3)).unwrap()].concat();
    let (mut calls, mut refused) = (0, 0);
    for _ in 0..200_000 {
        let mut bytes = valid.clone();
        for _ in 0..random(4) {
            let at = random(bytes.len());
            match random(3) {
                0 => bytes[at] = u8::try_from(random(256)).unwrap(),
                1 => bytes[at] ^= 1 << random(8),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let mut requests = Requests::default();
        let cut = random(bytes.len());
        for piece in [&bytes[..cut], &bytes[cut..]] {
            requests.push(piece);
            while let Some(taken) = requests.take() {
                match taken {
                    Ok(_) => calls += 1,
                    Err(Refused { stream, status }) => {
                        refused += 1;
                        assert!(!answer(stream, Err(status)).is_empty());
                    }
                }
            }
        }
    }
    assert!(calls > 100_000 && refused > 1_000, "{calls} calls, {refused} refused");
}
