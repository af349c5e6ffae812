//! RunPodSandbox: a pod's namespaces, network and files.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::container_start::{AGAIN, lost_with_shim};
use super::error::{Error, Kind};
use super::operation::Key;
use super::registry::{Name, Sandbox};
use super::{Core, Pods, blocking, now};
use crate::containerd::{self, Record, Stdio, Task};
use crate::failpoint::effect;
use crate::model::record::{SandboxRecord, VERSION};
use crate::model::sandbox::{Dns, Owner, Pins, Ready, SandboxConfig, SandboxState};
use crate::model::security::{IpcMode, NetworkMode, PidMode};
use crate::model::{Id, Refusal};
use crate::{netns, oci, sys};

/// Size of a pod's /dev/shm, the default of Kubernetes' runtimes.
const SHM_SIZE: u64 = 64 << 20;

impl Pods {
    /// Makes a sandbox and gives its id once its namespaces stand and its network is up.
    ///
    /// # Errors
    /// A refusal for what cannot be; `NameTaken` when a listed sandbox has this name. Otherwise nothing is left of
    /// it, or, where that failed too, the sandbox stays listed and not ready.
    pub async fn run_sandbox(&self, config: SandboxConfig, handler: &str, owner: Owner) -> Result<Id, Error> {
        let core = Arc::clone(&self.0);
        core.check_sandbox(&config, handler)?;
        let key = Key::Make(Name::Sandbox(config.name.clone()));
        let (state, handler) = (SandboxState::Creating, handler.to_owned());
        let own = core.handler(&handler).is_some_and(|handler| handler.own_shim);
        let shim = core.choose_shim(own);
        let record = SandboxRecord {
            version: VERSION,
            config,
            handler,
            owner,
            created_at: now(),
            state,
            shim,
        };
        self.0
            .operations
            .joined(key, async move { core.run_sandbox(record).await })
            .await
    }
}

impl Core {
    fn check_sandbox(&self, config: &SandboxConfig, handler: &str) -> Result<(), Error> {
        if self.handler(handler).is_none() {
            let known: Vec<_> = self.settings.handlers.keys().map(String::as_str).collect();
            let reason = format!("there is no handler {handler:?} (configured: {})", known.join(", "));
            return Err(Refusal::invalid("runtime_handler", reason).into());
        }
        if let Some(index) = config.port_mappings.iter().position(|mapping| mapping.host_port != 0)
            && config.namespaces.network == NetworkMode::Pod
        {
            let field = format!("port_mappings[{index}].host_port");
            return Err(Refusal::unsupported(field, "publishing a port on the node").into());
        }
        Ok(netns::check_sysctls(
            config.sysctls.keys().map(String::as_str),
            &config.namespaces,
        )?)
    }

    async fn run_sandbox(self: &Arc<Self>, record: SandboxRecord) -> Result<Id, Error> {
        let id = Id::random();
        let name = Name::Sandbox(record.config.name.clone());
        self.registry.reserve(&name, &id)?;
        let sandbox = Sandbox::new(id.clone(), record);
        let claim = sandbox.claim.lock().await;
        if let Err(error) = self.record_sandbox(&sandbox).await {
            // Nothing is made yet but, at most, a lease and a record; recovery knows both by their labels.
            let undone = self.until_containerd(|| self.forget_sandbox(&id)).await;
            self.registry.release(&name);
            return Err(with_undo(error, undone.map_err(Error::from)));
        }
        self.registry.add_sandbox(Arc::clone(&sandbox));
        let made = self.make_sandbox(&sandbox).await;
        drop(claim);
        match made {
            Ok(()) => {
                self.watch_ready(&sandbox);
                Ok(id)
            }
            Err(error) => Err(with_undo(error, self.remove_sandbox_of(&sandbox).await)),
        }
    }

    /// Takes note when what a ready sandbox rests on ends.
    pub(super) fn watch_ready(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        if let SandboxState::Ready(Ready { holder: Some(_), .. }) = sandbox.state() {
            self.watch_holder(sandbox);
        }
    }

    /// The intent: a lease for what the pod will hold in containerd, and the record.
    async fn record_sandbox(&self, sandbox: &Sandbox) -> Result<(), Error> {
        let instance = &self.settings.instance;
        let labels =
            std::collections::HashMap::from([(crate::model::names::label::INSTANCE.to_owned(), instance.clone())]);
        effect(
            "sandbox.lease",
            self.containerd.leases().create(sandbox.id.as_str(), labels, None),
        )
        .await?;
        let record = sandbox.record();
        let handler = self.handler(&record.handler).expect("the handler was checked");
        let oci::Built { spec, .. } = oci::holder(&oci::HolderPlan {
            sandbox_id: &sandbox.id,
            sandbox: &record.config,
            namespaces: &self.namespace_paths(&sandbox.id, &record.config),
            cgroup: &format!("{}/{}", self.pod_cgroup(&sandbox.id, &record.config), sandbox.id),
            rootfs: &self.paths.holder,
            host: &self.settings.host,
        })?;
        let spec = self.placed(spec, &record.shim);
        let record = Record::Sandbox(Box::new(record));
        let new = containerd::New {
            id: &sandbox.id,
            record: &record,
            spec: serde_json::to_vec(&spec).expect("a spec serialises"),
            runtime: &handler.runtime_type,
            options: &handler.options,
            image: String::new(),
            snapshotter: None,
        };
        Ok(effect("sandbox.record", self.containerd.create_record(instance, new)).await?)
    }

