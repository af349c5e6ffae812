//! containerd's tasks: the processes of containers, and further processes in them.

use std::path::Path;

use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    CreateTaskRequest, DeleteProcessRequest, DeleteTaskRequest, ExecProcessRequest, GetRequest, KillRequest,
    ListPidsRequest, ListTasksRequest, StartRequest, UpdateTaskRequest, WaitRequest,
};
use containerd_client::types;
use containerd_client::types::v1::Status as TaskStatus;
use prost_types::{Any, Timestamp};

use super::snapshots::to_wire;
use super::{Client, Error, RuncOptions, gone_is_fine};
use crate::model::{Id, Signal};
use crate::sys::rootfs::Mount;

const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const RESOURCES_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Made, not started.
    Created {
        pid: u32,
    },
    /// Also paused, or about to be.
    Running {
        pid: u32,
    },
    Stopped(Ended),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub code: i32,
    /// Nanoseconds since the Unix epoch.
    pub at: i64,
}

/// The named pipes that a shim connects a process to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stdio<'a> {
    pub stdin: Option<&'a Path>,
    pub stdout: Option<&'a Path>,
    pub stderr: Option<&'a Path>,
    pub terminal: bool,
}

impl Client {
    /// Makes the task of a recorded container: everything but running its process. Gives its pid.
    pub async fn create_task(
        &self,
        id: &Id,
        rootfs: &[Mount],
        io: Stdio<'_>,
        options: &RuncOptions,
    ) -> Result<u32, Error> {
        let request = CreateTaskRequest {
            container_id: id.to_string(),
            rootfs: rootfs.iter().map(to_wire).collect(),
            stdin: text(io.stdin),
            stdout: text(io.stdout),
            stderr: text(io.stderr),
            terminal: io.terminal,
            options: Some(options.any()),
            ..CreateTaskRequest::default()
        };
        let answer = self.tasks().create(self.request(request)).await;
        answer
            .map(|answer| answer.into_inner().pid)
            .map_err(|s| self.error(format!("create the task of {id}"), &s))
    }

    pub async fn start_task(&self, id: &Id) -> Result<(), Error> {
        self.start(id, String::new()).await
    }

    async fn start(&self, id: &Id, exec_id: String) -> Result<(), Error> {
        let request = self.request(StartRequest {
            container_id: id.to_string(),
            exec_id,
        });
        self.tasks()
            .start(request)
            .await
            .map(drop)
            .map_err(|s| self.error(format!("start the task of {id}"), &s))
    }

    /// Waits for the end of a task.
    pub async fn wait_task(&self, id: &Id) -> Result<Ended, Error> {
        self.wait(id, String::new()).await
    }

    async fn wait(&self, id: &Id, exec_id: String) -> Result<Ended, Error> {
        let request = self.request(WaitRequest {
            container_id: id.to_string(),
            exec_id,
        });
        let answer = self.tasks().wait(request).await;
        let answer = answer
            .map_err(|s| self.error(format!("wait for the task of {id}"), &s))?
            .into_inner();
        Ok(ended(answer.exit_status, answer.exited_at))
    }

    /// The state of a task; None when there is none.
    pub async fn task(&self, id: &Id) -> Result<Option<Task>, Error> {
        self.process(id, "").await
    }

    async fn process(&self, id: &Id, exec_id: &str) -> Result<Option<Task>, Error> {
        let what = || format!("look at the task of {id} {exec_id}").trim_end().to_owned();
        let request = self.request(GetRequest {
            container_id: id.to_string(),
            exec_id: exec_id.to_owned(),
        });
        match self.tasks().get(request).await {
            Ok(answer) => match answer.into_inner().process {
                Some(process) => state(&process)
                    .map(Some)
                    .ok_or_else(|| Error::ShimLost { what: what() }),
                None => Ok(None),
            },
            Err(status) => match self.error(what(), &status) {
                error if error.is_not_found() => Ok(None),
                error => Err(error),
            },
        }
    }

    /// The ids of all tasks in our containerd namespace that have the form of ours.
    pub async fn task_ids(&self) -> Result<Vec<Id>, Error> {
        let answer = self.tasks().list(self.request(ListTasksRequest::default())).await;
        let tasks = answer
            .map_err(|status| self.error("list the tasks", &status))?
            .into_inner()
            .tasks;
        // The stock shim gives the container's id in `id` and leaves `container_id` empty.
        Ok(tasks
            .into_iter()
            .filter_map(|process| process.id.parse().ok())
            .collect())
    }

    /// Sends a signal to the task's first process, or to `all` of its container. One that has ended is fine, and so
    /// is one whose shim has died: containerd kills it then.
    pub async fn kill_task(&self, id: &Id, signal: Signal, all: bool) -> Result<(), Error> {
        self.kill(id, String::new(), signal, all).await
    }

