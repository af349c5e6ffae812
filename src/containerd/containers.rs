//! containerd's container records, which are where berth keeps what it knows of sandboxes and containers.
//!
//! A sandbox is a container record too, most often without a task. Our own record rides in one extension; the labels
//! only index it (containerd caps a label at 4096 bytes).

use std::collections::HashMap;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest, ListContainersRequest,
    UpdateContainerRequest, container,
};
use prost_types::{Any, FieldMask};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Client, Error};
use crate::model::Id;
use crate::model::names::label;
use crate::model::record::{ContainerRecord, SandboxRecord, VERSION};

/// The extension that holds our record, and the type of its value.
const EXTENSION: &str = "berth.dev/record";
const TYPE_URL: &str = "berth.dev/record+json";
/// The type by which containerd and its shims know an OCI runtime spec in JSON.
const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// Either kind of record.
#[derive(Debug, Clone)]
pub enum Record {
    Sandbox(Box<SandboxRecord>),
    Container(Box<ContainerRecord>),
}

/// The OCI runtime shim a task is to be made with.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RuncOptions {
    /// The OCI runtime's binary; empty: `runc`.
    #[prost(string, tag = "6")]
    pub binary_name: String,
    /// The OCI runtime's own state directory; empty: containerd's default.
    #[prost(string, tag = "7")]
    pub root: String,
}

impl RuncOptions {
    /// As the options of a containerd runtime.
    pub fn any(&self) -> Any {
        Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: prost::Message::encode_to_vec(self),
        }
    }
}

/// What a new record is made of.
pub struct New<'a> {
    pub id: &'a Id,
    pub record: &'a Record,
    /// The OCI runtime spec, JSON.
    pub spec: Vec<u8>,
    /// The shim, such as `io.containerd.runc.v2`.
    pub runtime: &'a str,
    pub options: &'a RuncOptions,
    /// Name of the image and, once its root file system is prepared, the snapshotter (the snapshot's key is the id).
    pub image: String,
    pub snapshotter: Option<&'a str>,
}

