//! The stand-in for the original demo application: a small HTTP server that says who asked whom, and whose health can be
//! switched. One file, std alone, linked statically, installed as `/usr/bin/python3` since the original is a Python program.
//!
//! * `GET /` answers the greeting with the client's address, the host's name and the address the client reached.
//! * `GET /livez` and `GET /readyz` answer `OK`, or with status 506 and 507 whatever was posted there last
//!   (`POST livez=fail` to `/livez`, `POST readyz=fail` to `/readyz`; posting `OK` heals).
//! * It listens on `HOST`:`PORT` of its environment, by default 0.0.0.0:80.
//! * It ends on SIGTERM even as PID 1, which has no default actions: it installs a handler, which says by its PID who sent
//!   the signal; 0 is somebody outside of its PID namespace.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, fs, process, thread};

/// Longest request line or header, and longest form, that is read.
const LIMIT: u64 = 16 * 1024;
/// A client that says nothing for so long is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    stop_on(SIGTERM);
    stop_on(SIGINT);
    if let Err(error) = serve() {
        eprintln!("demoapp: {error}");
        process::exit(1);
    }
}

fn serve() -> io::Result<()> {
    let address = listen_address().map_err(io::Error::other)?;
    let listener = TcpListener::bind(address)?;
    println!(" * Running on http://{address}/");
    let health = Arc::new(Health::default());
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        let health = Arc::clone(&health);
        // A thread for each client: one that stalls keeps nobody else waiting.
        let _ = thread::Builder::new().stack_size(128 * 1024).spawn(move || {
            let _ = answer(client, &health);
        });
    }
    Ok(())
}

fn listen_address() -> Result<SocketAddr, String> {
    let host = match env::var("HOST").as_deref() {
        Err(_) | Ok("") => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Ok("localhost") => IpAddr::from(Ipv4Addr::LOCALHOST),
        Ok(host) => host.parse().map_err(|_| format!("HOST is no address: {host}"))?,
    };
    let port = match env::var("PORT").as_deref() {
        Err(_) | Ok("") => 80,
        Ok(port) => port.parse().map_err(|_| format!("PORT is no port: {port}"))?,
    };
    Ok(SocketAddr::new(host, port))
}

/// What each switchable endpoint says.
struct Health(Mutex<HashMap<&'static str, String>>);

impl Default for Health {
    fn default() -> Self {
        Self(Mutex::new(["livez", "readyz"].map(|name| (name, "OK".to_owned())).into()))
    }
}

struct Request {
    method: String,
    path: String,
    agent: String,
    body: Vec<u8>,
}

struct Response {
    status: &'static str,
    body: String,
}

fn answer(client: TcpStream, health: &Health) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let (from, to) = (client.peer_addr()?.ip(), client.local_addr()?.ip());
    let request = match Request::read(&mut BufReader::new(&client)) {
        Ok(request) => request,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return respond(&client, "GET", &Response::text("400 Bad Request", "")),
        Err(error) => return Err(error),
    };
    let response = route(&request, health, from, to);
    println!("{from} \"{} {}\" {}", request.method, request.path, response.status);
    respond(&client, &request.method, &response)
}

fn route(request: &Request, health: &Health, from: IpAddr, to: IpAddr) -> Response {
    let name = match request.path.trim_end_matches('/') {
        "" => return Response::text("200 OK", format!("iKubernetes demoapp v1.0 !! ClientIP: {from}, ServerName: {}, ServerIP: {to}!\n", hostname())),
        "/hostname" => return Response::text("200 OK", format!("ServerName: {}\n", hostname())),
        "/user-agent" => return Response::text("200 OK", format!("User-Agent: {}\n", request.agent)),
        "/livez" => "livez",
        "/readyz" => "readyz",
        _ => return Response::text("404 Not Found", "404 Not Found\n"),
    };
    let mut health = health.0.lock().expect("no thread panics while it holds the health");
    match request.method.as_str() {
        "GET" | "HEAD" => {
            let said = &health[name];
            let status = match (said.as_str(), name) {
                ("OK", _) => "200 OK",
                (_, "livez") => "506 Variant Also Negotiates",
                _ => "507 Insufficient Storage",
            };
            Response::text(status, said.clone())
        }
        "POST" => match field(&request.body, name) {
            Some(value) => {
                health.insert(name, value.clone());
                Response::text("200 OK", value)
            }
            None => Response::text("400 Bad Request", format!("the form has no {name}\n")),
        },
        _ => Response::text("405 Method Not Allowed", ""),
    }
}

