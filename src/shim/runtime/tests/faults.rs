//! Runtimes that are missing, hang, crash or babble, and what a runtime is given.

use super::*;

#[test]
fn a_missing_runtime_is_told_by_its_name() {
    for binary in ["berth-no-such-runtime", "/nonexistent/runc"] {
        let place = Place::new(binary);
        let error = place.create().unwrap_err();
        let text = error.to_string();
        assert!(
            text == format!("OCI runtime create failed: cannot run {binary}"),
            "{text}"
        );
        assert!(matches!(error, Error::NotRun { .. }));
        let init = Handle::open(std::process::id()).unwrap();
        assert!(!place.runtime.release(place.children, &place.id, &init).unwrap());
    }
}

#[test]
fn a_runtime_that_hangs_is_killed_with_its_family_and_what_it_made_is_removed() {
    let script = r#"
        if [ $verb = delete ]; then rm -r $root/$id; exit 0; fi
        mkdir -p $root/$id
        sleep 600 & echo $! > $root/child
        wait"#;
    let place = Place::fake(script, Duration::from_millis(500));
    let begin = Instant::now();
    let error = place.create().unwrap_err();
    assert!(matches!(error, Error::Hung { verb: "create", .. }), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(!place.runtime.knows(&place.id), "it was deleted");
    let child = fs::read_to_string(place.dir.path().join("state/tests/child")).unwrap();
    let child = child.trim().parse().unwrap();
    wait("the child is gone", || {
        process::start_time(child).is_err() || process::is_zombie(child)
    });
}

#[test]
fn a_runtime_that_hangs_in_its_cleanup_too_is_bounded() {
    let place = Place::fake("mkdir -p $root/$id; sleep 600", Duration::from_millis(200));
    let begin = Instant::now();
    let error = place.create().unwrap_err();
    assert!(matches!(error, Error::Hung { verb: "create", .. }), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(10));
    fs::remove_dir(place.dir.path().join("state/tests").join(&place.id)).unwrap();
}

#[test]
fn a_runtime_that_crashes_or_babbles_is_told_with_its_words() {
    let place = Place::fake("echo 'cannot pause today' >&2; kill -SEGV $$", SOON);
    let error = place
        .runtime
        .pause(place.children, &place.id, &place.bundle())
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("did not terminate successfully: signal 11: cannot pause today"),
        "{error}"
    );

    let place = Place::fake("head -c 300000 /dev/urandom > $log; exit 3", SOON);
    let error = place.create().unwrap_err().to_string();
    assert!(error.contains("exit status 3: ") && error.chars().count() < 4000);

    let place = Place::fake("exit 0", SOON);
    let error = place.create().unwrap_err();
    assert!(matches!(error, Error::NoPid { .. }), "{error}");

    let place = Place::fake("echo 'no number' > $pid_file", SOON);
    fs::write(place.bundle().join("init.pid"), "1234").unwrap();
    let error = place.create().unwrap_err();
    assert!(matches!(error, Error::NoPid { .. }), "{error}");
}

#[test]
fn a_runtime_sees_nothing_of_our_environment_but_its_path() {
    let place = Place::fake("env > $root.env; readlink /proc/$$/cwd >> $root.env; exit 1", SOON);
    fs::create_dir_all(place.dir.path().join("state")).unwrap();
    place
        .runtime
        .pause(place.children, &place.id, &place.bundle())
        .unwrap_err();
    let seen = fs::read_to_string(place.dir.path().join("state/tests.env")).unwrap();
    let foreign = |line: &&str| {
        !["PATH=", "XDG_RUNTIME_DIR=", "PWD=", "_=", "/"]
            .iter()
            .any(|own| line.starts_with(own))
    };
    assert_eq!(seen.lines().find(foreign), None, "{seen}");
    assert_eq!(seen.lines().last(), place.bundle().to_str());
}

#[test]
fn words_without_end_do_not_fill_memory() {
    let place = Place::fake("yes", Duration::from_millis(300));
    let error = place
        .runtime
        .pause(place.children, &place.id, &place.bundle())
        .unwrap_err();
    assert!(matches!(error, Error::Hung { .. }), "{error}");
}

#[test]
fn options_become_the_flags_of_their_verbs() {
    let mut place = Place::fake("echo $* >> $root.args; echo 4321 > $pid_file", SOON);
    fs::create_dir_all(place.dir.path().join("state")).unwrap();
    let arguments = |place: &Place| {
        let path = place.dir.path().join("state/tests.args");
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(path).unwrap();
        let log = text.split_once("--log ").unwrap().1.split_once(' ').unwrap().0;
        text.trim()
            .replace(log, "LOG")
            .replace(place.dir.path().to_str().unwrap(), "DIR")
            .replace(&place.id, "ID")
    };
    let global = "--root DIR/state/tests --log-format json --log LOG";
    assert_eq!(place.create().unwrap(), 4321);
    let expected = format!("{global} create --bundle DIR/bundle --pid-file DIR/bundle/init.pid ID");
    assert_eq!(arguments(&place), expected);

    place.runtime.systemd_cgroup = true;
    place.runtime.no_pivot_root = true;
    place.runtime.no_new_keyring = true;
    place.runtime.criu_work = "/work".into();
    let global = global.replace(" --log-format", " --systemd-cgroup --log-format");
    place.create().unwrap();
    let expected =
        format!("{global} create --bundle DIR/bundle --pid-file DIR/bundle/init.pid --no-pivot --no-new-keyring ID");
    assert_eq!(arguments(&place), expected);

    let restore = |make: &Make<'_>| place.runtime.restore(place.children, make, Path::new("/image"));
    assert_eq!(place.with_make("init.pid", restore).unwrap(), 4321);
    let expected = format!(
        "{global} restore --bundle DIR/bundle --pid-file DIR/bundle/init.pid --detach --no-subreaper \
         --image-path /image --work-path /work --no-pivot ID"
    );
    assert_eq!(arguments(&place), expected);
}

#[test]
fn a_runtime_is_the_same_after_a_record_was_read_back() {
    let options = Options {
        systemd_cgroup: true,
        criu_work: "/work".to_owned(),
        ..Options::default()
    };
    let runtime = Runtime::new(options, "k8s.io");
    assert_eq!(runtime.root, Path::new("/run/containerd/runc/k8s.io"));
    assert_eq!(runtime.binary, Path::new("runc"));
    let text = serde_json::to_string(&runtime).unwrap();
    assert_eq!(serde_json::from_str::<Runtime>(&text).unwrap(), runtime);
}
