//! What berth knows of its sandboxes and containers, in memory. Its locks are held for moments, never over an await.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard, watch};

use super::error::{Error, Kind};
use super::exec::Direct;
use crate::containerd::{self, Record};
use crate::model::Id;
use crate::model::container::{ContainerState, Exit};
use crate::model::record::{ContainerRecord, SandboxRecord, ShimUse};
use crate::model::sandbox::{SandboxName, SandboxState};

/// A sandbox that is listed.
pub(super) struct Sandbox {
    pub id: Id,
    record: Mutex<SandboxRecord>,
    /// Held by whoever changes what the sandbox is made of.
    pub claim: tokio::sync::Mutex<()>,
    /// Tasks of a pod share a stock shim, which ends with its last task: a task must not be made while one is deleted.
    tasks: RwLock<()>,
}

/// A container that is listed.
pub(super) struct Container {
    pub id: Id,
    record: Mutex<ContainerRecord>,
    /// One change at a time, so that none overwrites another.
    writing: tokio::sync::Mutex<()>,
    /// Turns true when its task is gone, after its end.
    gone: watch::Sender<bool>,
    /// Changes with the state.
    changed: watch::Sender<()>,
    /// How commands are run in it, once that is known; None inside: through containerd.
    direct: OnceCell<Option<Arc<Direct>>>,
}

#[derive(Default)]
pub(super) struct Registry {
    tables: Mutex<Tables>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Tables {
    sandboxes: BTreeMap<Id, Arc<Sandbox>>,
    containers: BTreeMap<Id, Arc<Container>>,
    names: HashMap<Name, Id>,
    /// Recorded in containerd, but not to be read by this berth.
    unreadable: HashSet<Id>,
}

impl Tables {
    fn free(&mut self, name: &Name, id: &Id) {
        if self.names.get(name) == Some(id) {
            self.names.remove(name);
        }
    }
}

/// What no two live things share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Name {
    Sandbox(SandboxName),
    Container { sandbox: Id, name: String, attempt: u32 },
}

impl Name {
    fn kind(&self) -> Kind {
        match self {
            Self::Sandbox(_) => Kind::Sandbox,
            Self::Container { .. } => Kind::Container,
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sandbox(name) => {
                write!(
                    f,
                    "{}/{} (uid {}, attempt {})",
                    name.namespace, name.name, name.uid, name.attempt
                )
            }
            Self::Container { name, attempt, .. } => write!(f, "{name} (attempt {attempt})"),
        }
    }
}

impl Sandbox {
    pub fn new(id: Id, record: SandboxRecord) -> Arc<Self> {
        let (claim, tasks) = (tokio::sync::Mutex::default(), RwLock::default());
        Arc::new(Self {
            id,
            record: Mutex::new(record),
            claim,
            tasks,
        })
    }

    /// To be held while a task of the pod is made.
    pub async fn making(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        match self.shim().own {
            true => None,
            false => Some(self.tasks.write().await),
        }
    }

    /// To be held while a task of the pod is deleted.
    pub async fn deleting(&self) -> Option<RwLockReadGuard<'_, ()>> {
        match self.shim().own {
            true => None,
            false => Some(self.tasks.read().await),
        }
    }

    pub fn record(&self) -> SandboxRecord {
        lock(&self.record).clone()
    }

    pub fn state(&self) -> SandboxState {
        lock(&self.record).state.clone()
    }

    /// Which shim process it belongs to, which never changes.
    pub fn shim(&self) -> ShimUse {
        lock(&self.record).shim.clone()
    }
}

impl Container {
    pub fn new(id: Id, record: ContainerRecord) -> Arc<Self> {
        let (writing, gone, changed) = (
            tokio::sync::Mutex::default(),
            watch::Sender::new(false),
            watch::Sender::new(()),
        );
        Arc::new(Self {
            id,
            record: Mutex::new(record),
            writing,
            gone,
            changed,
            direct: OnceCell::new(),
        })
    }

    pub fn record(&self) -> ContainerRecord {
        lock(&self.record).clone()
    }

    pub fn state(&self) -> ContainerState {
        lock(&self.record).state.clone()
    }

    pub fn direct(&self) -> &OnceCell<Option<Arc<Direct>>> {
        &self.direct
    }

    /// Waits until the container has ended. Returns at once when it has, or never ran.
    pub async fn ended(&self) -> Option<Exit> {
        let mut changed = self.changed.subscribe();
        loop {
            match self.state() {
                ContainerState::Running { .. } => changed.changed().await.expect("we hold the sender"),
                ContainerState::Created => return None,
                ContainerState::Exited(exit) => return Some(exit),
            }
        }
    }

