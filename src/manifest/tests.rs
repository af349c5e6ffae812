//! Manifests over a core that only pretends.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::engine::Work;
use super::*;
use crate::model::container::{ContainerConfig, ContainerState, Exit, User};
use crate::model::record::{self, ContainerRecord, SandboxRecord};
use crate::model::sandbox::{Owner, Ready, SandboxConfig, SandboxState};
use crate::model::{Refusal, Signal};
use crate::pod::{self, ContainerView, SandboxView};

#[derive(Default)]
struct Fake {
    tables: Mutex<Tables>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Tables {
    sandboxes: Vec<SandboxView>,
    containers: Vec<ContainerView>,
    /// What was done, in order.
    done: Vec<String>,
    /// Images that are present.
    images: BTreeSet<String>,
    /// A pull never ends.
    slow_registry: bool,
    /// How many of the next steps fail.
    failures: usize,
    /// Containers end only when killed.
    stubborn: bool,
}

impl Fake {
    fn change<T>(&self, what: String, change: impl FnOnce(&mut Tables) -> T) -> Result<T, pod::Error> {
        let mut tables = self.tables.lock().unwrap();
        if tables.failures > 0 {
            tables.failures -= 1;
            return Err(Refusal::invalid("test", "on purpose").into());
        }
        tables.done.push(what);
        let result = change(&mut tables);
        drop(tables);
        self.changes.send_modify(|count| *count += 1);
        Ok(result)
    }

    fn set(&self, change: impl FnOnce(&mut Tables)) {
        change(&mut self.tables.lock().unwrap());
        self.changes.send_modify(|count| *count += 1);
    }

    fn exit(&self, name: &str, code: i32) {
        self.set(|tables| {
            let of_name = |view: &&mut ContainerView| view.record.config.name == name;
            let view = tables.containers.iter_mut().rev().find(of_name).unwrap();
            view.record.state = ContainerState::Exited(Exit::with_code(now(), now(), code, false));
        });
    }

    fn done(&self) -> Vec<String> {
        self.tables.lock().unwrap().done.clone()
    }

    async fn until(&self, what: &str) {
        let done = async {
            while !self.done().iter().any(|done| done == what) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(5), done).await;
        waited.unwrap_or_else(|_| panic!("{what} never came: {:?}", self.done()));
    }
}

impl Engine for Fake {
    fn sandboxes(&self) -> Vec<SandboxView> {
        self.tables.lock().unwrap().sandboxes.clone()
    }

    fn containers(&self) -> Vec<ContainerView> {
        self.tables.lock().unwrap().containers.clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn has_image<'a>(&'a self, reference: &'a str) -> Work<'a, bool> {
        Box::pin(async move { Ok(self.tables.lock().unwrap().images.contains(reference)) })
    }

    fn pull<'a>(&'a self, reference: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            if self.tables.lock().unwrap().slow_registry {
                std::future::pending::<()>().await;
            }
            self.change(format!("pull {reference}"), |tables| {
                tables.images.insert(reference.to_owned());
            })
        })
    }

    fn run_sandbox(&self, config: SandboxConfig) -> Work<'_, Id> {
        let id = Id::random();
        let record = SandboxRecord {
            version: record::VERSION,
            config,
            handler: String::new(),
            owner: Owner::Manifest,
            created_at: now(),
            state: SandboxState::Ready(Ready {
                ips: vec!["10.0.0.2".parse().unwrap()],
                ..Ready::default()
            }),
            shim: Default::default(),
        };
        let view = SandboxView { id: id.clone(), record };
        Box::pin(async move {
            self.change("sandbox".to_owned(), |tables| tables.sandboxes.push(view))
                .map(|()| id)
        })
    }

    fn stop_sandbox<'a>(&'a self, id: &'a Id) -> Work<'a, ()> {
        Box::pin(async move {
            self.change("stop sandbox".to_owned(), |tables| {
                let view = tables.sandboxes.iter_mut().find(|view| view.id == *id).unwrap();
                view.record.state = SandboxState::Stopped;
            })
        })
    }

    fn remove_sandbox<'a>(&'a self, id: &'a Id) -> Work<'a, ()> {
        Box::pin(async move {
            self.change("remove sandbox".to_owned(), |tables| {
                tables.sandboxes.retain(|view| view.id != *id);
                tables.containers.retain(|view| view.record.sandbox != *id);
            })
        })
    }

    fn create_container<'a>(&'a self, sandbox: &'a Id, config: ContainerConfig) -> Work<'a, Id> {
        let id = Id::random();
        let what = format!("create {} {}", config.name, config.attempt);
        let record = ContainerRecord {
            version: record::VERSION,
            sandbox: sandbox.clone(),
            config,
            image_id: String::new(),
            image_ref: String::new(),
            user: User::default(),
            stop_signal: Signal::TERM,
            cgroup: String::new(),
            created_at: now(),
            state: ContainerState::Created,
            ending: None,
        };
        let view = ContainerView {
            id: id.clone(),
            record,
            log_path: None,
        };
        Box::pin(async move { self.change(what, |tables| tables.containers.push(view)).map(|()| id) })
    }

    fn start_container<'a>(&'a self, id: &'a Id) -> Work<'a, ()> {
        let views = self.containers();
        let what = format!(
            "start {}",
            views.iter().find(|view| view.id == *id).unwrap().record.config.name
        );
        Box::pin(async move {
            self.change(what, |tables| {
                let view = tables.containers.iter_mut().find(|view| view.id == *id).unwrap();
                view.record.state = ContainerState::Running {
                    started_at: now(),
                    pid: 1,
                };
            })
        })
    }

    fn stop_container<'a>(&'a self, id: &'a Id, grace: Duration) -> Work<'a, ()> {
        Box::pin(async move {
            let stubborn = self.tables.lock().unwrap().stubborn;
            if stubborn && !grace.is_zero() {
                std::future::pending::<()>().await;
            }
            self.change(format!("stop {}", grace.as_secs()), |tables| {
                let view = tables.containers.iter_mut().find(|view| view.id == *id).unwrap();
                view.record.state = ContainerState::Exited(Exit::with_code(now(), now(), 143, false));
            })
        })
    }

    fn remove_container<'a>(&'a self, id: &'a Id) -> Work<'a, ()> {
        Box::pin(async move {
            self.change("forget".to_owned(), |tables| {
                tables.containers.retain(|view| view.id != *id)
            })
        })
    }
}

