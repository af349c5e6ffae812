//! The log writer's thread.

use std::io;

use super::place::Place;

pub struct LogThread;

impl LogThread {
    pub fn start(_place: &Place) -> io::Result<Self> {
        Ok(Self)
    }

    pub fn is_idle(&self) -> bool {
        true
    }

    pub fn leave(self) {}
}