impl Client {
    /// Makes a record. AlreadyExists when there is one of that id.
    pub async fn create_record(&self, instance: &str, new: New<'_>) -> Result<(), Error> {
        let (kind, sandbox) = match new.record {
            Record::Sandbox(_) => (label::SANDBOX, new.id),
            Record::Container(record) => (label::CONTAINER, &record.sandbox),
        };
        let labels = [
            (label::INSTANCE, instance),
            (label::KIND, kind),
            (label::SANDBOX_ID, sandbox.as_str()),
        ];
        let container = Container {
            id: new.id.to_string(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            image: new.image,
            runtime: Some(container::Runtime {
                name: new.runtime.to_owned(),
                options: Some(new.options.any()),
            }),
            spec: Some(Any {
                type_url: SPEC_URL.to_owned(),
                value: new.spec,
            }),
            snapshotter: new.snapshotter.unwrap_or_default().to_owned(),
            snapshot_key: new.snapshotter.map(|_| new.id.to_string()).unwrap_or_default(),
            extensions: encode(new.record),
            ..Container::default()
        };
        let request = self.request(CreateContainerRequest {
            container: Some(container),
        });
        let answer = self.containers().create(request).await;
        answer
            .map(drop)
            .map_err(|status| self.error(format!("record {kind} {}", new.id), &status))
    }

    /// Replaces what is recorded of `id`.
    pub async fn update_record(&self, id: &Id, record: &Record) -> Result<(), Error> {
        let container = Container {
            id: id.to_string(),
            extensions: encode(record),
            ..Container::default()
        };
        self.update(container, format!("extensions.{EXTENSION}")).await
    }

    /// Replaces the OCI runtime spec of `id` (JSON), for the task that will be made of it.
    pub async fn update_spec(&self, id: &Id, spec: Vec<u8>) -> Result<(), Error> {
        let spec = Some(Any {
            type_url: SPEC_URL.to_owned(),
            value: spec,
        });
        self.update(
            Container {
                id: id.to_string(),
                spec,
                ..Container::default()
            },
            "spec".to_owned(),
        )
        .await
    }

    async fn update(&self, container: Container, path: String) -> Result<(), Error> {
        let what = format!("update {path} of the record of {}", container.id);
        let update_mask = Some(FieldMask { paths: vec![path] });
        let request = self.request(UpdateContainerRequest {
            container: Some(container),
            update_mask,
        });
        self.containers()
            .update(request)
            .await
            .map(drop)
            .map_err(|status| self.error(what, &status))
    }

    /// The OCI runtime spec recorded for `id`, JSON.
    pub async fn spec(&self, id: &Id) -> Result<Vec<u8>, Error> {
        let request = self.request(GetContainerRequest { id: id.to_string() });
        let answer = self.containers().get(request).await;
        let answer = answer.map_err(|status| self.error(format!("read the record of {id}"), &status))?;
        let spec = answer.into_inner().container.and_then(|container| container.spec);
        Ok(spec.map(|any| any.value).unwrap_or_default())
    }

    /// Deletes the record of `id`; none is fine.
    pub async fn delete_record(&self, id: &Id) -> Result<(), Error> {
        let request = self.request(DeleteContainerRequest { id: id.to_string() });
        let answer = self.containers().delete(request).await;
        super::gone_is_fine(
            answer
                .map(drop)
                .map_err(|status| self.error(format!("delete the record of {id}"), &status)),
        )
    }

    /// All records of this instance, in no order. One that cannot be read is an error of its own.
    pub async fn records(&self, instance: &str) -> Result<Vec<(Id, Result<Record, Error>)>, Error> {
        let filters = vec![format!("labels.\"{}\"=={instance}", label::INSTANCE)];
        let request = self.request(ListContainersRequest { filters });
        let answer = self.containers().list(request).await;
        let containers = answer
            .map_err(|status| self.error("list the records", &status))?
            .into_inner()
            .containers;
        let ours = containers
            .into_iter()
            .filter_map(|container| Some((container.id.parse().ok()?, decode(&container))));
        Ok(ours.collect())
    }

    fn containers(&self) -> ContainersClient<tonic::transport::Channel> {
        // A record with its spec can exceed gRPC's default of 4 MiB when many are listed.
        ContainersClient::new(self.channel()).max_decoding_message_size(super::MAX_MESSAGE)
    }
}

fn encode(record: &Record) -> HashMap<String, Any> {
    fn json(record: &impl Serialize) -> Vec<u8> {
        serde_json::to_vec(record).expect("a record of plain data serialises")
    }
    let value = match record {
        Record::Sandbox(record) => json(record),
        Record::Container(record) => json(record),
    };
    HashMap::from([(
        EXTENSION.to_owned(),
        Any {
            type_url: TYPE_URL.to_owned(),
            value,
        },
    )])
}

fn decode(container: &Container) -> Result<Record, Error> {
    let unreadable = |reason: String| Error::Unreadable {
        what: format!("the record of {}", container.id),
        reason,
    };
    let any = container
        .extensions
        .get(EXTENSION)
        .ok_or_else(|| unreadable(format!("extension {EXTENSION} is missing")))?;
    match container.labels.get(label::KIND).map(String::as_str) {
        Some(label::SANDBOX) => parse(&any.value).map(Record::Sandbox).map_err(unreadable),
        Some(label::CONTAINER) => parse(&any.value).map(Record::Container).map_err(unreadable),
        kind => Err(unreadable(format!("label {} is {kind:?}", label::KIND))),
    }
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if version > VERSION {
        return Err(format!(
            "it has version {version}, and this berth knows versions up to {VERSION}"
        ));
    }
    serde_json::from_slice(json).map_err(|error| error.to_string())
}