    /// Waits until an ended container's task is gone too.
    pub async fn gone(&self) {
        self.gone
            .subscribe()
            .wait_for(|gone| *gone)
            .await
            .expect("we hold the sender");
    }

    pub fn set_gone(&self) {
        self.gone.send_replace(true);
    }
}

impl Registry {
    /// Takes a name for `id`, or tells who has it.
    pub fn reserve(&self, name: &Name, id: &Id) -> Result<(), Error> {
        match self.tables().names.entry(name.clone()) {
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(id.clone());
                Ok(())
            }
            std::collections::hash_map::Entry::Occupied(taken) => Err(Error::NameTaken {
                kind: name.kind(),
                name: name.to_string(),
                id: taken.get().clone(),
            }),
        }
    }

    /// Gives a name back.
    pub fn release(&self, name: &Name) {
        self.tables().names.remove(name);
    }

    /// Every id in use: listed, about to be, or recorded by a berth that this one does not understand.
    pub fn ids(&self) -> HashSet<Id> {
        let tables = self.tables();
        let listed = tables.sandboxes.keys().chain(tables.containers.keys());
        let others = tables.names.values().chain(&tables.unreadable);
        listed.chain(others).cloned().collect()
    }

    /// Keeps what belongs to a record that cannot be read from being taken for leftovers.
    pub fn leave_alone(&self, id: Id) {
        self.tables().unreadable.insert(id);
    }

    pub fn add_sandbox(&self, sandbox: Arc<Sandbox>) {
        self.tables().sandboxes.insert(sandbox.id.clone(), sandbox);
        self.announce();
    }

    pub fn add_container(&self, container: Arc<Container>) {
        self.tables().containers.insert(container.id.clone(), container);
        self.announce();
    }

    /// Forgets a sandbox and its name.
    pub fn drop_sandbox(&self, sandbox: &Sandbox) {
        let name = Name::Sandbox(sandbox.record().config.name);
        let mut tables = self.tables();
        tables.sandboxes.remove(&sandbox.id);
        tables.free(&name, &sandbox.id);
        drop(tables);
        self.announce();
    }

    /// Forgets a container and its name.
    pub fn drop_container(&self, container: &Container) {
        let name = container_name(&container.record());
        let mut tables = self.tables();
        tables.containers.remove(&container.id);
        tables.free(&name, &container.id);
        drop(tables);
        self.announce();
    }

    pub fn sandbox(&self, id: &Id) -> Result<Arc<Sandbox>, Error> {
        let found = self.tables().sandboxes.get(id).cloned();
        found.ok_or_else(|| Error::NotFound {
            kind: Kind::Sandbox,
            id: id.to_string(),
        })
    }

    pub fn container(&self, id: &Id) -> Result<Arc<Container>, Error> {
        let found = self.tables().containers.get(id).cloned();
        found.ok_or_else(|| Error::NotFound {
            kind: Kind::Container,
            id: id.to_string(),
        })
    }

    pub fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.tables().sandboxes.values().cloned().collect()
    }

    /// The group of pods of each sandbox.
    pub fn shim_groups(&self) -> Vec<String> {
        let tables = self.tables();
        tables.sandboxes.values().map(|sandbox| sandbox.shim().group).collect()
    }

    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.tables().containers.values().cloned().collect()
    }

    pub fn containers_of(&self, sandbox: &Id) -> Vec<Arc<Container>> {
        self.containers()
            .into_iter()
            .filter(|container| container.record().sandbox == *sandbox)
            .collect()
    }

    pub fn resolve_sandbox(&self, text: &str) -> Result<Id, Error> {
        resolve(&self.tables().sandboxes, text, Kind::Sandbox)
    }

    pub fn resolve_container(&self, text: &str) -> Result<Id, Error> {
        resolve(&self.tables().containers, text, Kind::Container)
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn announce(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        lock(&self.tables)
    }
}

impl super::Core {
    /// Moves a sandbox to `state`: in containerd first, then in memory.
    pub(super) async fn set_sandbox(&self, sandbox: &Sandbox, state: SandboxState) -> Result<(), containerd::Error> {
        let record = SandboxRecord {
            state: state.clone(),
            ..sandbox.record()
        };
        self.containerd
            .update_record(&sandbox.id, &Record::Sandbox(Box::new(record)))
            .await?;
        lock(&sandbox.record).state = state;
        self.registry.announce();
        Ok(())
    }

