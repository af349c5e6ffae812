//! The short commands: what containerd executes (`start`, `delete`, `-v`, `-info`), and `ensure`, by which berth has a
//! shim. Each looks for the shim that runs, or starts one, and ends.
//!
//! `start` is executed for every task, in its bundle (containerd's runtime v2: core/runtime/v2/README.md), and prints
//! where the task's shim listens. `delete` is executed after every task, and also when a connection to a shim broke:
//! containerd has forgotten the task then, whatever became of it, and so what lives is left alone and waits to be
//! taken back ([`super::adopt`]).

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use prost::Message;
use serde::Deserialize;

use super::container::Exit;
use super::control::{Client, TaskState};
use super::handover::{self, Fd};
use super::place::Place;
use super::query::timestamp;
use super::record::{self, Record};
use super::serve::{self, Orders};
use crate::model::names::annotation::SHIM_PLACE;
use crate::proto::shim::{task, types};
use crate::{logs, sys};

/// How long it may take until a shim answers.
const ANSWER: Duration = Duration::from_secs(10);
/// The messages of a shim are cut off at its start when they are longer.
const MAX_MESSAGES: u64 = 1 << 20;

/// What containerd says to every command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    pub namespace: String,
    /// containerd's gRPC socket.
    pub address: PathBuf,
    pub id: String,
    pub bundle: PathBuf,
    /// Where the shim lives; containerd never says it.
    pub place: Option<PathBuf>,
    pub ttrpc: Option<PathBuf>,
    pub version: bool,
    pub info: bool,
    /// The descriptor of what the program before handed over; only such a program says it.
    pub handover: Option<RawFd>,
    /// The soft limit of open files of programs that are run; only a shim says it.
    pub files: Option<u64>,
    /// Whether they ignore the C library's first signal; only a shim says it.
    pub ignore_cancellation: bool,
    pub command: String,
}

impl Arguments {
    /// Reads Go's flags, `-name value` or `-name=value` with one dash or two, up to the command.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-') else {
                parsed.command = word;
                break;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let mut value = || {
                value
                    .clone()
                    .or_else(|| words.next())
                    .ok_or(format!("-{name} needs a value"))
            };
            match name {
                "v" => parsed.version = true,
                "ignore-cancellation" => parsed.ignore_cancellation = true,
                "info" => parsed.info = true,
                "debug" => {}
                "namespace" => parsed.namespace = value()?,
                "address" => parsed.address = value()?.into(),
                "id" => parsed.id = value()?,
                "bundle" => parsed.bundle = value()?.into(),
                "place" => parsed.place = Some(value()?.into()),
                "handover" => {
                    let number = value()?.parse();
                    parsed.handover = Some(number.map_err(|_| "-handover is no number".to_owned())?);
                }
                "files" => {
                    let number = value()?.parse();
                    parsed.files = Some(number.map_err(|_| "-files is no number".to_owned())?);
                }
                "ttrpc" => parsed.ttrpc = Some(value()?.into()),
                // Of no use here.
                "publish-binary" | "socket" => drop(value()?),
                other => return Err(format!("-{other} is not known")),
            }
        }
        Ok(parsed)
    }
}

/// Does what the arguments say.
pub fn run(arguments: &Arguments) -> io::Result<()> {
    if arguments.version {
        println!(
            "containerd-shim-berth-v1:\n  Version: {}\n  Handover: {}",
            env!("CARGO_PKG_VERSION"),
            handover::VERSION
        );
        return Ok(());
    }
    if arguments.info {
        return io::stdout().write_all(&info().encode_to_vec());
    }
    match arguments.command.as_str() {
        "start" => start(arguments),
        "delete" => delete(arguments),
        "ensure" => ensure(&place(arguments)?, arguments, None),
        "serve" => serve_here(arguments),
        // Only with what a shim hands over.
        "exec" => crate::nsexec::helper::serve(arguments.files, arguments.ignore_cancellation),
        other => Err(usage(&format!(
            "{other:?} is no command; containerd runs this program (start, delete)"
        ))),
    }
}

fn usage(message: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, message)
}

fn place(arguments: &Arguments) -> io::Result<Place> {
    match &arguments.place {
        Some(directory) => Place::new(directory),
        None => Ok(Place::common(&arguments.address, &arguments.namespace)),
    }
}

// ---- start

