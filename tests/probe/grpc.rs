//! cri-contract's row of grpc.

use std::time::{Duration, Instant};

use berth::model::Id;
use berth::model::probe::ProbeKind;
use berth::probe::Verdict;
use berth::proto::health::health_check_response::ServingStatus;
use berth::proto::health::health_server::{Health, HealthServer};
use berth::proto::health::{HealthCheckRequest, HealthCheckResponse};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::ground::{POD_IP, Pod, checked, checks, read, until_closed};

/// Healthy, and so are or are not its services by their names.
struct Patient;

#[tonic::async_trait]
impl Health for Patient {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let agent = request.metadata().get("user-agent").unwrap().to_str().unwrap();
        assert!(agent.starts_with("kube-probe/"), "{agent}");
        let status = match request.get_ref().service.as_str() {
            "" => ServingStatus::Serving,
            "sick" => ServingStatus::NotServing,
            "odd" => ServingStatus::Unknown,
            "slow" => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                ServingStatus::Serving
            }
            other => return Err(Status::not_found(other)),
        };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }
}

fn serve(listener: TcpListener) {
    let server = tonic::transport::Server::builder().add_service(HealthServer::new(Patient));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
}

fn probe(port: u16, service: &str) -> String {
    format!(r#"{{"grpc": {{"port": {port}, "service": "{service}"}}, "timeoutMilliseconds": 500}}"#)
}

#[tokio::test]
async fn grpc_succeeds_when_the_service_is_serving() {
    let pod = Pod::new();
    let (listener, port) = pod.listen(POD_IP);
    serve(listener);
    let report = checked(&pod, &probe(port, "")).await;
    assert_eq!(
        (report.verdict, report.output.as_str()),
        (Verdict::Success, "service healthy")
    );
}

#[tokio::test]
async fn grpc_fails_with_every_other_status_and_says_which() {
    let pod = Pod::new();
    let (listener, port) = pod.listen(POD_IP);
    serve(listener);
    for (service, expected) in [
        ("sick", "service unhealthy (responded with \"NOT_SERVING\")"),
        ("odd", "service unhealthy (responded with \"UNKNOWN\")"),
        (
            "none",
            "error: health rpc probe failed: rpc error: code = NotFound desc = none",
        ),
        ("slow", "timeout: health rpc did not complete within 500ms"),
    ] {
        let begun = Instant::now();
        let report = checked(&pod, &probe(port, service)).await;
        assert_eq!((report.verdict, report.output.as_str()), (Verdict::Failure, expected));
        assert!(begun.elapsed() < Duration::from_millis(1500));
    }
}

#[tokio::test]
async fn grpc_fails_on_a_server_without_the_health_protocol() {
    let pod = Pod::new();
    let (listener, port) = pod.listen(POD_IP);
    let server = tonic::transport::Server::builder().add_routes(tonic::service::Routes::default());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let report = checked(&pod, &probe(port, "")).await;
    let expected = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): ";
    assert!(report.output.starts_with(expected), "{}", report.output);
    assert_eq!(report.verdict, Verdict::Failure);
}

#[tokio::test]
async fn grpc_fails_when_it_cannot_connect_and_says_so() {
    let pod = Pod::new();
    let report = checked(&pod, &probe(9, "")).await;
    let expected = format!(
        "timeout: failed to connect service \"{POD_IP}:9\" within 500ms: dial tcp {POD_IP}:9: connect: connection refused"
    );
    assert_eq!((report.verdict, report.output), (Verdict::Failure, expected));
}

#[tokio::test]
async fn grpc_fails_on_time_on_a_server_of_something_else() {
    let pod = Pod::new();
    let (listener, port) = pod.listen(POD_IP);
    let closed = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        until_closed(&mut stream).await;
    });
    let begun = Instant::now();
    let report = checked(&pod, &probe(port, "")).await;
    assert_eq!(report.verdict, Verdict::Failure);
    assert!(begun.elapsed() < Duration::from_millis(1500));
    tokio::time::timeout(Duration::from_secs(5), closed)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn the_extension_field_host_reaches_a_localhost_only_server() {
    let pod = Pod::new();
    let (listener, port) = pod.listen("127.0.0.1");
    serve(listener);
    assert_eq!(checked(&pod, &probe(port, "")).await.verdict, Verdict::Failure);
    let report = checked(&pod, &format!(r#"{{"grpc": {{"port": {port}, "host": "localhost"}}}}"#)).await;
    assert_eq!(report.verdict, Verdict::Success, "{}", report.output);
}

#[tokio::test]
async fn to_drop_a_grpc_check_closes_its_connection() {
    let pod = Pod::new();
    let (listener, port) = pod.listen(POD_IP);
    let (checks, target, id) = (checks(), pod.target(), Id::random());
    let probe = read(
        ProbeKind::Readiness,
        &format!(r#"{{"grpc": {{"port": {port}}}, "timeoutSeconds": 60}}"#),
    );
    let running = tokio::spawn(async move { checks.probe(&id, &target, &probe).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    running.abort();
    tokio::time::timeout(Duration::from_secs(5), until_closed(&mut stream))
        .await
        .unwrap();
}
