//! `grpc.health.v1.Health/Check`, without TLS: well if the service is serving.

use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};
use tonic::transport::{Channel, Uri};
use tonic::{Code, Response, Status};

use super::{Report, USER_AGENT, not_connected, tcp};
use crate::dial::{Connection, Dialer, Target};
use crate::model::causes;
use crate::model::probe::Endpoint;
use crate::proto::health::HealthCheckRequest;
use crate::proto::health::HealthCheckResponse;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_client::HealthClient;

pub async fn check(dialer: &Dialer, target: &Target, at: &Endpoint, service: &str, timeout: Duration) -> Report {
    let deadline = Instant::now() + timeout;
    let address = tcp::address(target, at).to_string();
    let text = |why: &str| format!("timeout: failed to connect service {address:?} within {timeout:?}: {why}");
    let channel = async {
        let connection = dialer.connect(target, at).await;
        let connection = connection.map_err(|error| not_connected(&error, text(&error.to_string())))?;
        let channel = channel(connection, &address).await;
        channel.map_err(|why| Report::failure(text(&why)))
    };
    let channel = match timeout_at(deadline, channel).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(report)) => return report,
        Err(_) => return Report::failure(text("context deadline exceeded")),
    };
    let mut client = HealthClient::new(channel);
    let service = service.to_owned();
    let asked = timeout_at(deadline, client.check(HealthCheckRequest { service })).await;
    let answer = asked.unwrap_or_else(|_| Err(Status::deadline_exceeded("")));
    judge(answer, timeout)
}

fn judge(answer: Result<Response<HealthCheckResponse>, Status>, timeout: Duration) -> Report {
    match answer {
        Ok(answer) => match answer.get_ref().status() {
            ServingStatus::Serving => Report::success("service healthy"),
            status => Report::failure(format!("service unhealthy (responded with {:?})", status.as_str_name())),
        },
        Err(status) if status.code() == Code::Unimplemented => Report::failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Err(status) if status.code() == Code::DeadlineExceeded => {
            Report::failure(format!("timeout: health rpc did not complete within {timeout:?}"))
        }
        Err(status) => Report::failure(format!(
            "error: health rpc probe failed: rpc error: code = {:?} desc = {}",
            status.code(),
            status.message()
        )),
    }
}

/// A channel over this one connection: it is never made again.
async fn channel(connection: Connection, address: &str) -> Result<Channel, String> {
    let mut connection = Some(connection);
    let once = tower::service_fn(move |_: Uri| {
        let connection = connection.take().map(TokioIo::new);
        async { connection.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let endpoint = Channel::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
    let endpoint = endpoint.user_agent(USER_AGENT).map_err(|error| error.to_string())?;
    let channel = endpoint.connect_with_connector(once).await;
    channel.map_err(|error| causes(&error))
}
