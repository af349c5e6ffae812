//! The pump as a process: its main, and how a daemon starts it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::client::Client;
use super::pump::Pump;
use super::stamp;

/// How long a pump may take from its start to its first answer.
const START_WITHIN: Duration = Duration::from_secs(10);

/// The main of `berth log-pump --socket PATH`. Returns when it was told to leave, or fails at once with `AddrInUse`
/// when a pump listens there already.
///
/// SIGTERM, which a machine that goes down sends to all, ends it as soon as no container writes any more; other
/// polite signals are left pending for ever.
pub fn serve(socket: &Path) -> io::Result<()> {
    let polite = SigSet::from_iter([Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]);
    polite.thread_block()?;
    let dismissal = SigSet::from_iter([Signal::SIGTERM]);
    let dismissal = SignalFd::with_flags(&dismissal, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    if let Err(error) = allow_many_descriptors() {
        report(&format!("cannot raise the limit of open files: {error}"));
    }
    let pump = Pump::bind(socket)?.dismissed_by(dismissal)?;
    report(&format!(
        "berth {} pumps at {}",
        env!("CARGO_PKG_VERSION"),
        socket.display()
    ));
    pump.run()
}

/// Makes sure that a pump answers at `socket`: finds the one that does, or starts `exe log-pump` as a process that
/// outlives us and writes its own messages to `log_file`. Returns once it answers.
pub fn start(exe: &Path, socket: &Path, log_file: &Path) -> io::Result<()> {
    let client = Client::new(socket);
    if client.ping().is_ok() {
        return Ok(());
    }
    let messages = OpenOptions::new().append(true).create(true).open(log_file)?;
    let mut command = Command::new(exe);
    command.arg("log-pump").arg("--socket").arg(socket);
    command
        .stdin(Stdio::null())
        .stdout(messages.try_clone()?)
        .stderr(messages);
    let child = crate::sys::spawn::detach(&mut command).spawn()?;
    await_answer(&client, child, log_file)
}

fn await_answer(client: &Client, mut child: Child, log_file: &Path) -> io::Result<()> {
    let deadline = Instant::now() + START_WITHIN;
    loop {
        if client.ping().is_ok() {
            break;
        }
        let see = log_file.display();
        if let Some(status) = child.try_wait()? {
            // Perhaps because another was faster.
            return client.ping().map(|_| ()).map_err(|_| {
                io::Error::other(format!(
                    "the log pump ended with {status} when it was started; {see} says why"
                ))
            });
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            let waited = START_WITHIN.as_secs();
            let message = format!("the log pump did not answer within {waited} s of its start; {see} may say why");
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        thread::sleep(Duration::from_millis(2));
    }
    // Should it end before we do, somebody has to take note, or it stays a zombie.
    thread::Builder::new()
        .name("log-pump-wait".into())
        .spawn(move || child.wait())?;
    Ok(())
}

/// A container takes three descriptors.
fn allow_many_descriptors() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// Tells whoever reads the pump's own messages. A message that cannot be written is no reason to stop pumping.
pub(super) fn report(message: &str) {
    let _ = writeln!(io::stderr(), "{} log-pump: {message}", stamp::now());
}
