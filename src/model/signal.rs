//! Signals by name and number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A signal of Linux, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signal(u8);

/// Names as signal(7) gives them, for x86 and Arm; where two names share a number, the first is the one printed.
const NAMES: [(&str, u8); 37] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
    ("RTMIN", Signal::RTMIN),
    ("RTMAX", Signal::RTMAX),
];

impl Signal {
    pub const KILL: Self = Self(9);
    pub const TERM: Self = Self(15);
    /// The first real-time signal that glibc leaves to programs.
    const RTMIN: u8 = 34;
    const RTMAX: u8 = 64;

    pub fn number(self) -> u32 {
        u32::from(self.0)
    }
}

/// A text that names no signal.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no such signal: {0:?}")]
pub struct NoSuchSignal(String);

impl FromStr for Signal {
    type Err = NoSuchSignal;

    /// Takes `SIGTERM`, `TERM`, `term`, `15`, `SIGRTMIN+3` and `RTMAX-1`, as image configs write them.
    fn from_str(text: &str) -> Result<Self, NoSuchSignal> {
        let refuse = || NoSuchSignal(text.chars().take(40).collect());
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = if let Ok(number) = name.parse::<u8>() {
            Some(number)
        } else if let Some(plus) = name.strip_prefix("RTMIN+") {
            plus.parse::<u8>().ok().and_then(|n| n.checked_add(Self::RTMIN))
        } else if let Some(minus) = name.strip_prefix("RTMAX-") {
            minus
                .parse::<u8>()
                .ok()
                .and_then(|n| Self::RTMAX.checked_sub(n))
                .filter(|n| *n >= Self::RTMIN)
        } else {
            NAMES
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, number)| *number)
        };
        match number {
            Some(number @ 1..=Self::RTMAX) => Ok(Self(number)),
            _ => Err(refuse()),
        }
    }
}

impl TryFrom<u32> for Signal {
    type Error = NoSuchSignal;

    fn try_from(number: u32) -> Result<Self, NoSuchSignal> {
        number.to_string().parse()
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMES.iter().find(|(_, number)| *number == self.0) {
            write!(f, "SIG{name}")
        } else if self.0 > Self::RTMIN {
            write!(f, "SIGRTMIN+{}", self.0 - Self::RTMIN)
        } else {
            write!(f, "{}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_prints_and_parses_back() {
        for number in 1..=64 {
            let signal = Signal::try_from(number).unwrap();
            assert_eq!(signal.to_string().parse(), Ok(signal));
        }
    }

    #[test]
    fn names_are_taken_in_every_spelling() {
        for text in ["SIGQUIT", "quit", "QUIT", "3"] {
            assert_eq!(text.parse::<Signal>().unwrap().number(), 3, "{text}");
        }
        assert_eq!("SIGRTMIN+3".parse::<Signal>().unwrap().number(), 37);
        assert_eq!("RTMAX-14".parse::<Signal>().unwrap().number(), 50);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "0", "65", "SIGNONE", "RTMIN+31", "RTMAX-31", "-1", "SIGRTMIN+"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }
}