    async fn make_sandbox(self: &Arc<Self>, sandbox: &Sandbox) -> Result<(), Error> {
        let (id, config) = (&sandbox.id, sandbox.record().config);
        self.group(&sandbox.shim().group).ready().await?;
        self.make_files(id, &config).await?;
        let pins = self.make_namespaces(id, &config).await?;
        let ips = match &pins.net {
            Some(pin) => self.network.attach(id, pin).await?,
            None => Vec::new(),
        };
        if let Some(ip) = ips.first() {
            self.write(self.paths.hosts(id), hosts(&hostname(&config), *ip))?;
        }
        let holder = match config.namespaces.pid {
            PidMode::Pod => Some(self.start_holder(sandbox).await?),
            PidMode::Container | PidMode::Node | PidMode::Target(_) => None,
        };
        let ready = SandboxState::Ready(Ready { pins, ips, holder });
        Ok(effect("sandbox.ready", self.set_sandbox(sandbox, ready)).await?)
    }

    async fn make_files(&self, id: &Id, config: &SandboxConfig) -> Result<(), Error> {
        effect("sandbox.files", async {
            let directory = self.paths.sandbox(id);
            fs::create_dir_all(&directory).map_err(Error::file("cannot make", &directory))?;
            let own_network = config.namespaces.network == NetworkMode::Pod;
            let resolv = match &config.dns {
                Some(dns) => resolv_conf(dns),
                None if own_network => node_resolv_conf(),
                None => read_node("/etc/resolv.conf"),
            };
            self.write(self.paths.resolv_conf(id), resolv)?;
            self.write(self.paths.hostname(id), hostname(config) + "\n")?;
            self.write(
                self.paths.hosts(id),
                if own_network {
                    String::new()
                } else {
                    read_node("/etc/hosts")
                },
            )
        })
        .await?;
        if config.namespaces.ipc == IpcMode::Pod {
            effect("sandbox.shm", async {
                let shm = self.paths.shm(id);
                fs::create_dir_all(&shm).map_err(Error::file("cannot make", &shm))?;
                sys::mount::tmpfs(&shm, SHM_SIZE, 0o1777).map_err(Error::file("cannot mount", &shm))
            })
            .await?;
        }
        Ok(())
    }

    /// Every file made for a pod is written here.
    fn write(&self, path: std::path::PathBuf, text: String) -> Result<(), Error> {
        fs::write(&path, text).map_err(Error::file("cannot write", path))
    }

    async fn make_namespaces(&self, id: &Id, config: &SandboxConfig) -> Result<Pins, Error> {
        let own_network = config.namespaces.network == NetworkMode::Pod;
        let request = netns::Request {
            net: own_network.then(|| self.paths.net_pin(id)),
            ipc: (config.namespaces.ipc == IpcMode::Pod).then(|| self.paths.ipc_pin(id)),
            uts: own_network.then(|| (self.paths.uts_pin(id), hostname(config))),
            sysctls: config.sysctls.clone(),
        };
        Ok(effect("sandbox.namespaces", blocking(move || netns::make(&request))).await?)
    }

    /// The process that holds a shared PID namespace. Gives its pid.
    async fn start_holder(self: &Arc<Self>, sandbox: &Sandbox) -> Result<u32, Error> {
        let id = &sandbox.id;
        let rootfs = self.paths.holder.clone();
        blocking(move || netns::holder::install(&rootfs))
            .await
            .map_err(Error::file("cannot install", &self.paths.holder))?;
        let options = &self
            .handler(&sandbox.record().handler)
            .expect("the handler was checked")
            .options;
        let start = |source| Error::Start { id: id.clone(), source };
        let _alone = sandbox.making().await;
        let deadline = Instant::now() + AGAIN;
        loop {
            let made = async {
                let create = self.containerd.create_task(id, &[], Stdio::default(), options);
                let pid = effect("sandbox.holder.task", create).await?;
                effect("sandbox.holder.start", self.containerd.start_task(id)).await?;
                Ok::<u32, containerd::Error>(pid)
            };
            match made.await {
                Ok(pid) => {
                    self.keep_process(sandbox, id).await;
                    return Ok(pid);
                }
                // Our own shim was killed meanwhile. What it was about is undone, or is there after all.
                Err(error) if lost_with_shim(&error) && sandbox.shim().own && Instant::now() < deadline => {
                    match self.find_task(sandbox, id).await? {
                        Some(Task::Running { pid }) => return Ok(pid),
                        Some(_) => self.end_holder(sandbox).await?,
                        None => tracing::debug!(%error, "making the holder of a pod once more"),
                    }
                }
                Err(error) => return Err(start(error)),
            }
        }
    }