struct House {
    fake: Arc<Fake>,
    manifests: Manifests,
    root: tempfile::TempDir,
}

fn house() -> House {
    let (fake, root) = (Arc::new(Fake::default()), tempfile::tempdir().unwrap());
    let manifests = Manifests::with(fake.clone(), root.path());
    House { fake, manifests, root }
}

fn name() -> PodName {
    PodName {
        namespace: "default".to_owned(),
        name: "p".to_owned(),
    }
}

fn manifest(spec: &str) -> String {
    let container = |name: &str| format!("  - {{name: {name}, image: \"i:1\"}}\n");
    let (init, main) = (container("init"), container("main"));
    let head = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n";
    format!("{head}{spec}  initContainers:\n{init}  containers:\n{main}")
}

async fn next(follower: &mut Follower) -> Event {
    tokio::time::timeout(Duration::from_secs(5), follower.next())
        .await
        .unwrap()
        .unwrap()
}

/// Reads up to the first event that `wanted` takes.
async fn read_to(follower: &mut Follower, wanted: fn(&Happening) -> bool) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let event = next(follower).await;
        let found = wanted(&event.what);
        events.push(event);
        if found {
            return events;
        }
    }
}

#[tokio::test]
async fn a_pod_comes_up_in_order_and_leaves_nothing() {
    let House { fake, manifests, root } = house();
    let (_, mut events) = manifests.run(&manifest("")).await.unwrap();
    fake.until("start init").await;
    fake.exit("init", 0);
    let told = read_to(&mut events, |what| matches!(what, Happening::Running { .. })).await;
    let started = |what: &Happening| matches!(what, Happening::Started | Happening::Exited { .. });
    let order: Vec<_> = told
        .iter()
        .filter(|event| started(&event.what))
        .filter_map(|e| e.container.clone())
        .collect();
    assert_eq!(order, ["init", "init", "main"]);
    assert_eq!(manifests.get(&name()).unwrap().phase, Phase::Running);
    assert!(matches!(
        manifests.run(&manifest("")).await,
        Err(Error::Exists { deleting: false, .. })
    ));
    manifests.delete(&name(), None).await.unwrap();
    assert!(matches!(manifests.get(&name()), Err(Error::NoPod(_))));
    let expected = [
        "sandbox",
        "pull i:1",
        "create init 0",
        "start init",
        "create main 0",
        "start main",
        "stop 30",
    ];
    assert_eq!(fake.done(), [&expected[..], &["remove sandbox"]].concat());
    assert!(Store::new(root.path()).load().unwrap().0.is_empty());
    manifests.run(&manifest("")).await.unwrap();
}

#[tokio::test]
async fn another_berth_goes_on_where_this_one_was_killed() {
    let House { fake, manifests, root } = house();
    manifests.run(&manifest("")).await.unwrap();
    fake.until("start init").await;
    // The first berth hangs for ever from here on; the second finds what is on disk and in the records.
    let pods: Vec<_> = manifests.list();
    let other = Fake::default();
    *other.tables.lock().unwrap() = Tables {
        sandboxes: fake.sandboxes(),
        containers: fake.containers(),
        ..Tables::default()
    };
    let other = Arc::new(other);
    let manifests = Manifests::with(other.clone(), root.path());
    manifests.recover().await;
    assert_eq!(manifests.get(&name()).unwrap().pod, pods[0].pod);
    other.exit("init", 0);
    other.until("start main").await;
    assert!(!other.done().contains(&"sandbox".to_owned()));
}