/// Prints where the task's shim listens, and makes sure that one does.
fn start(arguments: &Arguments) -> io::Result<()> {
    if !record::is_id(&arguments.id) {
        return Err(usage(&format!("-id {:?} is no id of a container", arguments.id)));
    }
    let place = match annotation(Path::new("config.json"))? {
        Some(directory) => Place::new(directory)?,
        None => place(arguments)?,
    };
    // What containerd says itself is true, whatever the shim was told when it was started.
    ensure(&place, arguments, std::env::var_os("TTRPC_ADDRESS").map(PathBuf::from))?;
    // containerd 1.x looks here after its own restart, and our `delete` for its shim's place.
    fs::write("address", place.address())?;
    print!(
        "{}",
        bootstrap(&place, std::env::var("MAX_SHIM_VERSION").ok().as_deref())
    );
    Ok(())
}

/// A plain address for containerd 1.6; what 1.7 and later call bootstrap parameters for those that say how new they are.
fn bootstrap(place: &Place, newest: Option<&str>) -> String {
    match newest.and_then(|version| version.parse::<u32>().ok()) {
        None => place.address(),
        Some(newest) => {
            let (version, address) = (newest.clamp(2, 3), place.address());
            serde_json::json!({ "version": version, "address": address, "protocol": "ttrpc" }).to_string()
        }
    }
}

/// The place that the spec names, if it names one.
fn annotation(spec: &Path) -> io::Result<Option<String>> {
    #[derive(Deserialize)]
    struct Spec {
        #[serde(default)]
        annotations: std::collections::HashMap<String, String>,
    }
    let spec: Spec = serde_json::from_slice(&fs::read(spec)?)?;
    Ok(spec.annotations.get(SHIM_PLACE).cloned())
}

/// Makes sure that a shim answers at the place, and tells it where events go if that is known for certain.
fn ensure(place: &Place, arguments: &Arguments, ttrpc: Option<PathBuf>) -> io::Result<()> {
    let deadline = Instant::now() + ANSWER;
    loop {
        let hello = Client::connect(&place.control_socket()).and_then(|mut client| client.greet(ttrpc.clone()));
        let Err(error) = hello else { return Ok(()) };
        if Instant::now() > deadline {
            let message = format!("the shim does not answer: {}", crate::model::causes(&error));
            return Err(io::Error::new(ErrorKind::TimedOut, message));
        }
        match launch(place, arguments) {
            // One that leaves took the place with it.
            Err(error) if error.kind() == ErrorKind::NotFound => std::thread::sleep(Duration::from_millis(5)),
            launched => launched?,
        }
    }
}

