//! `berth.v1.Node`: the end of everything.

use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use crate::proto::berth::node_server::Node;
use crate::proto::berth::{DownRequest, DownResponse};

/// Where the daemon answers, once everything is ended: or why it could not all be.
pub type DownReply = oneshot::Sender<Result<(), String>>;

/// The service. The daemon does the work.
pub struct NodeFace(mpsc::Sender<DownReply>);

impl NodeFace {
    pub fn new(down: mpsc::Sender<DownReply>) -> Self {
        Self(down)
    }
}

#[tonic::async_trait]
impl Node for NodeFace {
    async fn down(&self, _: Request<DownRequest>) -> Result<Response<DownResponse>, Status> {
        let going = || Status::unavailable("the daemon is going down already");
        let (reply, answer) = oneshot::channel();
        self.0.try_send(reply).map_err(|_| going())?;
        match answer.await {
            Ok(Ok(())) => Ok(Response::new(DownResponse {})),
            Ok(Err(reason)) => Err(Status::internal(reason)),
            Err(_) => Err(going()),
        }
    }
}
