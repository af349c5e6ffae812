//! Named points at which a test may kill the daemon, to prove that nothing is lost or leaked there.
//!
//! Every effect of pod start and stop runs through [`effect`], which names it. With the cargo feature `failpoints`
//! (tests only) and `BERTH_FAILPOINT=NAME:before` or `NAME:after` in the environment, the daemon kills itself with
//! SIGKILL when it comes to that point; with `BERTH_FAILPOINT_TRACE=FILE` it appends the name of each point that it
//! passes to the file, which is how the test learns them. Without the feature all of this is nothing.

use std::future::Future;

/// Runs one effect between its two failpoints.
pub async fn effect<T>(name: &'static str, effect: impl Future<Output = T>) -> T {
    point(name, "before");
    let result = effect.await;
    point(name, "after");
    result
}

#[cfg(not(feature = "failpoints"))]
fn point(_name: &str, _side: &str) {}

#[cfg(feature = "failpoints")]
fn point(name: &str, side: &str) {
    use std::io::Write;

    let point = format!("{name}:{side}");
    if let Some(path) = std::env::var_os("BERTH_FAILPOINT_TRACE") {
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .expect("the trace opens");
        writeln!(file, "{point}").expect("the trace is written");
    }
    if std::env::var("BERTH_FAILPOINT").is_ok_and(|wanted| wanted == point) {
        nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL).expect("kill(2) of self");
        std::thread::sleep(std::time::Duration::MAX);
    }
}
