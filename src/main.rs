//! The command line. `berth serve` is the daemon; everything else is a client of its socket or a tool.

use std::path::PathBuf;
use std::process::ExitCode;

use berth::config::{Config, DEFAULT_SOCKET, LogFormat, NetworkMode};
use berth::{cli, daemon};
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "berth",
    version,
    about = "A Kubernetes container runtime (CRI) on containerd, and pods without Kubernetes"
)]
struct Cli {
    /// The daemon's socket
    #[arg(long, global = true, env = "BERTH_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon
    Serve(Serve),
    /// Run a Pod manifest and show what happens to it
    Run(cli::run::Args),
    /// Show pods
    Get(cli::get::Args),
    /// Show a pod with its probes and events
    Describe(cli::describe::Args),
    /// Print what a pod's container wrote
    Logs(cli::logs::Args),
    /// Run a command in a pod's container
    Exec(cli::exec::Args),
    /// Delete pods
    Delete(cli::delete::Args),
    /// End the daemon, its pods, the shim and its own containerd
    Down(cli::down::Args),
    /// Pull, import, list and remove images
    Image(cli::image::ImageArgs),
}

/// Every option is also a key of the configuration file, which it overrides.
#[derive(Args)]
struct Serve {
    /// Configuration file [default: /etc/berth/config.toml, if present]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Socket of a running containerd [default: berth starts its own]
    #[arg(long, value_name = "ADDRESS")]
    containerd: Option<PathBuf>,
    /// What must survive a reboot [default: /var/lib/berth]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Run-time state [default: /run/berth]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where pods get their network from
    #[arg(long, value_enum)]
    network: Option<NetworkMode>,
    /// CNI configurations [default: /etc/cni/net.d]
    #[arg(long, value_name = "DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// CNI plugins [default: /opt/cni/bin]
    #[arg(long, value_name = "DIR")]
    cni_bin_dir: Option<PathBuf>,
    /// Registries' hosts.toml files [default: /etc/berth/certs.d, then /etc/containerd/certs.d]
    #[arg(long, value_name = "DIR")]
    certs_dir: Option<PathBuf>,
    /// Form of the log
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
    /// What to log, such as `info` or `berth=debug`
    #[arg(long, env = "BERTH_LOG")]
    log_level: Option<String>,
}

impl Serve {
    fn configuration(self, socket: Option<PathBuf>) -> Result<Config, berth::config::Error> {
        let mut config = Config::load(self.config.as_deref())?;
        // A state directory of its own brings its own socket, unless one is named.
        if let (Some(state), None) = (&self.state, &socket) {
            config.socket = state.join("berth.sock");
        }
        set(&mut config.socket, socket);
        set(&mut config.root, self.root);
        set(&mut config.state, self.state);
        set(&mut config.containerd.address, self.containerd.map(Some));
        set(&mut config.network.mode, self.network);
        set(&mut config.network.cni_conf_dir, self.cni_conf_dir);
        set(&mut config.network.cni_bin_dir, self.cni_bin_dir);
        set(&mut config.certs_dirs, self.certs_dir.map(|directory| vec![directory]));
        set(&mut config.log.format, self.log_format);
        set(&mut config.log.level, self.log_level);
        Ok(config)
    }
}

fn set<T>(value: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *value = given;
    }
}

fn main() -> ExitCode {
    let Cli { socket, command } = Cli::parse();
    match run(socket, command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("berth: {}", berth::model::causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(socket: Option<PathBuf>, command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    berth::daemon::prepare_process();
    let workers = if matches!(command, Command::Serve(_)) { 2 } else { 1 };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()?;
    if let Command::Serve(options) = command {
        let config = options.configuration(socket)?;
        daemon::log(&config.log);
        runtime.block_on(daemon::serve(config))?;
        return Ok(ExitCode::SUCCESS);
    }
    let socket = socket.unwrap_or_else(|| DEFAULT_SOCKET.into());
    Ok(runtime.block_on(client(command, &socket))?)
}

async fn client(command: Command, socket: &std::path::Path) -> Result<ExitCode, cli::Error> {
    match command {
        Command::Run(args) => cli::run::run(args, socket).await,
        Command::Get(args) => cli::get::run(args, socket).await,
        Command::Describe(args) => cli::describe::run(args, socket).await,
        Command::Logs(args) => cli::logs::run(args, socket).await,
        Command::Exec(args) => cli::exec::run(args, socket).await,
        Command::Delete(args) => cli::delete::run(args, socket).await,
        Command::Down(args) => cli::down::run(args, socket).await,
        Command::Image(args) => cli::image::run(args, socket).await,
        Command::Serve(_) => unreachable!("the daemon is no client"),
    }
}
