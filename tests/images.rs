//! Images against a real containerd and a real registry.

// clippy.toml allows it in test functions; their helpers are outside of those.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Cursor;
use std::sync::Mutex;
use std::time::Duration;

use berth::containerd::Client;
use berth::image::{Auth, Error, Images, Import, Progress, Settings};
use serde_json::json;
use support::fake::{Answer, Fake, Request};
use support::image::{Image, Kind, Layer, OCI_INDEX, OCI_MANIFEST, architecture, digest};
use support::{Containerd, PASSWORD, Registry, USER, free_port, wait_for};

const NAMESPACE: &str = "test";

fn images(containerd: &Containerd) -> Images {
    let settings = Settings {
        certs_dirs: vec![containerd.scratch().join("certs.d")],
        ..Settings::default()
    };
    Images::new(Client::new(&containerd.socket(), NAMESPACE), settings)
}

fn hosts_toml(containerd: &Containerd, host: &str, text: &str) {
    let dir = containerd.scratch().join("certs.d").join(host);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("hosts.toml"), text).unwrap();
}

/// Nothing is left in containerd once its collector has run.
fn assert_nothing_left(containerd: &Containerd) {
    for list in [
        &["leases", "ls", "-q"][..],
        &["content", "ls", "-q"],
        &["images", "ls", "-q"],
        &["content", "active"],
        &["snapshots", "ls"],
    ] {
        let header = |line: &&str| line.starts_with("KEY") || line.starts_with("REF");
        wait_for(&format!("nothing in ctr {list:?}"), || {
            containerd
                .ctr(NAMESPACE, list)
                .lines()
                .filter(|line| !header(line))
                .count()
                == 0
        });
    }
}