    async fn kill(&self, id: &Id, exec_id: String, signal: Signal, all: bool) -> Result<(), Error> {
        let request = KillRequest {
            container_id: id.to_string(),
            exec_id,
            signal: signal.number(),
            all,
        };
        let answer = self.tasks().kill(self.request(request)).await;
        let answer = answer
            .map(drop)
            .map_err(|s| self.error(format!("send {signal} to the task of {id}"), &s));
        match answer {
            Err(error) if error.is_shim_lost() => Ok(()),
            answer => gone_is_fine(answer),
        }
    }

    /// Deletes an ended task and all that its shim keeps of it. Whether there was one.
    pub async fn delete_task(&self, id: &Id) -> Result<bool, Error> {
        let request = self.request(DeleteTaskRequest {
            container_id: id.to_string(),
        });
        let answer = self.tasks().delete(request).await;
        match answer.map_err(|s| self.error(format!("delete the task of {id}"), &s)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The processes of a running task, by pid.
    pub async fn task_pids(&self, id: &Id) -> Result<Vec<u32>, Error> {
        let answer = self
            .tasks()
            .list_pids(self.request(ListPidsRequest {
                container_id: id.to_string(),
            }))
            .await;
        let answer = answer.map_err(|s| self.error(format!("list the processes of {id}"), &s))?;
        Ok(answer
            .into_inner()
            .processes
            .iter()
            .map(|process| process.pid)
            .collect())
    }

    /// Changes the limits of a running task. `resources` is OCI's `LinuxResources`, JSON.
    pub async fn update_task(&self, id: &Id, resources: Vec<u8>) -> Result<(), Error> {
        let resources = Some(Any {
            type_url: RESOURCES_URL.to_owned(),
            value: resources,
        });
        let request = UpdateTaskRequest {
            container_id: id.to_string(),
            resources,
            ..UpdateTaskRequest::default()
        };
        let answer = self.tasks().update(self.request(request)).await;
        answer
            .map(drop)
            .map_err(|s| self.error(format!("update the limits of {id}"), &s))
    }

    /// Prepares a further process in a running task. `process` is OCI's `Process`, JSON.
    pub async fn create_exec(&self, id: &Id, exec_id: &str, process: Vec<u8>, io: Stdio<'_>) -> Result<(), Error> {
        let request = ExecProcessRequest {
            container_id: id.to_string(),
            exec_id: exec_id.to_owned(),
            spec: Some(Any {
                type_url: PROCESS_URL.to_owned(),
                value: process,
            }),
            stdin: text(io.stdin),
            stdout: text(io.stdout),
            stderr: text(io.stderr),
            terminal: io.terminal,
        };
        let answer = self.tasks().exec(self.request(request)).await;
        answer
            .map(drop)
            .map_err(|s| self.error(format!("prepare a process in {id}"), &s))
    }

    pub async fn start_exec(&self, id: &Id, exec_id: &str) -> Result<(), Error> {
        self.start(id, exec_id.to_owned()).await
    }

    pub async fn wait_exec(&self, id: &Id, exec_id: &str) -> Result<Ended, Error> {
        self.wait(id, exec_id.to_owned()).await
    }

    /// The state of a further process; None when there is none.
    pub async fn exec(&self, id: &Id, exec_id: &str) -> Result<Option<Task>, Error> {
        self.process(id, exec_id).await
    }

    pub async fn kill_exec(&self, id: &Id, exec_id: &str, signal: Signal) -> Result<(), Error> {
        self.kill(id, exec_id.to_owned(), signal, false).await
    }

    /// Forgets an ended process; none is fine.
    pub async fn delete_exec(&self, id: &Id, exec_id: &str) -> Result<(), Error> {
        let request = DeleteProcessRequest {
            container_id: id.to_string(),
            exec_id: exec_id.to_owned(),
        };
        let answer = self.tasks().delete_process(self.request(request)).await;
        gone_is_fine(
            answer
                .map(drop)
                .map_err(|s| self.error(format!("delete a process of {id}"), &s)),
        )
    }

    fn tasks(&self) -> TasksClient<tonic::transport::Channel> {
        TasksClient::new(self.channel()).max_decoding_message_size(super::MAX_MESSAGE)
    }
}

fn text(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn state(process: &types::v1::Process) -> Option<Task> {
    match process.status() {
        TaskStatus::Created => Some(Task::Created { pid: process.pid }),
        TaskStatus::Running | TaskStatus::Paused | TaskStatus::Pausing => Some(Task::Running { pid: process.pid }),
        TaskStatus::Stopped => Some(Task::Stopped(ended(process.exit_status, process.exited_at))),
        // containerd's word for a shim that did not tell it within 2 s.
        TaskStatus::Unknown => None,
    }
}

fn ended(code: u32, at: Option<Timestamp>) -> Ended {
    let at = at.unwrap_or_default();
    Ended {
        code: i32::try_from(code).unwrap_or(255),
        at: at.seconds * 1_000_000_000 + i64::from(at.nanos),
    }
}