impl Request {
    /// Reads one request. Anything that is no HTTP/1 is `InvalidData`.
    fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let first = line(reader)?;
        let mut words = first.split(' ');
        let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else { return Err(bad("request line")) };
        if !version.starts_with("HTTP/1.") {
            return Err(bad("version"));
        }
        let path = target.split('?').next().unwrap_or(target).to_owned();
        let (mut length, mut agent) = (0, String::new());
        let mut headers = 0;
        loop {
            let header = line(reader)?;
            let Some((name, value)) = header.split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse::<u64>().map_err(|_| bad("content-length"))?,
                "user-agent" => agent = value.trim().to_owned(),
                _ => {}
            }
            headers += 1;
            if headers > 100 || length > LIMIT {
                return Err(bad("size"));
            }
        }
        let mut body = Vec::new();
        reader.take(length).read_to_end(&mut body)?;
        Ok(Self { method: method.to_owned(), path, agent, body })
    }
}

impl Response {
    fn text(status: &'static str, body: impl Into<String>) -> Self {
        Self { status, body: body.into() }
    }
}

fn respond(mut client: &TcpStream, method: &str, response: &Response) -> io::Result<()> {
    let Response { status, body } = response;
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let body = if method == "HEAD" { "" } else { body };
    client.write_all(format!("{head}{body}").as_bytes())
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.take(LIMIT).read_line(&mut line)?;
    if !line.ends_with('\n') {
        return Err(bad("line"));
    }
    Ok(line.trim_end().to_owned())
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// A field of a URL-encoded form, decoded.
fn field(form: &[u8], name: &str) -> Option<String> {
    let form = String::from_utf8_lossy(form).into_owned();
    let value = form.split('&').find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))?;
    let (mut decoded, mut rest) = (Vec::new(), value.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = || u8::from_str_radix(std::str::from_utf8(after.get(..2)?).ok()?, 16).ok();
        rest = after;
        match byte {
            b'+' => decoded.push(b' '),
            b'%' if let Some(byte) = escaped() => {
                decoded.push(byte);
                rest = &after[2..];
            }
            _ => decoded.push(byte),
        }
    }
    Some(String::from_utf8_lossy(&decoded).into_owned())
}

fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
/// The handler is told who sent the signal (sigaction(2)).
const SA_SIGINFO: i32 = 4;

/// glibc's `struct sigaction`, the same for x86_64 and aarch64.
#[repr(C)]
struct Action {
    handler: extern "C" fn(i32, *const Info, *const u8),
    mask: [u64; 16],
    flags: i32,
    restorer: usize,
}

/// The beginning of `siginfo_t`, as it is for a signal that a process has sent.
#[repr(C)]
struct Info {
    number: i32,
    errno: i32,
    code: i32,
    padding: i32,
    sender: i32,
}

unsafe extern "C" {
    fn sigaction(number: i32, new: *const Action, old: *mut Action) -> i32;
    fn write(descriptor: i32, bytes: *const u8, length: usize) -> isize;
    fn _exit(code: i32) -> !;
}

extern "C" fn stop(number: i32, info: *const Info, _context: *const u8) {
    // SAFETY: with SA_SIGINFO the kernel hands over a siginfo_t.
    let sender = unsafe { (*info).sender };
    // No formatting here, which would allocate: signal-safety(7).
    say(if number == SIGTERM { b"demoapp: SIGTERM" } else { b"demoapp: SIGINT" });
    say(b" from process ");
    let (mut digits, mut at, mut rest) = ([0; 10], 10, sender.unsigned_abs());
    loop {
        at -= 1;
        digits[at] = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    say(&digits[at..]);
    say(b"\n");
    // SAFETY: _exit is async-signal-safe (signal-safety(7)) and takes any code.
    unsafe { _exit(0) }
}

fn say(bytes: &[u8]) {
    // SAFETY: write is async-signal-safe, and the bytes are there.
    unsafe { write(1, bytes.as_ptr(), bytes.len()) };
}

fn stop_on(number: i32) {
    let action = Action { handler: stop, mask: [0; 16], flags: SA_SIGINFO, restorer: 0 };
    // SAFETY: the action is one that sigaction takes, and its handler calls only what is async-signal-safe.
    unsafe { sigaction(number, &action, std::ptr::null_mut()) };
}
