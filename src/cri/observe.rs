//! Every call is logged once, here: a span with its method, its code and how long it took.

use std::task::{Context, Poll};
use std::time::Instant;

use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};
use tracing::{Instrument, info_span};

/// Wraps the server's services.
#[derive(Debug, Clone, Copy, Default)]
pub struct Observe;

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, service: S) -> Observed<S> {
        Observed { service }
    }
}

#[derive(Debug, Clone)]
pub struct Observed<S> {
    service: S,
}

impl<S, B> Service<Request<B>> for Observed<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: std::fmt::Display,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let span = info_span!("rpc", method);
        let (answer, begin) = (self.service.call(request), Instant::now());
        let observed = async move {
            let answer = answer.await;
            let took = begin.elapsed();
            match &answer {
                Ok(response) => tell(response, took),
                Err(error) => tracing::warn!(%error, ?took, "failed"),
            }
            answer
        };
        Box::pin(observed.instrument(span))
    }
}

/// A failed unary call carries its status in the headers; streams end later and tell their own end.
fn tell(response: &Response<Body>, took: std::time::Duration) {
    match tonic::Status::from_header_map(response.headers()) {
        Some(status) if is_berths_fault(status.code()) => {
            tracing::warn!(code = ?status.code(), message = status.message(), ?took, "failed");
        }
        Some(status) if status.code() != Code::Ok => {
            tracing::info!(code = ?status.code(), message = status.message(), ?took, "refused");
        }
        _ => tracing::debug!(?took, "done"),
    }
}

/// Whether an operator should look, rather than the client.
fn is_berths_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown | Code::Internal | Code::DataLoss | Code::Unavailable | Code::ResourceExhausted
    )
}
