//! The two gRPC faces of images, and the commands that use them.

// clippy.toml allows it in test functions; their helpers are outside of those.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use berth::api::images::ImagesFace;
use berth::cli::image::{ImageArgs, run};
use berth::containerd::Client;
use berth::cri::{ImageFace, InUse};
use berth::image::{Images, Settings};
use berth::proto::berth::images_server::ImagesServer;
use berth::proto::runtime;
use clap::Parser;
use runtime::image_service_client::ImageServiceClient;
use runtime::image_service_server::ImageServiceServer;
use serde_json::json;
use support::image::{Image, Kind, Layer};
use support::{Containerd, PASSWORD, Registry, USER};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Code;
use tonic::transport::{Channel, Server};

/// Serves both faces over one containerd until the test ends. Pods unknown to CRI use no image.
fn serve(containerd: &Containerd) -> PathBuf {
    serve_with(containerd, Box::new(HashSet::new))
}

fn serve_with(containerd: &Containerd, in_use: InUse) -> PathBuf {
    let settings = Settings {
        certs_dirs: Vec::new(),
        ..Settings::default()
    };
    let images = Images::new(Client::new(&containerd.socket(), "test"), settings);
    let socket = containerd.scratch().join("berth.sock");
    let listener = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    let server = Server::builder()
        .add_service(ImageServiceServer::new(ImageFace::new(
            images.clone(),
            HashMap::new(),
            in_use,
        )))
        .add_service(ImagesServer::new(ImagesFace::new(images)));
    tokio::spawn(server.serve_with_incoming(listener));
    socket
}

async fn cri(socket: &Path) -> ImageServiceClient<Channel> {
    ImageServiceClient::new(berth::cli::connect(socket).await.unwrap())
}

fn spec(image: &str) -> Option<runtime::ImageSpec> {
    Some(runtime::ImageSpec {
        image: image.to_owned(),
        ..runtime::ImageSpec::default()
    })
}

