//! Running a command in a container, as those see it who want nothing else of a pod: probes and hooks.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Error, ExecResult, Pods};
use crate::model::Id;

/// Of each stream of a probe's or hook's command so many bytes are kept, which is what a kubelet shows at most.
const KEPT: usize = 10 << 10;

/// Runs commands in containers.
pub trait Exec: Send + Sync {
    /// Runs `command` to its end and gives what it wrote. It is killed when the future is dropped, or when `timeout`
    /// is over, with [`Error::ExecTimeout`].
    fn run<'a>(
        &'a self,
        container: &'a Id,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecResult, Error>>;
}

impl Exec for Pods {
    fn run<'a>(
        &'a self,
        container: &'a Id,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecResult, Error>> {
        Box::pin(self.exec_while_awaited(container, command, timeout, KEPT))
    }
}

impl ExecResult {
    /// What the command wrote as text, stdout then stderr, at most `limit` bytes of it.
    pub fn output(&self, limit: usize) -> String {
        // Cut first: a stream may have megabytes.
        let streams = [&self.stdout, &self.stderr].into_iter().flatten();
        let bytes: Vec<u8> = streams.take(limit).copied().collect();
        cut(String::from_utf8_lossy(&bytes).into_owned(), limit)
    }
}

/// `text` without what is beyond `limit` bytes.
pub fn cut(mut text: String, limit: usize) -> String {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_is_stdout_then_stderr_and_is_cut() {
        let result = ExecResult {
            stdout: b"out".to_vec(),
            stderr: "\u{e4}rr".into(),
            code: 0,
        };
        assert_eq!(result.output(100), "out\u{e4}rr");
        assert_eq!(result.output(5), "out\u{e4}");
        assert!(result.output(4).len() <= 4);
        assert_eq!(result.output(2), "ou");
    }
}
