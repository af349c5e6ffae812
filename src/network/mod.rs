//! A pod's network: which addresses it gets and how it reaches the world.

pub mod builtin;

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use crate::model::Id;
use crate::model::sandbox::Pin;

/// The network that this node's pods are attached to.
pub enum Network {
    Builtin(builtin::Bridge),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {what}")]
    Failed { what: String, source: io::Error },
    #[error("every pod address of {subnet} is in use")]
    Exhausted { subnet: builtin::Ipv4Net },
    #[error("each of 10.210.0.0/16 to 10.219.0.0/16 overlaps an address or a route of this node: configure a subnet")]
    NoFreeSubnet,
    #[error("the subnet {subnet} overlaps {taken}, an address of another interface of this node")]
    SubnetTaken {
        subnet: builtin::Ipv4Net,
        taken: builtin::Ipv4Net,
    },
    #[error("the subnet {subnet} has no room for a gateway and a pod: /30 is the smallest")]
    SubnetTooSmall { subnet: builtin::Ipv4Net },
    #[error("{instance:?} is not an instance id of 6 hexadecimal digits")]
    NotAnInstance { instance: String },
    #[error("nft refused the masquerade rules: {message}")]
    Nft { message: String },
}

/// Turns the error of doing `what` into ours.
fn failed<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
    move |source| Error::Failed {
        what: what.into(),
        source: source.into(),
    }
}

impl Network {
    /// berth's own bridge, set up.
    pub async fn builtin(settings: builtin::Settings) -> Result<Self, Error> {
        Ok(Self::Builtin(builtin::Bridge::set_up(settings).await?))
    }

    /// Connects the network namespace of the pod `id`; the first address returned is its primary one. After an error
    /// nothing of it is left.
    pub async fn attach(&self, id: &Id, netns: &Pin) -> Result<Vec<IpAddr>, Error> {
        match self {
            Self::Builtin(bridge) => bridge.attach(id, netns).await,
        }
    }

    /// Disconnects the pod `id` and frees its addresses. Fine when it is not connected or its namespace is gone.
    pub async fn detach(&self, id: &Id) -> Result<(), Error> {
        match self {
            Self::Builtin(bridge) => bridge.detach(id).await,
        }
    }

    /// Removes what a berth before this one has left of pods that are not `live`. To be called once, at start.
    pub async fn reconcile(&self, live: &HashSet<Id>) -> Result<(), Error> {
        match self {
            Self::Builtin(bridge) => bridge.reconcile(live).await,
        }
    }

    /// Ok when pods can be attached; else what is wrong.
    pub async fn status(&self) -> Result<(), String> {
        match self {
            Self::Builtin(bridge) => bridge.status().await,
        }
    }

    /// Removes what serves all pods, once there are none. Fine when it is gone.
    pub async fn down(&self) -> Result<(), Error> {
        match self {
            Self::Builtin(bridge) => bridge.down().await,
        }
    }
}