    /// Changes what is recorded of a container: in containerd first, then in memory.
    pub(super) async fn change_container(
        &self,
        container: &Container,
        change: impl FnOnce(&mut ContainerRecord),
    ) -> Result<(), containerd::Error> {
        let _writing = container.writing.lock().await;
        let mut record = container.record();
        change(&mut record);
        self.containerd
            .update_record(&container.id, &Record::Container(Box::new(record.clone())))
            .await?;
        *lock(&container.record) = record;
        container.changed.send_replace(());
        self.registry.announce();
        Ok(())
    }
}

/// The name that a container of this record has reserved.
pub(super) fn container_name(record: &ContainerRecord) -> Name {
    let (name, attempt) = (record.config.name.clone(), record.config.attempt);
    Name::Container {
        sandbox: record.sandbox.clone(),
        name,
        attempt,
    }
}

fn resolve<T>(table: &BTreeMap<Id, T>, text: &str, kind: Kind) -> Result<Id, Error> {
    let not_found = || Error::NotFound {
        kind,
        id: text.chars().take(80).collect(),
    };
    if text.is_empty() {
        return Err(not_found());
    }
    let matches: Vec<&Id> = table.keys().filter(|id| id.as_str().starts_with(text)).collect();
    match matches.as_slice() {
        [] => Err(not_found()),
        [id] => Ok((*id).clone()),
        several => Err(Error::Ambiguous {
            kind,
            prefix: text.to_owned(),
            count: several.len(),
        }),
    }
}

/// A poisoned lock guards plain data that is replaced whole, so it is still right.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char, last: char) -> Id {
        format!("{}{last}", String::from(digit).repeat(63)).parse().unwrap()
    }

    #[test]
    fn a_short_id_is_resolved_when_it_is_unambiguous() {
        let table = BTreeMap::from([(id('a', '1'), ()), (id('a', '2'), ()), (id('b', '1'), ())]);
        let find = |text: &str| resolve(&table, text, Kind::Sandbox);
        assert_eq!(find("b").unwrap(), id('b', '1'));
        assert_eq!(find(id('a', '2').as_str()).unwrap(), id('a', '2'));
        assert!(matches!(find("aaa"), Err(Error::Ambiguous { count: 2, .. })));
        for text in ["", "c", "ba"] {
            assert!(matches!(find(text), Err(Error::NotFound { .. })), "{text}");
        }
    }

    fn record(name: &str) -> SandboxRecord {
        let name = SandboxName {
            name: name.to_owned(),
            ..SandboxName::default()
        };
        SandboxRecord {
            version: crate::model::record::VERSION,
            config: crate::model::sandbox::SandboxConfig {
                name,
                ..Default::default()
            },
            handler: String::new(),
            owner: crate::model::sandbox::Owner::Cri,
            created_at: 1,
            state: SandboxState::Stopped,
            shim: Default::default(),
        }
    }

    #[test]
    fn nothing_recorded_counts_as_a_leftover() {
        let registry = Registry::default();
        let (first, second, foreign) = (id('a', '1'), id('a', '2'), id('b', '1'));
        let name = Name::Sandbox(record("web").config.name);
        registry.reserve(&name, &first).unwrap();
        for id in [&first, &second] {
            registry.add_sandbox(Sandbox::new(id.clone(), record("web")));
        }
        registry.leave_alone(foreign.clone());
        assert_eq!(registry.ids(), HashSet::from([first.clone(), second.clone(), foreign]));
        let twin = registry.sandbox(&second).unwrap();
        registry.drop_sandbox(&twin);
        assert!(
            registry.reserve(&name, &second).is_err(),
            "the first still has the name"
        );
        let first = registry.sandbox(&first).unwrap();
        registry.drop_sandbox(&first);
        registry.reserve(&name, &second).unwrap();
    }

    #[test]
    fn a_name_is_taken_once_and_can_be_given_back() {
        let registry = Registry::default();
        let name = Name::Sandbox(SandboxName {
            name: "a".into(),
            ..SandboxName::default()
        });
        registry.reserve(&name, &id('a', '1')).unwrap();
        assert!(matches!(
            registry.reserve(&name, &id('a', '2')),
            Err(Error::NameTaken { .. })
        ));
        registry.release(&name);
        registry.reserve(&name, &id('a', '2')).unwrap();
    }
}
