//! A command in the container: well if it exits with 0.

use std::time::Duration;

use super::{MAX_OUTPUT, Report};
use crate::model::Id;
use crate::pod::{Error, Exec};

pub async fn check(exec: &dyn Exec, container: &Id, command: &[String], timeout: Duration) -> Report {
    match exec.run(container, command.to_vec(), Some(timeout)).await {
        Ok(result) if result.code == 0 => Report::success(result.output(MAX_OUTPUT)),
        Ok(result) => Report::failure(result.output(MAX_OUTPUT)),
        Err(Error::ExecTimeout(_)) => Report::failure(format!("command {:?} timed out", command.join(" "))),
        Err(error) => Report::unknown(error.to_string()),
    }
}