fn status_of(image: &str) -> runtime::ImageStatusRequest {
    runtime::ImageStatusRequest {
        image: spec(image),
        verbose: true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cri_pulls_shows_lists_and_removes() {
    let (containerd, registry) = (Containerd::start(), Registry::with_password());
    let layers = vec![Layer::new(Kind::Gzip, &[("a", b"1")])];
    let image = Image::new(layers, &json!({"User": "www-data", "Cmd": ["x"]}));
    registry.push("x", "1", &image).await;
    let name = format!("{}/x:1", registry.host());
    let socket = serve(&containerd);
    let mut cri = cri(&socket).await;

    let absent = cri.image_status(status_of(&name)).await.unwrap().into_inner();
    assert_eq!(absent.image, None);
    let mut pull = runtime::PullImageRequest {
        image: spec(&name),
        ..runtime::PullImageRequest::default()
    };
    let denied = cri.pull_image(pull.clone()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    pull.auth = Some(runtime::AuthConfig {
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
        ..runtime::AuthConfig::default()
    });
    assert_eq!(cri.pull_image(pull).await.unwrap().into_inner().image_ref, image.id());

    let status = cri
        .image_status(status_of(&image.id()[..20]))
        .await
        .unwrap()
        .into_inner();
    let shown = status.image.unwrap();
    assert_eq!(
        (shown.id.clone(), shown.uid, shown.username.as_str()),
        (image.id(), None, "www-data")
    );
    assert!(shown.size > 0 && shown.repo_tags == [name.as_str()], "{shown:?}");
    assert!(status.info["info"].contains(r#""Cmd":["x"]"#), "{:?}", status.info);

    let filter = |image: &str| runtime::ListImagesRequest {
        filter: Some(runtime::ImageFilter { image: spec(image) }),
    };
    for (wanted, count) in [("", 1), (name.as_str(), 1), ("other", 0)] {
        let listed = cri.list_images(filter(wanted)).await.unwrap().into_inner();
        assert_eq!(listed.images.len(), count, "{wanted:?}");
    }
    let usage = cri
        .image_fs_info(runtime::ImageFsInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(usage.image_filesystems[0].used_bytes.unwrap().value > 0, "{usage:?}");
    for _ in 0..2 {
        let remove = runtime::RemoveImageRequest { image: spec(&name) };
        cri.remove_image(remove).await.unwrap();
    }
    assert_eq!(cri.list_images(filter("")).await.unwrap().into_inner().images, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_a_pod_unknown_to_cri_uses_is_pinned() {
    let (containerd, registry) = (Containerd::start(), Registry::start());
    let images = [b"1", b"2"].map(|content| Image::new(vec![Layer::new(Kind::Gzip, &[("a", content)])], &json!({})));
    let used = images[0].id();
    let socket = serve_with(&containerd, Box::new(move || HashSet::from([used.clone()])));
    let mut cri = cri(&socket).await;
    for (tag, image) in ["1", "2"].into_iter().zip(&images) {
        registry.push("x", tag, image).await;
        let pull = runtime::PullImageRequest {
            image: spec(&format!("{}/x:{tag}", registry.host())),
            ..runtime::PullImageRequest::default()
        };
        cri.pull_image(pull).await.unwrap();
        let shown = cri
            .image_status(status_of(&image.id()))
            .await
            .unwrap()
            .into_inner()
            .image
            .unwrap();
        assert_eq!(shown.pinned, tag == "1", "{shown:?}");
    }
    let listed = cri
        .list_images(runtime::ListImagesRequest::default())
        .await
        .unwrap()
        .into_inner()
        .images;
    assert_eq!(listed.iter().filter(|image| image.pinned).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cri_refuses_bad_requests_with_the_field_s_name() {
    let containerd = Containerd::start();
    let socket = serve(&containerd);
    let mut cri = cri(&socket).await;
    let pull = |image: &str, auth: Option<runtime::AuthConfig>| runtime::PullImageRequest {
        image: spec(image),
        auth,
        sandbox_config: None,
    };
    let auth = runtime::AuthConfig {
        auth: "?".to_owned(),
        ..runtime::AuthConfig::default()
    };
    for (request, field) in [
        (pull("", None), "image.image"),
        (pull("Upper/Case", None), "image.image"),
        (pull("a@sha256:1", None), "image.image"),
        (pull("a", Some(auth)), "auth.auth"),
    ] {
        let refused = cri.pull_image(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with(field), "{refused}");
    }
    for refused in [
        cri.image_status(status_of("")).await.unwrap_err(),
        cri.image_status(status_of("UPPER")).await.unwrap_err(),
        cri.remove_image(runtime::RemoveImageRequest { image: None })
            .await
            .unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let nowhere = format!("127.0.0.1:{}/x", support::free_port());
    let refused = cri.pull_image(pull(&nowhere, None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().starts_with("RegistryUnavailable: "), "{refused}");
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: ImageArgs,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_pull_import_list_and_remove() {
    let (containerd, registry) = (Containerd::start(), Registry::start());
    let socket = serve(&containerd);
    let berth = async |words: &[&str]| {
        let command = Command::try_parse_from([&["image"], words].concat()).unwrap();
        run(command.args, &socket).await.map(drop)
    };
    let image = Image::small("pulled");
    registry.push("x", "1", &image).await;
    let name = format!("{}/x:1", registry.host());
    berth(&["pull", &name]).await.unwrap();
    let archive = containerd.scratch().join("image.tar");
    // More than fits into the queues on the way.
    let noise: Vec<u8> = (0..3_000_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let big = Image::new(vec![Layer::new(Kind::Plain, &[("noise", &noise)])], &json!({}));
    std::fs::write(
        &archive,
        support::image::docker_archive(&big, &["said-by-the-archive:1"]),
    )
    .unwrap();
    berth(&["import", archive.to_str().unwrap(), "--tag", "mine:2"])
        .await
        .unwrap();
    berth(&["ls"]).await.unwrap();
    berth(&["ls", "-o", "json"]).await.unwrap();
    let list = |socket: PathBuf| async move {
        let all = cri(&socket)
            .await
            .list_images(runtime::ListImagesRequest { filter: None })
            .await
            .unwrap();
        let tags = all.into_inner().images.into_iter().flat_map(|image| image.repo_tags);
        let mut tags: Vec<_> = tags.collect();
        tags.sort();
        tags
    };
    assert_eq!(
        list(socket.clone()).await,
        [name.clone(), "docker.io/library/mine:2".to_owned()]
    );

    std::fs::write(&archive, "no archive").unwrap();
    let refused = berth(&["import", archive.to_str().unwrap()]).await.unwrap_err();
    assert!(refused.to_string().starts_with("image archive: "), "{refused}");
    let refused = berth(&["import", "/no/such/file"]).await.unwrap_err();
    assert!(refused.to_string().starts_with("/no/such/file: "), "{refused}");
    let refused = berth(&["pull", &format!("{name}-not")]).await.unwrap_err();
    assert!(refused.to_string().contains("not found"), "{refused}");
    berth(&["rm", &name, "mine:2", "never-was-there"]).await.unwrap();
    assert_eq!(list(socket.clone()).await, Vec::<String>::new());
}
