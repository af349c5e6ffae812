//! `berth exec`: run a command in a container.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::{Error, pod_name, pods};
use crate::proto::berth::ExecRequest;
use crate::proto::berth::exec_response::What;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pod
    pod: String,
    /// The container [default: the pod's first]
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "NAME")]
    container: String,
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    namespace: String,
    /// The command and its arguments, best after --
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// The exit code is the command's.
pub async fn run(args: Args, socket: &Path) -> Result<ExitCode, Error> {
    let request = ExecRequest {
        name: Some(pod_name(&args.pod, &args.namespace)),
        container: args.container,
        command: args.command,
    };
    let mut parts = pods(socket).await?.exec(request).await?.into_inner();
    while let Some(part) = parts.message().await? {
        match part.what {
            Some(What::Stdout(bytes)) => write(&mut io::stdout(), &bytes)?,
            Some(What::Stderr(bytes)) => write(&mut io::stderr(), &bytes)?,
            // What does not fit a process' exit code is none that a process ended with.
            Some(What::ExitCode(code)) => return Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))),
            None => {}
        }
    }
    Err(Error::Usage("the daemon went away before the command ended".to_owned()))
}

fn write(out: &mut impl Write, bytes: &[u8]) -> Result<(), Error> {
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(Error::io("cannot write"))
}
