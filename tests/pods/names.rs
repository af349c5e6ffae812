//! A name server that knows one name.

use std::net::{Ipv4Addr, UdpSocket};

/// Answers for `name` with `address`, and for all others that there is no such name, as long as the process lives.
pub fn serve(at: Ipv4Addr, name: &'static str, address: Ipv4Addr) {
    let socket = UdpSocket::bind((at, 53)).unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            if let Some(answer) = answer(&query[..length], name, address) {
                let _ = socket.send_to(&answer, client);
            }
        }
    });
}

/// RFC 1035, section 4: a header of 12 bytes, then the question, which is repeated, then the answer.
fn answer(query: &[u8], known: &str, address: Ipv4Addr) -> Option<Vec<u8>> {
    let (mut labels, mut at) = (Vec::new(), 12);
    while let Some(length @ 1..) = query.get(at).copied().map(usize::from) {
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let question = query.get(12..at + 5)?;
    let is_address = question[question.len() - 4..] == [0, 1, 0, 1];
    let is_known = labels.join(".") == known;
    let answers = is_known && is_address;
    let mut answer = query[..2].to_vec();
    // A response, recursion available; NXDOMAIN for a name that is not known.
    answer.extend([
        0x81,
        if is_known { 0x80 } else { 0x83 },
        0,
        1,
        0,
        u8::from(answers),
        0,
        0,
        0,
        0,
    ]);
    answer.extend(question);
    if answers {
        // The name of the question; type A, class IN, a minute, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
