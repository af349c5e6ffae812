//! OCI runtimes that do wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use berth::ttrpc::Code;

use crate::ground::{Ground, alive, becomes};
use crate::wire::code;

/// The rest of a script that does everything as runc. It does not say so, and is run for whatever is to be done.
const RUNC: &str = r#"[ "$verb" = --version ] && { echo 'another version 1'; exit; }
    exec runc "$@""#;

#[test]
fn a_runtime_that_hangs_is_killed_with_its_descendants_while_others_are_served() {
    let ground = Ground::new();
    let mut bundle = ground.sleeper().by(r#"case "$verb" in
            create) mkdir -p "$root/$id"; sleep 1000 & echo $! >"$0.child"; sleep 1000;;
            delete) rm -r "$root/$id";;
        esac"#);
    bundle.timeout = Some(Duration::from_secs(1));
    bundle.prepare();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let creation = scope.spawn(|| code(bundle.create()));
        ground.serves();
        assert_eq!(creation.join().unwrap(), Code::DeadlineExceeded);
    });
    assert!(begin.elapsed() < Duration::from_secs(10));
    let child = fs::read_to_string(format!("{}.child", bundle.options.binary_name)).unwrap();
    assert!(!alive(child.trim().parse().unwrap()));
    bundle.is_forgotten();
    ground.end();
}

#[test]
fn a_runtime_that_hangs_whatever_it_is_told_holds_no_create_beyond_its_time() {
    let ground = Ground::new();
    let mut bundle = ground.sleeper().by(r#"mkdir -p "$root/$id"; sleep 20"#);
    bundle.timeout = Some(Duration::from_millis(500));
    bundle.prepare();
    let begin = Instant::now();
    assert_eq!(code(bundle.create()), Code::DeadlineExceeded);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(code(bundle.create()), Code::Unavailable);
    ground.serves();
    // Its state is not ours to remove where it does not do so itself.
    becomes("it is given up", || !ground.place.container(&bundle.id).exists());
    fs::remove_dir(ground.state().join(&bundle.id)).unwrap();
    ground.end();
}

#[test]
fn a_runtime_that_fails_is_told_by_its_name_and_words() {
    let ground = Ground::new();
    let plain = ground.path("plain");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let log = r#"for arg; do [ "$last" = --log ] && log=$arg; last=$arg; done; echo 'no json {' >"$log"; exit 3"#;
    let scripts = [
        ("kill -SEGV $$", "signal 11"),
        (log, "no json {"),
        ("exit 9", "exit status 9"),
    ];
    let mut cases: Vec<_> = scripts
        .map(|(script, words)| (ground.sleeper().by(script), words.to_owned()))
        .into();
    for binary in [ground.path("nowhere"), plain, ground.path("busybox")] {
        let mut bundle = ground.sleeper();
        bundle.options.binary_name = binary.display().to_string();
        cases.push((bundle, binary.display().to_string()));
    }
    for (mut bundle, words) in cases {
        bundle.prepare();
        let refused = bundle.create().unwrap_err();
        assert!(
            refused.code == Code::Unknown && refused.message.contains(&words),
            "{refused}"
        );
        bundle.is_forgotten();
        // Its id is free.
        bundle.options.binary_name = String::new();
        bundle.run();
        bundle.remove();
    }
    ground.end();
}

#[test]
fn a_pid_that_is_none_of_the_runtimes_processes_is_refused_and_left_alone() {
    let ground = Ground::new();
    let own = std::process::id();
    let scripts = [
        "exit 0".to_owned(),
        r#"echo nonsense >"$pid_file""#.to_owned(),
        r#"echo 1 >"$pid_file""#.to_owned(),
        r#"sh -c 'echo $$' >"$pid_file""#.to_owned(),
        format!(r#"echo {own} >"$pid_file""#),
    ];
    for script in scripts {
        let bundle = ground.sleeper().by(&script);
        bundle.prepare();
        let refused = bundle.create().unwrap_err();
        assert!(
            refused.code == Code::Unknown && refused.message.contains("pid"),
            "{script}: {refused}"
        );
        bundle.is_forgotten();
    }
    ground.serves();
    ground.end();
}

#[test]
fn a_removal_that_hangs_keeps_only_its_own_id() {
    let ground = Ground::new();
    let hang = r#"case "$verb" in delete) touch "$0.deletes"; while [ -e "$0.hang" ]; do sleep 0.02; done;; esac"#;
    let mut bundle = ground.sleeper().by(&format!("{hang}\n{RUNC}"));
    let file = format!("{}.hang", bundle.options.binary_name);
    bundle.run();
    fs::write(&file, "").unwrap();
    bundle.remove();
    becomes("it is being removed", || {
        fs::exists(format!("{}.deletes", bundle.options.binary_name)).unwrap()
    });
    bundle.write();
    bundle.timeout = Some(Duration::from_millis(200));
    assert_eq!(code(bundle.create()), Code::Unavailable);
    ground.serves();
    // Created as soon as the id is free.
    bundle.timeout = None;
    std::thread::scope(|scope| {
        let creation = scope.spawn(|| bundle.create().unwrap());
        std::thread::sleep(Duration::from_millis(100));
        fs::remove_file(&file).unwrap();
        creation.join().unwrap();
    });
    bundle.remove();
    ground.end();
}

#[test]
fn a_removal_that_hangs_for_ever_is_given_up() {
    let ground = Ground::new();
    let bundle = ground.sleeper().by(&format!(
        "[ \"$verb\" = delete ] && {{ touch \"$0.deletes\"; sleep 1000; }}\n{RUNC}"
    ));
    bundle.run();
    bundle.remove();
    becomes("it is being removed", || {
        fs::exists(format!("{}.deletes", bundle.options.binary_name)).unwrap()
    });
    let begin = Instant::now();
    while ground.place.container(&bundle.id).exists() {
        assert!(begin.elapsed() < Duration::from_secs(40));
        std::thread::sleep(Duration::from_millis(100));
    }
    let runc = std::process::Command::new("runc")
        .arg("--root")
        .arg(ground.state())
        .args(["delete", "-f", &bundle.id])
        .status();
    assert!(runc.unwrap().success());
    ground.end();
}
