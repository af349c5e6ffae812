//! Manifests over a core that only pretends.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::engine::Work;
use super::*;
use crate::model::container::{ContainerConfig, ContainerState, Ending, Exit, Reason, User};
use crate::model::event::Severity;
use crate::model::probe::Health;
use crate::model::record::{self, ContainerRecord, SandboxRecord};
use crate::model::sandbox::{Owner, Ready, SandboxConfig, SandboxState};
use crate::model::{self, Refusal, Signal};
use crate::pod::{self, ContainerView, SandboxView};

struct Fake {
    tables: Mutex<Tables>,
    changes: watch::Sender<u64>,
    events: broadcast::Sender<model::event::Event>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            tables: Mutex::default(),
            changes: watch::Sender::default(),
            events: broadcast::Sender::new(16),
        }
    }
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
    /// Containers whose probes say no.
    unwell: BTreeSet<String>,
    /// Containers whose postStart hook fails.
    unstartable: BTreeSet<String>,
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

    /// Ends a container as its probes or hooks do.
    fn end(&self, id: &Id, code: i32, ending: Option<Ending>) {
        self.set(|tables| {
            let view = tables.containers.iter_mut().find(|view| view.id == *id).unwrap();
            let exit = Exit::with_code(now(), now(), code, false).because(ending.as_ref());
            view.record.state = ContainerState::Exited(exit);
            view.record.ending = ending;
        });
    }

    /// The latest life of a container.
    fn latest(&self, name: &str) -> ContainerView {
        let views = self.containers().into_iter().rev();
        views.into_iter().find(|view| view.record.config.name == name).unwrap()
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

    fn events(&self) -> broadcast::Receiver<model::event::Event> {
        self.events.subscribe()
    }

    fn health(&self, id: &Id) -> Health {
        let tables = self.tables.lock().unwrap();
        let view = tables.containers.iter().find(|view| view.id == *id);
        let running = view.filter(|view| matches!(view.record.state, ContainerState::Running { .. }));
        Health {
            started: running.is_some(),
            ready: running.is_some_and(|view| !tables.unwell.contains(&view.record.config.name)),
        }
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
            let started = self.change(what, |tables| {
                let view = tables.containers.iter_mut().find(|view| view.id == *id).unwrap();
                view.record.state = ContainerState::Running {
                    started_at: now(),
                    pid: 1,
                };
                tables.unstartable.contains(&view.record.config.name)
            });
            if started? {
                let ending = Ending {
                    reason: Reason::FailedPostStartHook,
                    message: "it said no".to_owned(),
                };
                self.end(id, 0, Some(ending));
                return Err(Refusal::invalid("lifecycle.postStart", "failed").into());
            }
            Ok(())
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

fn settings(root: &tempfile::TempDir) -> Settings {
    Settings {
        root: root.path().to_owned(),
        resolv_conf: None,
    }
}

fn house() -> House {
    let (fake, root) = (Arc::new(Fake::default()), tempfile::tempdir().unwrap());
    let manifests = Manifests::with(fake.clone(), settings(&root));
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

/// What the next berth finds when `fake`'s hangs for ever.
fn another(fake: &Fake) -> Arc<Fake> {
    let other = Fake::default();
    *other.tables.lock().unwrap() = Tables {
        sandboxes: fake.sandboxes(),
        containers: fake.containers(),
        images: fake.tables.lock().unwrap().images.clone(),
        ..Tables::default()
    };
    Arc::new(other)
}

#[tokio::test]
async fn another_berth_goes_on_where_this_one_was_killed() {
    let House { fake, manifests, root } = house();
    manifests.run(&manifest("")).await.unwrap();
    fake.until("start init").await;
    // The first berth hangs for ever from here on; the second finds what is on disk and in the records.
    let pods: Vec<_> = manifests.list();
    let other = another(&fake);
    let manifests = Manifests::with(other.clone(), settings(&root));
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
    let manifests = Manifests::with(fake.clone(), settings(&root));
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

/// A pod of one container, called main.
fn simple(spec: &str) -> String {
    manifest(spec).replace("  initContainers:\n  - {name: init, image: \"i:1\"}\n", "")
}

fn unhealthy(fake: &Fake, at: i64) -> model::event::Event {
    let main = fake.latest("main");
    model::event::Event {
        at,
        sandbox: main.record.sandbox,
        container: main.id,
        name: "main".to_owned(),
        severity: Severity::Warning,
        reason: "Unhealthy",
        message: "Liveness probe failed: no".to_owned(),
    }
}

async fn until_told(manifests: &Manifests, wanted: impl Fn(&Line) -> bool) -> Table {
    for _ in 0..2000 {
        let table = manifests.events(&name()).unwrap();
        if table.lines.iter().any(&wanted) {
            return table;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never told: {:#?}", manifests.events(&name()).unwrap());
}

#[tokio::test]
async fn what_probes_say_is_told_and_counted_and_outlives_berth() {
    let House { fake, manifests, root } = house();
    manifests.recover().await;
    let (_, mut events) = manifests.run(&simple("")).await.unwrap();
    fake.until("start main").await;
    read_to(&mut events, |what| *what == Happening::Started).await;
    for at in [1, 2, 3] {
        fake.events.send(unhealthy(&fake, now() + at)).unwrap();
    }
    read_to(&mut events, |what| matches!(what, Happening::Told { .. })).await;
    let table = until_told(&manifests, |line| line.count == 3).await;
    let reasons: Vec<_> = table.lines.iter().map(|line| line.reason.as_str()).collect();
    assert_eq!(reasons, ["Pulling", "Pulled", "Created", "Started", "Unhealthy"]);
    assert_eq!(table.lines[4].container.as_deref(), Some("main"));
    // Another berth knows all of it, and tells none of it again.
    manifests.keep_events();
    let other = another(&fake);
    let manifests = Manifests::with(other.clone(), settings(&root));
    manifests.recover().await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(manifests.events(&name()).unwrap(), table);
    other.exit("main", 1);
    until_told(&manifests, |line| line.reason == "Started" && line.count == 2).await;
}

#[tokio::test]
async fn events_are_written_by_themselves_after_a_moment() {
    let House { fake, manifests, root } = house();
    manifests.run(&simple("")).await.unwrap();
    fake.until("start main").await;
    let store = Store::new(root.path());
    let begin = std::time::Instant::now();
    while store.load().unwrap().0[0].events.lines.len() < 4 {
        assert!(begin.elapsed() < Duration::from_secs(5), "not written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn readiness_is_what_the_probes_say() {
    let House { fake, manifests, .. } = house();
    fake.set(|tables| {
        tables.unwell.insert("main".to_owned());
    });
    manifests.run(&manifest("")).await.unwrap();
    fake.until("start init").await;
    let met = |kind: &str| {
        let conditions = manifests.get(&name()).unwrap().conditions;
        conditions
            .into_iter()
            .find(|condition| condition.kind == kind)
            .unwrap()
            .met
    };
    assert!(!met("Initialized") && met("PodReadyToStartContainers"));
    fake.exit("init", 0);
    fake.until("start main").await;
    let status = manifests.get(&name()).unwrap();
    assert_eq!(
        status
            .containers
            .iter()
            .map(|container| container.health.ready)
            .collect::<Vec<_>>(),
        [true, false]
    );
    assert!(met("Initialized") && !met("Ready") && !met("ContainersReady"));
    fake.set(|tables| tables.unwell.clear());
    assert!(met("Ready") && met("ContainersReady"));
}

#[tokio::test]
async fn a_container_that_its_probe_ended_comes_back_and_its_last_end_is_told() {
    let House { fake, manifests, .. } = house();
    manifests.run(&simple("  restartPolicy: OnFailure\n")).await.unwrap();
    fake.until("start main").await;
    let ending = Ending {
        reason: Reason::LivenessProbeFailed,
        message: "no".to_owned(),
    };
    // It went when it was asked to, with code 0: that it is needed again does not depend on that.
    fake.end(&fake.latest("main").id, 0, Some(ending.clone()));
    fake.until("create main 1").await;
    let status = manifests.get(&name()).unwrap().containers.remove(0);
    assert_eq!(status.restarts, 1);
    let last = status.last.unwrap();
    assert_eq!(
        (last.reason, last.message.as_str(), last.code),
        (Reason::LivenessProbeFailed, "no", 0)
    );
    // The next restart has to wait.
    fake.until("start main").await;
    while fake.latest("main").record.state == ContainerState::Created {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fake.end(&fake.latest("main").id, 137, Some(ending));
    until_told(&manifests, |line| line.reason == "BackOff").await;
    let status = manifests.get(&name()).unwrap();
    let State::Waiting { reason, message } = &status.containers[0].state else {
        panic!("{:?}", status.containers[0].state)
    };
    let expected = format!(
        "back-off 10s restarting failed container=main pod=p_default({})",
        status.pod.uid
    );
    assert_eq!((*reason, message.as_str()), ("CrashLoopBackOff", expected.as_str()));
    assert_eq!(status.containers[0].last.as_ref().unwrap().code, 137);
}

#[tokio::test]
async fn a_failed_post_start_hook_is_an_end_like_another() {
    let House { fake, manifests, .. } = house();
    fake.set(|tables| {
        tables.unstartable.insert("main".to_owned());
    });
    manifests.run(&simple("")).await.unwrap();
    fake.until("create main 1").await;
    let table = until_told(&manifests, |line| line.reason == "BackOff").await;
    assert!(table.lines.iter().all(|line| line.reason != "Failed"), "{table:#?}");
    let status = manifests.get(&name()).unwrap().containers.remove(0);
    assert_eq!(status.last.unwrap().reason, Reason::FailedPostStartHook);
    assert!(matches!(
        status.state,
        State::Waiting {
            reason: "CrashLoopBackOff",
            ..
        }
    ));
}

#[tokio::test]
async fn an_image_that_cannot_be_had_is_what_its_container_waits_for() {
    let House { fake, manifests, .. } = house();
    let text = simple("").replace("\"i:1\"", "\"i:1\", imagePullPolicy: Never");
    manifests.run(&text).await.unwrap();
    fake.until("sandbox").await;
    let table = until_told(&manifests, |line| line.reason == "ErrImageNeverPull").await;
    assert_eq!(table.lines[1].message, "Error: ErrImageNeverPull");
    let state = &manifests.get(&name()).unwrap().containers[0].state;
    assert!(
        matches!(
            state,
            State::Waiting {
                reason: "ErrImageNeverPull",
                ..
            }
        ),
        "{state:?}"
    );
}

#[tokio::test]
async fn who_is_being_deleted_is_not_backed_off() {
    let House { fake, manifests, .. } = house();
    let (_, mut events) = manifests.run(&simple("")).await.unwrap();
    fake.until("start main").await;
    fake.exit("main", 1);
    fake.until("create main 1").await;
    read_to(&mut events, |what| matches!(what, Happening::Running { .. })).await;
    manifests.delete(&name(), None).await.unwrap();
    let told = read_to(&mut events, |what| *what == Happening::Deleted).await;
    let whats: Vec<_> = told.iter().map(|event| &event.what).collect();
    assert!(
        !whats.iter().any(|what| matches!(what, Happening::BackOff { .. })),
        "{whats:?}"
    );
}