/// The files that a container of the image would see.
fn files_of(containerd: &Containerd, name: &str) -> Vec<(String, Vec<u8>)> {
    let dir = containerd.scratch().join("mount");
    std::fs::create_dir_all(&dir).unwrap();
    let at = dir.to_str().unwrap();
    containerd.ctr(NAMESPACE, &["images", "mount", name, at]);
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    containerd.ctr(NAMESPACE, &["images", "unmount", "--rm", at]);
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_by_tag_found_by_every_name_and_removed_with_all_its_tags() {
    let (containerd, registry) = (Containerd::start(), Registry::start());
    let images = images(&containerd);
    let image = Image::small("hello");
    for (repository, tag) in [("a", "1"), ("a", "2"), ("b/c", "latest")] {
        registry.push(repository, tag, &image).await;
    }
    let host = registry.host();
    let mut pulled = images.pull(&format!("{host}/a:1"), None, None).await.unwrap();
    for other in ["a:2", "b/c"] {
        pulled = images.pull(&format!("{host}/{other}"), None, None).await.unwrap();
    }
    let manifest = digest(&image.manifest());
    assert_eq!(pulled.id, image.id());
    assert_eq!(
        pulled.repo_tags,
        [
            format!("{host}/a:1"),
            format!("{host}/a:2"),
            format!("{host}/b/c:latest")
        ]
    );
    assert_eq!(
        pulled.repo_digests,
        [format!("{host}/a@{manifest}"), format!("{host}/b/c@{manifest}")]
    );
    assert_eq!(pulled.config.cmd, ["hello"]);
    let size = image.manifest().len() + image.config.len() + image.layers[0].bytes.len();
    assert_eq!(pulled.size, size as u64);

    let hex = &image.id()["sha256:".len()..];
    for name in [
        format!("{host}/a:2"),
        format!("{host}/b/c"),
        format!("{host}/a@{manifest}"),
        format!("{host}/a:whatever@{manifest}"),
        image.id(),
        hex.to_owned(),
        hex[..13].to_owned(),
        format!("sha256:{}", &hex[..13]),
    ] {
        assert_eq!(images.find(&name).await.unwrap().as_ref(), Some(&pulled), "{name}");
    }
    assert_eq!(images.find(&format!("{host}/a:3")).await.unwrap(), None);
    assert_eq!(images.find(&format!("sha256:{}", "0".repeat(64))).await.unwrap(), None);
    assert!(matches!(images.find("Upper:case").await, Err(Error::Reference(_))));
    assert_eq!(images.list().await.unwrap(), [pulled]);
    assert_eq!(
        files_of(&containerd, &format!("{host}/a:1")),
        [("hello".to_owned(), b"hello".to_vec())]
    );
    assert_eq!(containerd.ctr(NAMESPACE, &["leases", "ls", "-q"]), "");

    images.remove(&format!("{host}/a:1")).await.unwrap();
    assert_eq!(images.list().await.unwrap(), []);
    images.remove(&format!("{host}/a:1")).await.unwrap();
    images.remove(hex).await.unwrap();
    assert_nothing_left(&containerd);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_survives_the_collector_and_a_restart() {
    let (containerd, registry) = (Containerd::start(), Registry::start());
    let (image, other) = (Image::small("kept"), Image::small("gone"));
    registry.push("kept", "1", &image).await;
    registry.push("gone", "1", &other).await;
    let first = images(&containerd);
    let kept = first
        .pull(&format!("{}/kept:1", registry.host()), None, None)
        .await
        .unwrap();
    first
        .pull(&format!("{}/gone:1", registry.host()), None, None)
        .await
        .unwrap();
    first.remove(&other.id()).await.unwrap();

    let second = images(&containerd);
    assert_eq!(second.list().await.unwrap(), std::slice::from_ref(&kept));
    assert_eq!(second.unpack(&kept, "overlayfs").await.unwrap(), kept.config.chain_id);
    assert_eq!(second.unpack(&kept, "native").await.unwrap(), kept.config.chain_id);
    second.remove("no-such-image").await.unwrap();
    let content = containerd.ctr(NAMESPACE, &["content", "ls", "-q"]);
    assert_eq!(content.lines().count(), 3, "{content}");
    let snapshots = containerd.ctr(NAMESPACE, &["snapshots", "--snapshotter", "native", "ls"]);
    assert!(snapshots.contains(&kept.config.chain_id), "{snapshots}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_leaves_the_old_image_under_its_digest() {
    let (containerd, registry) = (Containerd::start(), Registry::start());
    let images = images(&containerd);
    let (old, new) = (Image::small("old"), Image::small("new"));
    let name = format!("{}/x:latest", registry.host());
    registry.push("x", "latest", &old).await;
    images.pull(&name, None, None).await.unwrap();
    registry.push("x", "latest", &new).await;
    let pulled = images.pull(&name, None, None).await.unwrap();
    assert_eq!((pulled.id, pulled.repo_tags.len()), (new.id(), 1));
    let old = images.find(&old.id()).await.unwrap().unwrap();
    assert_eq!((old.repo_tags.len(), old.repo_digests.len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_every_kind_are_unpacked_in_order() {
    let (containerd, registry) = (Containerd::start(), Registry::start());
    let images = images(&containerd);
    let big: Vec<u8> = (0..3_000_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let layers = vec![
        Layer::new(Kind::Gzip, &[("a", b"1"), ("b", b"1")]),
        Layer::new(Kind::Plain, &[("b", b"2"), ("c", b"2")]),
        Layer::new(Kind::Zstd, &[("c", b"3"), ("big", &big)]),
        Layer::new(Kind::Gzip, &[(".wh.a", b"")]),
        // The same content twice is one blob and two snapshots.
        Layer::new(Kind::Plain, &[("b", b"2"), ("c", b"2")]),
    ];
    let image = Image::new(layers, &json!({"User": "1000:1000", "StopSignal": "SIGQUIT"}));
    registry.push("many", "1", &image).await;
    let name = format!("{}/many:1", registry.host());
    let seen = Mutex::new(Vec::new());
    let tell = |progress| seen.lock().unwrap().push(progress);
    let pulled = images.pull_with(&name, None, None, &tell).await.unwrap();
    assert_eq!(pulled.config.user, "1000:1000");
    assert_eq!(pulled.config.stop_signal.unwrap().to_string(), "SIGQUIT");
    let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    assert_eq!(
        files_of(&containerd, &name),
        [file("b", b"2"), file("big", &big), file("c", b"2")]
    );
    let seen = seen.into_inner().unwrap();
    assert!(matches!(&seen[0], Progress::Resolved { digest: found } if *found == digest(&image.manifest())));
    assert_eq!(seen.last(), Some(&Progress::Unpacked { layers: 5, of: 5 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_gives_the_image_of_this_platform() {
    let (containerd, registry) = (Containerd::start(), Registry::start());
    let images = images(&containerd);
    let mut image = Image::small("here");
    image.docker = true;
    registry.push("x", "single", &image).await;
    let elsewhere = Image::small("elsewhere");
    registry.push("x", "elsewhere", &elsewhere).await;
    let index = support::image::index(&[("s390x", &elsewhere.manifest()), (architecture(), &image.manifest())]);
    registry.push_manifest("x", "multi", OCI_INDEX, &index).await;
    let name = format!("{}/x@{}", registry.host(), digest(&index));
    let pulled = images.pull(&name, None, None).await.unwrap();
    assert_eq!(pulled.id, image.id());
    assert_eq!((pulled.repo_tags.len(), pulled.repo_digests), (0, vec![name]));
    let content = containerd.ctr(NAMESPACE, &["content", "ls", "-q"]);
    assert_eq!(content.lines().count(), 4, "nothing of the other platform: {content}");

    let foreign = support::image::index(&[("s390x", &elsewhere.manifest())]);
    registry.push_manifest("x", "foreign", OCI_INDEX, &foreign).await;
    let error = images
        .pull(&format!("{}/x:foreign", registry.host()), None, None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("it is there for linux/s390x"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_at_the_same_time_fetch_each_blob_once() {
    let image = Image::new(
        vec![
            Layer::new(Kind::Gzip, &[("a", b"1")]),
            Layer::new(Kind::Gzip, &[("b", b"2")]),
        ],
        &json!({}),
    );
    let containerd = Containerd::start();
    let fake = serving(&image, |_| None);
    let images = images(&containerd);
    let pulls = (0..6).map(|n| {
        let (images, name) = (images.clone(), format!("{}/r{}:1", fake.host(), n % 2));
        tokio::spawn(async move { images.pull(&name, None, None).await })
    });
    for pull in pulls.collect::<Vec<_>>() {
        assert_eq!(pull.await.unwrap().unwrap().id, image.id());
    }
    let blobs = fake
        .seen()
        .into_iter()
        .filter(|request| request.path.contains("/blobs/"))
        .count();
    assert_eq!(blobs, 3);
    assert_eq!(containerd.ctr(NAMESPACE, &["leases", "ls", "-q"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pulled_is_refused_clearly_and_leaves_nothing() {
    let (containerd, registry) = (Containerd::start(), Registry::start());
    let images = images(&containerd);
    let host = registry.host();
    registry.push("x", "1", &Image::small("x")).await;
    let refusal = async |name: &str| images.pull(name, None, None).await.unwrap_err();

    let error = refusal(&format!("{host}/x:2")).await;
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("manifest unknown"), "{error}");
    let error = refusal(&format!("{host}/x@sha256:{}", "0".repeat(64))).await;
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let error = refusal(&format!("127.0.0.1:{}/x:1", free_port())).await;
    assert!(error.to_string().starts_with("RegistryUnavailable: "), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    let error = refusal("no-such-host.invalid/x:1").await;
    assert!(error.to_string().starts_with("RegistryUnavailable: "), "{error}");
    assert!(matches!(refusal("X:1").await, Error::Reference(_)));
    assert_nothing_left(&containerd);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_not_what_it_claims_is_refused() {
    let containerd = Containerd::start();
    let images = images(&containerd);
    let image = Image::small("good");
    let layer = digest(&image.layers[0].bytes);
    let wrong: Vec<u8> = vec![b'x'; image.layers[0].bytes.len()];

    let is_layer = move |request: &Request| request.path.ends_with(&layer);
    let (same_size, short) = (wrong.clone(), wrong[1..].to_vec());
    let is_one = is_layer.clone();
    let bad = serving(&image, move |request| {
        is_one(request).then(|| Answer::ok("x/y", &same_size))
    });
    let error = images
        .pull(&format!("{}/x:1", bad.host()), None, None)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    let bad = serving(&image, move |request| {
        is_layer(request).then(|| Answer::ok("x/y", &short))
    });
    let error = images
        .pull(&format!("{}/x:1", bad.host()), None, None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("bytes came of the"), "{error}");
    // A manifest asked for by another's digest.
    let other = serving(&image, |_| None);
    let name = format!("{}/x@sha256:{}", other.host(), "1".repeat(64));
    let error = images.pull(&name, None, None).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    // A layer that is not what the config says it unpacks to.
    let mut lying = Image::small("lying");
    lying.layers = image.layers.clone();
    let bad = serving(&lying, |_| None);
    let error = images
        .pull(&format!("{}/x:1", bad.host()), None, None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("the image's config says"), "{error}");
    // Something that is no manifest, and a manifest without an end.
    for body in [b"<html>".to_vec(), vec![b' '; 9 << 20]] {
        let fake = Fake::start(move |_| Answer::ok(OCI_MANIFEST, &body));
        let error = images
            .pull(&format!("{}/x:1", fake.host()), None, None)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
    }
    assert_nothing_left(&containerd);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_is_tried_again() {
    let containerd = Containerd::start();
    let image = Image::small("patience");
    let layer = digest(&image.layers[0].bytes);
    let broken = Mutex::new(0);
    let fake = serving(&image, move |request| {
        let mut broken = broken.lock().unwrap();
        *broken += usize::from(request.path.ends_with(&layer));
        (request.path.ends_with(&layer) && *broken == 1).then(|| Answer::status(503))
    });
    images(&containerd)
        .pull(&format!("{}/x:1", fake.host()), None, None)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_dropped_stops_and_leaves_nothing() {
    let containerd = Containerd::start();
    let images = images(&containerd);
    let image = Image::new(
        vec![
            Layer::new(Kind::Gzip, &[("a", b"1")]),
            Layer::new(Kind::Gzip, &[("b", b"2")]),
        ],
        &json!({}),
    );
    let last = digest(&image.layers[1].bytes);
    let fake = serving(&image, move |request| {
        request.path.ends_with(&last).then(|| Answer {
            hang: true,
            ..Answer::ok("x/y", b"some")
        })
    });
    let name = format!("{}/x:1", fake.host());
    let pull = images.pull(&name, None, None);
    assert!(tokio::time::timeout(Duration::from_millis(800), pull).await.is_err());
    assert_nothing_left(&containerd);
    // At once, too.
    assert!(
        tokio::time::timeout(Duration::from_millis(1), images.pull(&name, None, None))
            .await
            .is_err()
    );
    assert_nothing_left(&containerd);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_open_a_registry_and_appear_in_no_error() {
    let (containerd, registry) = (Containerd::start(), Registry::with_password());
    let images = images(&containerd);
    registry.push("private", "1", &Image::small("private")).await;
    let name = format!("{}/private:1", registry.host());
    let error = images.pull(&name, None, None).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    let wrong = Auth::password(USER, "wrong-word");
    let error = images.pull(&name, Some(&wrong), None).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("wrong-word"), "{error:?}");
    let elsewhere = Auth::password(USER, PASSWORD).only_for("other.example");
    assert!(images.pull(&name, Some(&elsewhere), None).await.is_err());
    images
        .pull(&name, Some(&Auth::password(USER, PASSWORD)), None)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_from_the_service_that_the_registry_names() {
    let containerd = Containerd::start();
    let tokens = Fake::start(|request| match request.headers.get("authorization") {
        // tester:secret-word
        Some(basic) if basic == "Basic dGVzdGVyOnNlY3JldC13b3Jk" => Answer::ok("application/json", br#"{"token":"T"}"#),
        _ => Answer {
            body: br#"{"details":"who are you"}"#.to_vec(),
            ..Answer::status(401)
        },
    });
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"s\",scope=\"repository:x:pull\"",
        tokens.host()
    );
    let image = Image::small("token");
    let registry = serving(&image, move |request| match request.headers.get("authorization") {
        Some(bearer) if bearer == "Bearer T" => None,
        _ => Some(Answer {
            headers: vec![("www-authenticate", realm.clone())],
            ..Answer::status(401)
        }),
    });
    let images = images(&containerd);
    let name = format!("{}/x:1", registry.host());
    let error = images.pull(&name, None, None).await.unwrap_err();
    assert!(error.to_string().contains("who are you"), "{error}");
    images
        .pull(&name, Some(&Auth::password(USER, PASSWORD)), None)
        .await
        .unwrap();
    assert_eq!(tokens.seen()[0].path, "/token?service=s&scope=repository%3Ax%3Apull");
    assert_eq!(tokens.seen().len(), 2, "one token serves a whole pull");
    images
        .pull(&name, Some(&Auth::registry_token("T")), None)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_and_the_registry_last() {
    let (containerd, mirror) = (Containerd::start(), Registry::start());
    let images = images(&containerd);
    let image = Image::small("mirrored");
    mirror.push("library/x", "1", &image).await;
    let dead = free_port();
    let host = mirror.host();
    hosts_toml(
        &containerd,
        "docker.io",
        &format!(
            "server = \"http://127.0.0.1:{dead}\"\n[host.\"http://127.0.0.1:{dead}\"]\n[host.\"http://{host}\"]\n"
        ),
    );
    let pulled = images.pull("x:1", None, None).await.unwrap();
    assert_eq!(
        (pulled.id, pulled.repo_tags),
        (image.id(), vec!["docker.io/library/x:1".to_owned()])
    );

    // Credentials are for the registry, not for its mirrors.
    let fake = serving(&image, |_| None);
    let server = Registry::with_password();
    server.push("y", "1", &Image::small("y")).await;
    let nothing = Fake::start(|_| Answer {
        headers: vec![("www-authenticate", "Basic realm=x".to_owned())],
        ..Answer::status(401)
    });
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n",
        server.host(),
        nothing.host()
    );
    hosts_toml(&containerd, "r.example", &text);
    images
        .pull("r.example/y:1", Some(&Auth::password(USER, PASSWORD)), None)
        .await
        .unwrap();
    let seen = nothing.seen();
    assert!(
        seen.iter()
            .all(|request| !request.headers.contains_key("authorization")),
        "{seen:?}"
    );
    assert!(seen[0].path.ends_with("?ns=r.example"), "{seen:?}");
    drop(fake);

    hosts_toml(&containerd, "r.example", "\nservr = \"x\"\n");
    let error = images.pull("r.example/y:1", None, None).await.unwrap_err().to_string();
    assert!(error.contains("hosts.toml:2: ") && error.contains("servr"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn https_needs_an_authority_that_is_trusted_or_leave_to_do_without() {
    let (containerd, plain) = (Containerd::start(), Registry::start());
    let images = images(&containerd);
    plain.push("x", "1", &Image::small("x")).await;
    let secure = Registry::with_tls(&plain);
    let host = secure.host();
    let name = format!("{host}/x:1");
    let server = format!("server = \"https://{host}\"\n");
    hosts_toml(&containerd, &host, &server);
    let error = images.pull(&name, None, None).await.unwrap_err().to_string();
    assert!(
        error.starts_with("RegistryUnavailable: ") && error.contains("certificate"),
        "{error}"
    );
    hosts_toml(
        &containerd,
        &host,
        &format!("{server}ca = {:?}\n", secure.certificate()),
    );
    images.pull(&name, None, None).await.unwrap();
    hosts_toml(&containerd, &host, &format!("{server}skip_verify = true\n"));
    images.pull(&name, None, None).await.unwrap();
    hosts_toml(&containerd, &host, &format!("{server}ca = \"no-such.pem\"\n"));
    let error = images.pull(&name, None, None).await.unwrap_err().to_string();
    assert!(error.contains("no-such.pem"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_both_kinds_are_imported() {
    let containerd = Containerd::start();
    let images = images(&containerd);
    let layers = || {
        vec![
            Layer::new(Kind::Plain, &[("a", b"1"), ("b", b"1")]),
            Layer::new(Kind::Gzip, &[("b", b"2")]),
        ]
    };
    let image = Image::new(layers(), &json!({"Entrypoint": ["/a"]}));
    let by_docker = support::image::docker_archive(&image, &["d/one:1", "two"]);
    let found = images
        .import(Cursor::new(by_docker.clone()), &Import::default())
        .await
        .unwrap();
    assert_eq!((found.len(), &found[0].id), (1, &image.id()));
    assert_eq!(
        found[0].repo_tags,
        ["docker.io/d/one:1", "docker.io/library/two:latest"]
    );
    let files = files_of(&containerd, "docker.io/d/one:1");
    assert_eq!(
        files,
        [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]
    );
    // Again, and gzipped: nothing changes.
    let gzipped = Cursor::new(support::image::gzip(&by_docker));
    assert_eq!(images.import(gzipped, &Import::default()).await.unwrap(), found);

    let other = Image::new(layers(), &json!({"Entrypoint": ["/b"]}));
    let archive = support::image::oci_archive(&other, Some("oci.example/three:3"));
    let found = images.import(Cursor::new(archive), &Import::default()).await.unwrap();
    assert_eq!(found[0].repo_tags, ["oci.example/three:3"]);
    let unnamed = support::image::oci_archive(&other, None);
    let error = images
        .import(Cursor::new(unnamed.clone()), &Import::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("--tag"), "{error}");
    let named = Import {
        tag: Some("four:4".to_owned()),
        ..Import::default()
    };
    let found = images.import(Cursor::new(unnamed), &named).await.unwrap();
    assert_eq!(found[0].repo_tags, ["docker.io/library/four:4", "oci.example/three:3"]);

    assert_eq!(images.list().await.unwrap().len(), 2);
    for image in [image.id(), other.id()] {
        images.remove(&image).await.unwrap();
    }
    assert_nothing_left(&containerd);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_archive_is_refused_and_leaves_nothing() {
    let containerd = Containerd::start();
    let images = images(&containerd);
    let image = Image::small("whole");
    let whole = support::image::oci_archive(&image, Some("x:1"));
    let index = support::image::descriptor(OCI_MANIFEST, &image.manifest());
    let index = json!({"manifests": [index]}).to_string();
    let (manifest, config) = (image.manifest(), image.config.clone());
    let lacking = support::image::tar(&[("index.json", index.as_bytes()), ("m", &manifest), ("c", &config)]);
    let named = Import {
        tag: Some("x:1".to_owned()),
        ..Import::default()
    };
    for (archive, word) in [
        (whole[..700].to_vec(), "image archive"),
        (whole[..2048].to_vec(), "it lacks content"),
        (b"not an archive".repeat(100), "image archive"),
        (Vec::new(), "neither index.json"),
        (support::image::tar(&[("x", b"y")]), "neither index.json"),
        (lacking, "it lacks content"),
    ] {
        let error = images.import(Cursor::new(archive), &named).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    assert_nothing_left(&containerd);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_grows_with_an_image_and_leftovers_of_a_dead_berth_are_ended() {
    let (containerd, registry) = (Containerd::start(), Registry::start());
    let layer = Layer::new(Kind::Gzip, &[("big", &[7; 4 << 20])]);
    registry.push("big", "1", &Image::new(vec![layer], &json!({}))).await;
    let before = images(&containerd).usage().await.unwrap();
    assert_eq!((before.used_bytes, before.inodes), (0, 0));
    assert!(before.mountpoint.starts_with(containerd.scratch()), "{before:?}");
    let images = images(&containerd);
    images
        .pull(&format!("{}/big:1", registry.host()), None, None)
        .await
        .unwrap();
    let after = images.usage().await.unwrap();
    assert!(after.used_bytes >= 4 << 20 && after.inodes > 0, "{after:?}");
    assert_eq!(images.usage().await.unwrap(), after);

    containerd.ctr(
        NAMESPACE,
        &["leases", "create", "--id", "left", "berth.dev/image-work=none"],
    );
    containerd.ctr(NAMESPACE, &["leases", "create", "--id", "other"]);
    images.end_leftovers().await.unwrap();
    assert_eq!(containerd.ctr(NAMESPACE, &["leases", "ls", "-q"]), "other\n");
}

/// A registry that serves one image under every name, and where `first` says so something else.
fn serving(image: &Image, first: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Fake {
    let image = image.clone();
    Fake::start(move |request| {
        if let Some(answer) = first(request) {
            return answer;
        }
        let path = request.path.split('?').next().unwrap();
        if path.contains("/manifests/") {
            return Answer::ok(image.media_type(), &image.manifest());
        }
        let mut blobs = image.layers.iter().map(|layer| &layer.bytes).chain([&image.config]);
        match blobs.find(|bytes| path.ends_with(&digest(bytes))) {
            Some(bytes) => Answer::ok("application/octet-stream", bytes),
            None => Answer::status(404),
        }
    })
}