/// Starts a shim and waits until it serves, or ends because another does.
fn launch(place: &Place, arguments: &Arguments) -> io::Result<()> {
    let named = |what: &str, error: io::Error| {
        io::Error::new(error.kind(), format!("{what} {}: {error}", place.directory().display()))
    };
    place.make().map_err(|error| named("cannot make", error))?;
    let mut open = fs::OpenOptions::new();
    let messages = open.append(true).create(true).mode(0o600).open(place.messages());
    let messages = messages.map_err(|error| named("cannot write messages in", error))?;
    if messages.metadata()?.len() > MAX_MESSAGES {
        messages.set_len(0)?;
    }
    let ttrpc = arguments
        .ttrpc
        .clone()
        .or_else(|| std::env::var_os("TTRPC_ADDRESS").map(PathBuf::from));
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("-namespace")
        .arg(&arguments.namespace)
        .arg("-address")
        .arg(&arguments.address)
        .arg("-place")
        .arg(place.directory());
    if let Some(ttrpc) = ttrpc {
        command.arg("-ttrpc").arg(ttrpc);
    }
    // No secrets: of containerd's environment only what the OCI runtime needs.
    let path = std::env::var_os("PATH")
        .unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    command.arg("serve").env_clear().env("PATH", path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(messages);
    let mut child = sys::spawn::detach(&mut command).spawn()?;
    let mut ready = [0; 1];
    let told = child.stdout.take().expect("it is piped").read(&mut ready)?;
    // Else another was faster.
    if told == 0 && !child.wait()?.success() {
        let messages = fs::read_to_string(place.messages()).unwrap_or_default();
        let last = messages.lines().last().unwrap_or("it says nothing");
        return Err(io::Error::other(format!("a shim cannot be started: {last}")));
    }
    Ok(())
}

/// The shim itself.
fn serve_here(arguments: &Arguments) -> io::Result<()> {
    sys::memory::be_frugal(1);
    if let Some(number) = arguments.handover {
        return serve::go_on(place(arguments)?, Fd::new(number));
    }
    let files = many_files();
    let orders = Orders {
        files,
        place: place(arguments)?,
        namespace: arguments.namespace.clone(),
        ttrpc: arguments.ttrpc.clone(),
    };
    let served = serve::serve(orders, || {
        let mut stdout = io::stdout();
        stdout.write_all(b"!").and_then(|()| stdout.flush()).ok();
        // Whoever started us waits for its end.
        if let Ok(null) = fs::OpenOptions::new().write(true).open("/dev/null") {
            nix::unistd::dup2_stdout(null).ok();
        }
    });
    match served {
        // As good as being it.
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(()),
        other => other,
    }
}

/// Raises our limit of open files. Gives the soft limit for the programs that we start, if it is another.
fn many_files() -> Option<u64> {
    match (logs::allow_many_descriptors(), logs::allow_many_descriptors()) {
        (Ok(before), Ok(now)) if before != now => Some(before),
        (Err(error), _) => {
            super::report(&format!("cannot have more files open: {error}"));
            None
        }
        _ => None,
    }
}

// ---- delete

/// Says how the task ended, as far as that is known, and removes what a shim that is gone left of a dead one.
fn delete(arguments: &Arguments) -> io::Result<()> {
    let (pid, exit) = match fs::read_to_string("address")
        .ok()
        .as_deref()
        .and_then(Place::of_address)
    {
        Some(place) => delete_at(&place, arguments)?,
        // Its start was cut off.
        None => (0, Exit::unknown()),
    };
    let response = task::DeleteResponse {
        pid,
        exit_status: exit.code.cast_unsigned(),
        exited_at: Some(timestamp(exit.at)),
    };
    io::stdout().write_all(&response.encode_to_vec())
}

fn delete_at(place: &Place, arguments: &Arguments) -> io::Result<(u32, Exit)> {
    if !record::is_id(&arguments.id) || Record::read(place, &arguments.id).is_err() {
        // As after every task that its shim has deleted.
        return Ok((0, Exit::unknown()));
    }
    // There is something: a shim has to see to it, and if the one that did was killed, this is how the next one starts.
    ensure(place, arguments, None)?;
    let failed = |error| io::Error::other(format!("{}: {error}", arguments.id));
    let mut shim = Client::connect(&place.control_socket()).map_err(failed)?;
    let tasks = shim.tasks().map_err(failed)?;
    let Some(task) = tasks.into_iter().find(|task| task.id == arguments.id) else {
        return Ok((0, Exit::unknown()));
    };
    match shim.disown(&arguments.id) {
        Err(error) if !error.is_unknown() => return Err(failed(error)),
        _ => {}
    }
    let exit = match task.state {
        TaskState::Exited { code, at, known } => Exit { code, at, known },
        TaskState::Created | TaskState::Running => Exit::unknown(),
    };
    // berth takes its own back. Nobody else would ask for one that has ended, or was never started.
    let berths = annotation(Path::new("config.json")).is_ok_and(|place| place.is_some());
    if !berths && !matches!(task.state, TaskState::Running) {
        match shim.forget(&arguments.id) {
            Err(error) if !error.is_unknown() => return Err(failed(error)),
            _ => {}
        }
    }
    Ok((task.pid, exit))
}

/// What containerd 2.x asks of a shim's program.
fn info() -> types::RuntimeInfo {
    types::RuntimeInfo {
        name: "io.containerd.berth.v1".to_owned(),
        version: Some(types::RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn the_flags_of_every_containerd_are_understood() {
        let line = "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id abc -debug start";
        let parsed = parse(line).unwrap();
        assert_eq!((parsed.command.as_str(), parsed.id.as_str()), ("start", "abc"));
        assert_eq!(
            (parsed.namespace.as_str(), parsed.address),
            ("k8s.io", "/run/c.sock".into())
        );
        let parsed = parse("--namespace=n --id=x -bundle /b delete").unwrap();
        assert_eq!((parsed.command.as_str(), parsed.bundle), ("delete", "/b".into()));
        assert!(parse("-v").unwrap().version && parse("-info").unwrap().info);
        assert!(parse("-id").is_err() && parse("-colour blue start").is_err());
    }

    #[test]
    fn each_containerd_is_answered_in_its_own_words() {
        let place = Place::new("/run/p").unwrap();
        assert_eq!(bootstrap(&place, None), "unix:///run/p/task.sock");
        for (newest, version) in [("2", 2), ("3", 3), ("9", 3)] {
            let answer: serde_json::Value = serde_json::from_str(&bootstrap(&place, Some(newest))).unwrap();
            assert_eq!(
                (answer["version"].as_u64(), answer["protocol"].as_str()),
                (Some(version), Some("ttrpc"))
            );
            assert_eq!(answer["address"], "unix:///run/p/task.sock");
        }
    }
}
