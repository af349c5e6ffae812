//! CreateContainer: its root file system, its OCI spec, its record. It does not start.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::{Error, Kind};
use super::operation::Key;
use super::registry::{Container, Name, Sandbox};
use super::sandbox_run::with_undo;
use super::{Core, Handler, Pods, blocking, host_paths, now};
use crate::containerd::{self, Record};
use crate::failpoint::effect;
use crate::model::container::{ContainerConfig, ContainerState, User};
use crate::model::image::Image;
use crate::model::record::{ContainerRecord, VERSION};
use crate::model::sandbox::Ready;
use crate::model::security::{IpcMode, NetworkMode, PidMode};
use crate::model::{Id, Refusal, Signal};
use crate::sys::rootfs::Mount;
use crate::{oci, sys};

/// The files of a root file system that say who its users are may be this large; a hostile one is cut off.
const MAX_PASSWD: u64 = 4 << 20;

impl Pods {
    /// Makes a container in a ready sandbox and gives its id.
    ///
    /// # Errors
    /// A refusal names the field; `NoImage` when the image is not present; `NameTaken` when the sandbox has a
    /// container of this name and attempt. Nothing half-made stays.
    pub async fn create_container(&self, sandbox: &Id, config: ContainerConfig) -> Result<Id, Error> {
        let (core, sandbox) = (Arc::clone(&self.0), self.0.registry.sandbox(sandbox)?);
        let (name, attempt) = (config.name.clone(), config.attempt);
        let name = Name::Container {
            sandbox: sandbox.id.clone(),
            name,
            attempt,
        };
        let work = {
            let name = name.clone();
            async move { core.create_container(&sandbox, name, config).await }
        };
        self.0.operations.joined(Key::Make(name), work).await
    }
}

impl Core {
    async fn create_container(&self, sandbox: &Sandbox, name: Name, config: ContainerConfig) -> Result<Id, Error> {
        let _claim = sandbox.claim.lock().await;
        let ready = sandbox.ready()?;
        check_namespaces(sandbox, &config)?;
        let id = Id::random();
        self.registry.reserve(&name, &id)?;
        let created = self.make_container(sandbox, &ready, &id, config).await;
        match created {
            Ok(container) => {
                self.registry.add_container(container);
                Ok(id)
            }
            Err(error) => {
                self.registry.release(&name);
                Err(error)
            }
        }
    }

    async fn make_container(
        &self,
        sandbox: &Sandbox,
        ready: &Ready,
        id: &Id,
        config: ContainerConfig,
    ) -> Result<Arc<Container>, Error> {
        let sandbox_record = sandbox.record();
        let handler = self.handler(&sandbox_record.handler).expect("the handler was checked");
        let image = self.find_image(&config).await?;
        let sources = host_paths::sources(&config)?;
        let devices = host_paths::devices(&config)?;
        let seccomp = host_paths::seccomp(&config.security)?;
        let pid = self.pid_namespace(sandbox, ready, &config)?;
        let chain_id = self.images.unpack(&image, &handler.snapshotter).await?;
        let owner = (self.settings.instance.as_str(), sandbox.id.as_str());
        let made = async {
            let rootfs = effect(
                "container.snapshot",
                self.containerd
                    .prepare_snapshot(owner, &handler.snapshotter, id, &chain_id),
            )
            .await?;
            let user = find_user(&config, &image, rootfs).await?;
            let cgroup = format!("{}/{id}", self.pod_cgroup(&sandbox.id, &sandbox_record.config));
            let namespaces = self.namespace_paths(&sandbox.id, &sandbox_record.config);
            let mounts = config.mounts.iter().zip(&sources);
            let mounts = mounts.map(|(request, (source, propagates))| oci::HostMount {
                request,
                source,
                propagates: *propagates,
            });
            let oci::Built { spec, notes } = oci::container(&oci::Plan {
                sandbox_id: &sandbox.id,
                sandbox: &sandbox_record.config,
                container: &config,
                image: &image.config,
                user: &user,
                hostname: &super::sandbox_run::hostname(&sandbox_record.config),
                namespaces: &oci::NamespacePaths { pid, ..namespaces },
                files: &self.pod_files(sandbox),
                mounts: &mounts.collect::<Vec<_>>(),
                cgroup: &cgroup,
                devices: &devices,
                seccomp_profile: seccomp.as_deref(),
                host: &self.settings.host,
            })?;
            let spec = self.placed(spec, &sandbox_record.shim);
            log_once(&notes);
            let record = ContainerRecord {
                version: VERSION,
                sandbox: sandbox.id.clone(),
                image_id: image.id.clone(),
                image_ref: image.repo_digests.first().unwrap_or(&image.id).clone(),
                user,
                stop_signal: config.stop_signal.or(image.config.stop_signal).unwrap_or(Signal::TERM),
                cgroup,
                created_at: now(),
                state: ContainerState::Created,
                ending: None,
                config,
            };
            self.record_container(id, record, &spec, handler, &image).await
        };
        match made.await {
            Ok(container) => Ok(container),
            Err(error) => {
                let undone = self.undo_create(id, handler).await;
                Err(with_undo(error, undone.map_err(Error::from)))
            }
        }
    }

