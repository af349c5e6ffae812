//! What a container's hooks do: a command in it, a request or a connection from its network namespace, or a sleep.
//! When they run, and what their failure means, is told above.

use std::sync::Arc;
use std::time::Duration;

use crate::dial::http::{Error as HttpError, Get};
use crate::dial::{self, Dialer, Target};
use crate::model::Id;
use crate::model::probe::{Endpoint, Hook, HttpGet};
use crate::pod::{self, Exec};

/// What is kept of a hook's output.
pub const MAX_OUTPUT: usize = 10 << 10;

/// How hooks name themselves: as a kubelet of this version does.
pub const USER_AGENT: &str = "kube-lifecycle/1.36";

/// A hook that has run to its end and succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// What the command wrote, stdout then stderr, or the body of the answer; at most [`MAX_OUTPUT`] bytes.
    pub output: String,
    /// For the event `LifecycleHTTPFallback`: the host and port where HTTPS was asked for and the server speaks HTTP without
    /// TLS.
    pub fallback: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("command {command:?} exited with {code}: {output}")]
    Exit {
        command: String,
        code: i32,
        /// Bounded as that of a success.
        output: String,
    },
    #[error("command {command:?}: {source}")]
    Exec { command: String, source: pod::Error },
    #[error("Get {url:?}: {source}")]
    Http { url: String, source: HttpError },
    #[error(transparent)]
    Tcp(dial::Error),
    #[error("the container ended before the sleep of {seconds} s was over")]
    SleepCut { seconds: u32 },
}

/// Runs hooks. Cheap to clone.
#[derive(Clone)]
pub struct Hooks {
    dialer: Dialer,
    exec: Arc<dyn Exec>,
}

impl Hooks {
    pub fn new(dialer: Dialer, exec: Arc<dyn Exec>) -> Self {
        Self { dialer, exec }
    }

    /// Runs a hook to its end, for which there is no limit but the caller's: when the future is dropped its command is
    /// killed or its connection closed. `ended` comes when the container has ended, which cuts a sleep short.
    ///
    /// # Errors
    /// The hook failed.
    pub async fn run(
        &self,
        hook: &Hook,
        container: &Id,
        target: &Target,
        ended: impl Future<Output = ()>,
    ) -> Result<Done, Error> {
        match hook {
            Hook::Exec { command } => self.exec(container, command).await,
            Hook::Http(http) => self.http(target, http).await,
            Hook::Tcp(at) => self.tcp(target, at).await,
            Hook::Sleep { seconds } => tokio::select! {
                biased;
                () = tokio::time::sleep(Duration::from_secs((*seconds).into())) => Ok(Done::default()),
                () = ended => Err(Error::SleepCut { seconds: *seconds }),
            },
        }
    }

    async fn exec(&self, container: &Id, command: &[String]) -> Result<Done, Error> {
        let said = command.join(" ");
        let result = match self.exec.run(container, command.to_vec(), None).await {
            Ok(result) => result,
            Err(source) => return Err(Error::Exec { command: said, source }),
        };
        let code = result.code;
        let output = result.output(MAX_OUTPUT);
        if code == 0 {
            return Ok(Done { output, fallback: None });
        }
        Err(Error::Exit {
            command: said,
            code,
            output,
        })
    }

    async fn http(&self, target: &Target, http: &HttpGet) -> Result<Done, Error> {
        let failed = |url: String| move |source| Error::Http { url, source };
        let get = Get::new(http, target, USER_AGENT).map_err(failed(http.to_string()))?;
        let (answer, fallback) = match get.send(&self.dialer, target, None).await {
            Err(HttpError::PlainHttp) => {
                let plain = get.in_the_clear();
                let answer = plain
                    .send(&self.dialer, target, None)
                    .await
                    .map_err(failed(plain.url()))?;
                (answer, get.url().split('/').nth(2).map(str::to_owned))
            }
            answer => (answer.map_err(failed(get.url()))?, None),
        };
        let output = pod::cut(String::from_utf8_lossy(&answer.body).into_owned(), MAX_OUTPUT);
        Ok(Done { output, fallback })
    }

    async fn tcp(&self, target: &Target, at: &Endpoint) -> Result<Done, Error> {
        self.dialer.connect(target, at).await.map_err(Error::Tcp)?;
        Ok(Done::default())
    }
}
