//! `GET /metrics` for Prometheus, over plain HTTP.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::lifecycle::Lifecycle;

/// Scrapes that may be under way at once; more wait.
const CONNECTIONS: usize = 16;
/// How long a client may take to ask, and between two questions.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long accepting rests when the process has no descriptor left.
const REST: Duration = Duration::from_millis(100);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, lifecycle: Lifecycle) {
    let free = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let turn = std::sync::Arc::clone(&free)
            .acquire_owned()
            .await
            .expect("it is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection for metrics");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let lifecycle = lifecycle.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let answer = answer(&request, &lifecycle);
                async { Ok::<_, Infallible>(answer) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            // What a client does wrong is answered, or ends its connection.
            http.serve_connection(TokioIo::new(stream), answer).await.ok();
            drop(turn);
        });
    }
}

fn answer(request: &Request<Incoming>, lifecycle: &Lifecycle) -> Response<Full<Bytes>> {
    let answer = Response::builder();
    let answer = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let text = Full::from(lifecycle.metrics());
            answer.header(CONTENT_TYPE, OPEN_METRICS).body(text)
        }
        (_, "/metrics") => {
            let refused = answer.status(StatusCode::METHOD_NOT_ALLOWED).header(ALLOW, "GET, HEAD");
            refused.body(Full::from("only GET\n"))
        }
        _ => answer
            .status(StatusCode::NOT_FOUND)
            .body(Full::from("there is /metrics\n")),
    };
    answer.expect("these headers are valid")
}