#[tokio::test]
async fn a_deletion_that_was_interrupted_goes_on() {
    let House { fake, manifests, root } = house();
    let (pod, _) = manifests.run(&manifest("")).await.unwrap();
    fake.until("start init").await;
    Store::new(root.path()).mark_deleted(&pod, 3).unwrap();
    let manifests = Manifests::with(fake.clone(), root.path());
    manifests.recover().await;
    fake.until("stop 3").await;
    fake.until("remove sandbox").await;
}

#[tokio::test]
async fn deletion_does_not_wait_for_a_pull() {
    let House { fake, manifests, .. } = house();
    fake.set(|tables| tables.slow_registry = true);
    let (_, mut events) = manifests.run(&manifest("")).await.unwrap();
    read_to(&mut events, |what| matches!(what, Happening::Pulling { .. })).await;
    let name = name();
    let deleted = tokio::time::timeout(Duration::from_secs(5), manifests.delete(&name, None));
    deleted.await.unwrap().unwrap();
    assert_eq!(fake.done(), ["sandbox", "remove sandbox"]);
}

#[tokio::test]
async fn a_second_deletion_can_be_less_patient() {
    let House { fake, manifests, .. } = house();
    fake.set(|tables| tables.stubborn = true);
    manifests.run(&manifest("")).await.unwrap();
    fake.until("start init").await;
    let name = name();
    let first = manifests.delete(&name, None);
    let second = async {
        while !manifests.get(&name).unwrap().deleting {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(matches!(
            manifests.run(&manifest("")).await,
            Err(Error::Exists { deleting: true, .. })
        ));
        manifests.delete(&name, Some(0)).await
    };
    let both = async { tokio::join!(first, second) };
    let (first, second) = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
    first.unwrap();
    second.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_while_deleting_changes_nothing() {
    let House { fake, manifests, .. } = house();
    fake.set(|tables| tables.stubborn = true);
    manifests.run(&manifest("")).await.unwrap();
    fake.until("start init").await;
    tokio::time::timeout(Duration::from_millis(50), manifests.delete(&name(), Some(100)))
        .await
        .unwrap_err();
    assert!(manifests.get(&name()).unwrap().deleting);
}

#[tokio::test]
async fn a_step_that_fails_is_told_and_tried_again() {
    let House { fake, manifests, .. } = house();
    fake.set(|tables| tables.failures = 1);
    let (_, mut events) = manifests.run(&manifest("")).await.unwrap();
    let told = read_to(&mut events, |what| matches!(what, Happening::Failed { .. })).await;
    let Happening::Failed { message, .. } = &told.last().unwrap().what else {
        unreachable!()
    };
    assert!(message.contains("on purpose"), "{message}");
    fake.until("start init").await;
}

#[tokio::test]
async fn a_pod_that_is_finished_holds_nothing_and_stays_to_be_read() {
    let House { fake, manifests, .. } = house();
    let (_, mut events) = manifests.run(&manifest("  restartPolicy: Never\n")).await.unwrap();
    fake.until("start init").await;
    fake.exit("init", 0);
    fake.until("start main").await;
    fake.exit("main", 0);
    read_to(&mut events, |what| *what == Happening::Finished { succeeded: true }).await;
    fake.until("stop sandbox").await;
    assert_eq!(manifests.get(&name()).unwrap().phase, Phase::Succeeded);
}

#[tokio::test]
async fn a_lost_sandbox_is_made_anew_with_all_its_containers() {
    let House { fake, manifests, .. } = house();
    let (_, mut events) = manifests.run(&manifest("")).await.unwrap();
    fake.until("start init").await;
    fake.exit("init", 0);
    fake.until("start main").await;
    fake.set(|tables| tables.sandboxes[0].record.state = SandboxState::Stopped);
    read_to(&mut events, |what| *what == Happening::Lost).await;
    fake.until("remove sandbox").await;
    let again = ["sandbox", "create init 0", "start init"];
    let all = async {
        while !fake.done().ends_with(&again.map(str::to_owned)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), all).await.unwrap();
}

#[tokio::test]
async fn names_that_are_not_there_are_told() {
    let House { fake, manifests, .. } = house();
    manifests.run(&manifest("")).await.unwrap();
    fake.until("start init").await;
    assert!(matches!(manifests.running(&name(), ""), Err(Error::NotRunning { .. })));
    assert!(manifests.running(&name(), "init").is_ok());
    assert!(matches!(
        manifests.running(&name(), "x"),
        Err(Error::NoContainer { .. })
    ));
    assert!(matches!(
        manifests.log(&name(), "", None).await,
        Err(Error::NotStarted { .. })
    ));
    let nobody = PodName {
        name: "x".to_owned(),
        ..name()
    };
    assert!(matches!(manifests.delete(&nobody, None).await, Err(Error::NoPod(_))));
}