    async fn record_container(
        &self,
        id: &Id,
        record: ContainerRecord,
        spec: &oci::Spec,
        handler: &Handler,
        image: &Image,
    ) -> Result<Arc<Container>, Error> {
        let wrapped = Record::Container(Box::new(record.clone()));
        let new = containerd::New {
            id,
            record: &wrapped,
            spec: serde_json::to_vec(spec).expect("a spec serialises"),
            runtime: &handler.runtime_type,
            options: &handler.options,
            image: image
                .repo_tags
                .first()
                .or(image.repo_digests.first())
                .unwrap_or(&image.id)
                .clone(),
            snapshotter: Some(&handler.snapshotter),
        };
        effect(
            "container.record",
            self.containerd.create_record(&self.settings.instance, new),
        )
        .await?;
        Ok(Container::new(id.clone(), record))
    }

    /// Also where containerd has gone away in the middle of it: what it made then is not listed anywhere here.
    async fn undo_create(&self, id: &Id, handler: &Handler) -> Result<(), containerd::Error> {
        self.until_containerd(|| self.containerd.delete_record(id)).await?;
        self.until_containerd(|| self.containerd.remove_snapshot(&handler.snapshotter, id))
            .await
    }

    async fn find_image(&self, config: &ContainerConfig) -> Result<Image, Error> {
        let name = &config.image.image;
        let found = self.images.find(name).await?;
        found.ok_or_else(|| Error::NoImage { image: name.clone() })
    }

    fn pod_files(&self, sandbox: &Sandbox) -> oci::PodFiles {
        let shm = match sandbox.record().config.namespaces.ipc {
            IpcMode::Pod => self.paths.shm(&sandbox.id),
            IpcMode::Node => "/dev/shm".into(),
        };
        let (hosts, hostname) = (self.paths.hosts(&sandbox.id), self.paths.hostname(&sandbox.id));
        oci::PodFiles {
            hosts,
            hostname,
            resolv_conf: self.paths.resolv_conf(&sandbox.id),
            shm,
        }
    }

    fn pid_namespace(
        &self,
        sandbox: &Sandbox,
        ready: &Ready,
        config: &ContainerConfig,
    ) -> Result<Option<PathBuf>, Error> {
        let of_task = |pid: u32| Some(PathBuf::from(format!("/proc/{pid}/ns/pid")));
        match &config.security.namespaces.pid {
            PidMode::Container | PidMode::Node => Ok(None),
            PidMode::Pod => Ok(ready.holder.and_then(of_task)),
            PidMode::Target(target) => {
                let refuse =
                    |reason: &str| Refusal::invalid("linux.security_context.namespace_options.target_id", reason);
                let target = self
                    .registry
                    .container(target)
                    .map_err(|_| refuse("there is no such container"))?;
                if target.record().sandbox != sandbox.id {
                    return Err(refuse("the container is in another sandbox").into());
                }
                match target.state() {
                    ContainerState::Running { pid, .. } => Ok(of_task(pid)),
                    _ => Err(refuse("the container does not run").into()),
                }
            }
        }
    }
}

/// A container shares what its sandbox has, or is apart; it cannot have what its sandbox has not.
fn check_namespaces(sandbox: &Sandbox, config: &ContainerConfig) -> Result<(), Error> {
    let (pod, own) = (sandbox.record().config.namespaces, &config.security.namespaces);
    let refuse = |field: &str, reason: &str| {
        let field = format!("linux.security_context.namespace_options.{field}");
        Err(Refusal::invalid(field, reason).into())
    };
    // POD is also what a client that says nothing sends, so it means the sandbox's, whatever that is.
    if own.network == NetworkMode::Node && pod.network == NetworkMode::Pod {
        return refuse("network", "NODE, but the sandbox has a network of its own");
    }
    if own.ipc == IpcMode::Node && pod.ipc == IpcMode::Pod {
        return refuse("ipc", "NODE, but the sandbox has an IPC namespace of its own");
    }
    if own.pid == PidMode::Pod && pod.pid != PidMode::Pod {
        return refuse("pid", "POD, but the sandbox has no shared PID namespace");
    }
    Ok(())
}

async fn find_user(config: &ContainerConfig, image: &Image, rootfs: Vec<Mount>) -> Result<User, Error> {
    let failed = Error::file("cannot read the users of", &*image.id);
    let read = move || {
        let root = sys::rootfs::open(&rootfs)?;
        let read = |path: &str| sys::rootfs::read_in(&root, path, MAX_PASSWD);
        Ok((read("etc/passwd")?, read("etc/group")?))
    };
    let (passwd, group) = blocking(read).await.map_err(failed)?;
    let security = &config.security;
    let accounts = oci::user::Accounts {
        passwd: passwd.as_deref(),
        group: group.as_deref(),
    };
    Ok(oci::user::resolve(security, &image.config.user, accounts)?)
}

/// What the host could not grant is said once, not for every container.
fn log_once(notes: &[oci::Note]) {
    static SAID: std::sync::Mutex<Vec<oci::Note>> = std::sync::Mutex::new(Vec::new());
    let mut said = SAID.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for note in notes {
        if !said.contains(note) {
            said.push(note.clone());
            tracing::warn!("{note} (said once)");
        }
    }
}

impl super::registry::Container {
    /// For an error: the state in a word.
    pub(super) fn wrong_state(&self, wanted: &'static str) -> Error {
        let state = match self.state() {
            ContainerState::Created => "created",
            ContainerState::Running { .. } => "running",
            ContainerState::Exited(_) => "ended",
        };
        Error::WrongState {
            kind: Kind::Container,
            id: self.id.clone(),
            state,
            wanted,
        }
    }
}
