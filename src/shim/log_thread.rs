//! The log writer's thread ([`crate::logs`]).

use std::io;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use super::place::Place;
use super::report;
use crate::logs::{Handle, Pump};

/// Its buffers are not on the stack.
const STACK: usize = 128 << 10;

/// The running log writer.
pub struct LogThread {
    pump: Handle,
    thread: JoinHandle<()>,
}

impl LogThread {
    /// Starts it. It goes on with the logs that an earlier shim's had open.
    pub fn start(place: &Place) -> io::Result<Self> {
        Self::start_holding(place, Vec::new())
    }

    /// The same, with descriptors of the FIFOs of those logs, which are closed when it has them open.
    pub fn start_holding(place: &Place, fifos: Vec<OwnedFd>) -> io::Result<Self> {
        let mut pump = Pump::bind(&place.log_socket(), &place.logs())?;
        pump.hold(fifos);
        let handle = pump.handle();
        let thread = std::thread::Builder::new().name("logs".to_owned()).stack_size(STACK);
        let thread = thread.spawn(move || {
            if let Err(error) = pump.run() {
                // Containers would wait for ever once their FIFOs are full. The next shim has a log writer that works.
                report(&format!("the log writer failed: {error}"));
                std::process::exit(1);
            }
        })?;
        Ok(Self { pump: handle, thread })
    }

    /// Whether no log is open.
    pub fn is_idle(&self) -> bool {
        self.pump.open() == 0
    }

    /// Ends it. What is in the FIFOs stays there.
    pub fn leave(self) {
        self.pump.leave();
        self.thread.join().ok();
    }
}
