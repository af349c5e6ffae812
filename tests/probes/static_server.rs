//! The one program of an image that has nothing else: an HTTP server and a gRPC server of `grpc.health.v1`, std alone.
//!
//! `server HTTP_ADDRESS GRPC_ADDRESS`. HTTP answers 200 to everything; gRPC answers SERVING to every call, with just
//! enough of HTTP/2 (RFC 9113) and HPACK (RFC 7541) for a client that asks one thing per connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

fn main() {
    let mut addresses = std::env::args().skip(1);
    let mut next = || TcpListener::bind(addresses.next().expect("two addresses")).expect("it can listen");
    let (http, grpc) = (next(), next());
    println!("serving");
    thread::spawn(move || serve(&http, answer_http));
    serve(&grpc, answer_grpc);
}

fn serve(listener: &TcpListener, answer: fn(TcpStream) -> io::Result<()>) {
    for client in listener.incoming().flatten() {
        thread::spawn(move || answer(client));
    }
}

fn answer_http(mut client: TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(client.try_clone()?).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nOK\n")
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

fn answer_grpc(mut client: TcpStream) -> io::Result<()> {
    let mut preface = [0; 24];
    client.read_exact(&mut preface)?;
    frame(&mut client, SETTINGS, 0, 0, &[])?;
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        client.read_exact(&mut payload)?;
        match kind {
            SETTINGS if flags & ACK == 0 => frame(&mut client, SETTINGS, ACK, 0, &[])?,
            PING if flags & ACK == 0 => frame(&mut client, PING, ACK, 0, &payload)?,
            DATA | HEADERS if flags & END_STREAM != 0 => serving(&mut client, stream)?,
            _ => {}
        }
    }
}

/// The answer to Check: `status: SERVING`.
fn serving(client: &mut TcpStream, stream: u32) -> io::Result<()> {
    // Of HPACK's static table, 8 is ":status: 200".
    let mut headers = vec![0x88];
    headers.extend(literal("content-type", "application/grpc"));
    frame(client, HEADERS, END_HEADERS, stream, &headers)?;
    frame(client, DATA, 0, stream, &[0, 0, 0, 0, 2, 8, 1])?;
    frame(client, HEADERS, END_HEADERS | END_STREAM, stream, &literal("grpc-status", "0"))
}

/// A header that is not indexed, with a new name, neither of it compressed.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(text.len() as u8);
        bytes.extend(text.bytes());
    }
    bytes
}

fn frame(client: &mut TcpStream, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    client.write_all(&bytes)
}
