//! Generates the gRPC code of `proto/` and builds the holder of shared PID namespaces.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    protocols();
    shim_messages();
    holder();
}

fn protocols() {
    let files = [
        "proto/runtime/v1/api.proto",
        "proto/berth/v1/images.proto",
        "proto/berth/v1/pods.proto",
        "proto/berth/v1/probes.proto",
        "proto/grpc/health/v1/health.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        // Credentials must never be printed: the messages that carry them have a hand-written Debug.
        .skip_debug(["runtime.v1.AuthConfig", "berth.v1.ImageCredentials"])
        .compile_protos(&files, &["proto"])
        .expect("protoc compiles proto/ (is protobuf-compiler installed?)");
}

/// The messages between containerd and a shim; no services, for ttrpc is not gRPC.
fn shim_messages() {
    let names = [
        "task", "events", "forward", "runc", "cgroup1", "cgroup2", "ttrpc", "process", "types", "status",
    ];
    let files = names.map(|name| format!("proto/shim/v1/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .include_file("shim.rs")
        .compile_with_config(config, &files, &["proto".to_owned()])
        .expect("protoc compiles proto/shim");
}

/// The holder is a static program of a few kilobytes without libc, embedded into berth as bytes, so that berth
/// stays one file.
fn holder() {
    let source = "src/netns/holder/main.rs";
    println!("cargo:rerun-if-changed={source}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("berth-holder");
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let status = Command::new(rustc)
        .args([
            "--edition=2024",
            "--crate-name=berth_holder",
            "--crate-type=bin",
            "-Cpanic=abort",
            "-Copt-level=z",
        ])
        .args([
            "-Crelocation-model=static",
            "-Cstrip=symbols",
            "-Clink-arg=-nostartfiles",
            "-Clink-arg=-nostdlib",
        ])
        .args(["-Clink-arg=-static", "-Clink-arg=-Wl,--build-id=none,-z,norelro,-n"])
        .arg("--target")
        .arg(env::var("TARGET").expect("cargo sets TARGET"))
        .arg("-o")
        .arg(&out)
        .arg(source)
        .status()
        .expect("rustc runs");
    assert!(status.success(), "the holder program did not build");
}
