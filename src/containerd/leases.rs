//! Leases: what keeps new content and snapshots from containerd's garbage collector until something refers to them.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, Resource};
use tonic::transport::Channel;

use super::{Client, Error, gone_is_fine};

/// containerd's label for the moment after which its collector ignores a lease.
const EXPIRE: &str = "containerd.io/gc.expire";

/// The leases of our namespace.
pub struct Leases<'a>(&'a Client);

/// A lease as containerd lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub id: String,
    pub labels: HashMap<String, String>,
}

impl Client {
    pub fn leases(&self) -> Leases<'_> {
        Leases(self)
    }
}

impl Leases<'_> {
    /// Makes a lease. With `expire` the collector drops it when that time has passed, whoever made it.
    pub async fn create(
        &self,
        id: &str,
        mut labels: HashMap<String, String>,
        expire: Option<Duration>,
    ) -> Result<(), Error> {
        if let Some(after) = expire {
            let moment = humantime::format_rfc3339_seconds(SystemTime::now() + after);
            labels.insert(EXPIRE.to_owned(), moment.to_string());
        }
        let request = self.0.request(CreateRequest {
            id: id.to_owned(),
            labels,
        });
        match self.service().create(request).await {
            Ok(_) => Ok(()),
            Err(status) => Err(self.0.error(format!("lease {id}"), &status)),
        }
    }

    /// Ends a lease; one that is gone already is fine. With `sync`, returns after the collector has run.
    pub async fn delete(&self, id: &str, sync: bool) -> Result<(), Error> {
        let request = self.0.request(DeleteRequest {
            id: id.to_owned(),
            sync,
        });
        let deleted = self.service().delete(request).await;
        gone_is_fine(
            deleted
                .map(drop)
                .map_err(|status| self.0.error(format!("lease {id}"), &status)),
        )
    }

    /// Puts an object under a lease. `kind` is containerd's: `content` or `snapshots/<snapshotter>`. The object
    /// need not exist.
    pub async fn add_resource(&self, id: &str, kind: &str, object: &str) -> Result<(), Error> {
        let resource = Resource {
            id: object.to_owned(),
            r#type: kind.to_owned(),
        };
        let request = self.0.request(AddResourceRequest {
            id: id.to_owned(),
            resource: Some(resource),
        });
        match self.service().add_resource(request).await {
            Ok(_) => Ok(()),
            Err(status) => Err(self.0.error(format!("lease {id}"), &status)),
        }
    }

    /// All leases that containerd's filters let through; no filter: all.
    pub async fn list(&self, filters: &[String]) -> Result<Vec<Lease>, Error> {
        let request = self.0.request(ListRequest {
            filters: filters.to_vec(),
        });
        let answer = self.service().list(request).await;
        let leases = answer
            .map_err(|status| self.0.error("leases", &status))?
            .into_inner()
            .leases;
        Ok(leases
            .into_iter()
            .map(|lease| Lease {
                id: lease.id,
                labels: lease.labels,
            })
            .collect())
    }

    fn service(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.0.channel())
    }
}