    /// The pod's cgroup, in cgroupfs syntax: the caller's, or one of berth's own.
    pub(super) fn pod_cgroup(&self, id: &Id, config: &SandboxConfig) -> String {
        config
            .cgroup_parent
            .clone()
            .unwrap_or_else(|| self.paths.own_cgroup(id))
    }

    /// How a process of the pod gets its namespaces (the PID namespace apart).
    pub(super) fn namespace_paths(&self, id: &Id, config: &SandboxConfig) -> oci::NamespacePaths {
        let own_network = config.namespaces.network == NetworkMode::Pod;
        oci::NamespacePaths {
            net: own_network.then(|| self.paths.net_pin(id)),
            uts: own_network.then(|| self.paths.uts_pin(id)),
            ipc: (config.namespaces.ipc == IpcMode::Pod).then(|| self.paths.ipc_pin(id)),
            pid: None,
        }
    }
}

/// The error, and what its undo left undone.
pub(super) fn with_undo(error: Error, undone: Result<(), Error>) -> Error {
    match undone {
        Ok(()) => error,
        Err(undo) => {
            tracing::error!(error = %undo, "a failed operation could not be undone whole; it will be tried again");
            error
        }
    }
}

/// The pod's host name: what was asked for, or the pod's name; for a pod on the node's network the node's.
pub(super) fn hostname(config: &SandboxConfig) -> String {
    if config.namespaces.network == NetworkMode::Node {
        let node = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        return node.unwrap_or_default();
    }
    let name = if config.hostname.is_empty() {
        &config.name.name
    } else {
        &config.hostname
    };
    // The kernel takes at most 64 bytes (uname(2)); Kubernetes cuts a pod's name at 63 and the trim ends it well.
    name.chars()
        .take(63)
        .collect::<String>()
        .trim_end_matches(['-', '.'])
        .to_owned()
}

fn read_node(path: &str) -> String {
    fs::read_to_string(Path::new(path)).unwrap_or_default()
}

/// The node's resolv.conf, for a pod with a network of its own: where systemd-resolved listens on the node's loopback,
/// which is not the pod's, its list of the real servers (systemd-resolved.service(8)).
fn node_resolv_conf() -> String {
    let text = read_node("/etc/resolv.conf");
    if !names_loopback_only(&text) {
        return text;
    }
    let real = read_node("/run/systemd/resolve/resolv.conf");
    if real.is_empty() { text } else { real }
}

fn names_loopback_only(resolv_conf: &str) -> bool {
    let servers = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    let mut servers = servers
        .filter_map(|server| server.trim().parse::<IpAddr>().ok())
        .peekable();
    servers.peek().is_some() && servers.all(|server| server.is_loopback())
}

/// resolv.conf(5)
fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

/// hosts(5)
fn hosts(hostname: &str, ip: IpAddr) -> String {
    format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n{ip}\t{hostname}\n"
    )
}

impl Sandbox {
    /// The ready sandbox's holdings, or why it cannot be used.
    pub(super) fn ready(&self) -> Result<Ready, Error> {
        let wrong = |state| Error::WrongState {
            kind: Kind::Sandbox,
            id: self.id.clone(),
            state,
            wanted: "it must be ready",
        };
        match self.state() {
            SandboxState::Ready(ready) => Ok(ready),
            SandboxState::Creating => Err(wrong("being made")),
            SandboxState::Stopping(_) => Err(wrong("being stopped")),
            SandboxState::Stopped => Err(wrong("stopped")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sandbox::SandboxName;

    fn named(name: &str, hostname: &str) -> SandboxConfig {
        let name = SandboxName {
            name: name.to_owned(),
            ..SandboxName::default()
        };
        SandboxConfig {
            name,
            hostname: hostname.to_owned(),
            ..SandboxConfig::default()
        }
    }

    #[test]
    fn the_host_name_is_the_pods_unless_one_is_given() {
        assert_eq!(hostname(&named("web", "")), "web");
        assert_eq!(hostname(&named("web", "www")), "www");
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(10));
        assert_eq!(hostname(&named(&long, "")), "a".repeat(62));
    }

    #[test]
    fn a_resolver_on_the_nodes_loopback_is_no_pods() {
        assert!(names_loopback_only("# stub\nnameserver 127.0.0.53\noptions edns0\n"));
        assert!(names_loopback_only("nameserver ::1\nnameserver 127.0.0.1\n"));
        for text in [
            "",
            "search a\n",
            "nameserver 10.0.0.2\n",
            "nameserver 127.0.0.53\nnameserver 10.0.0.2\n",
        ] {
            assert!(!names_loopback_only(text), "{text:?}");
        }
    }

    #[test]
    fn resolv_conf_holds_what_was_given_and_no_more() {
        let dns = Dns {
            servers: vec!["10.0.0.10".into(), "fd00::a".into()],
            searches: vec!["a.local".into(), "b.local".into()],
            options: vec!["ndots:5".into()],
        };
        let text = "search a.local b.local\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns), text);
        assert_eq!(resolv_conf(&Dns::default()), "");
    }
}
