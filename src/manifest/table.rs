//! What is told of a pod in the kubelet's words, counted as its event correlator counts: the same event again is no
//! new line, and events that differ in their text alone become one line once there are many.

use serde::{Deserialize, Serialize};

use crate::model::event::Severity;

/// The most lines that are kept of a pod; beyond them the one that was silent longest goes.
const LINES: usize = 64;
/// From so many lines on that differ in their message alone, further ones are folded into one (the correlator's
/// `defaultAggregateMaxEvents`).
const SIMILAR: usize = 10;
/// How the message of such a line begins; it goes on with the latest.
const COMBINED: &str = "(combined from similar events): ";
/// The longest message in bytes: what Kubernetes takes as an event's note.
const MESSAGE: usize = 1024;

/// One line: an event and how often it came. Times are nanoseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// None: it concerns the pod as a whole.
    pub container: Option<String>,
    pub severity: Severity,
    /// One word, such as `Unhealthy`.
    pub reason: String,
    pub message: String,
    pub first: i64,
    pub last: i64,
    /// At least 1.
    pub count: u32,
}

/// The lines of one pod, in the order of their first time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub lines: Vec<Line>,
}

impl Table {
    /// Counts an event that came at `at`.
    pub fn add(&mut self, at: i64, container: Option<&str>, severity: Severity, reason: &str, message: &str) {
        let mut message = cut(message, MESSAGE).to_owned();
        let like =
            |line: &Line| line.container.as_deref() == container && line.severity == severity && line.reason == reason;
        let mut same = self.lines.iter().position(|line| like(line) && line.message == message);
        if same.is_none() && self.lines.iter().filter(|line| like(line)).count() >= SIMILAR {
            message = cut(&format!("{COMBINED}{message}"), MESSAGE).to_owned();
            same = self
                .lines
                .iter()
                .position(|line| like(line) && line.message.starts_with(COMBINED));
        }
        if let Some(line) = same.map(|index| &mut self.lines[index]) {
            line.message = message;
            line.last = line.last.max(at);
            line.count = line.count.saturating_add(1);
            return;
        }
        self.lines.push(Line {
            container: container.map(str::to_owned),
            severity,
            reason: reason.to_owned(),
            message,
            first: at,
            last: at,
            count: 1,
        });
        self.forget();
    }

    /// The time of the latest event; 0 without any.
    pub fn last(&self) -> i64 {
        self.lines.iter().map(|line| line.last).max().unwrap_or(0)
    }

    fn forget(&mut self) {
        if self.lines.len() > LINES {
            let silent = (0..self.lines.len()).min_by_key(|index| self.lines[*index].last);
            self.lines.remove(silent.unwrap_or(0));
        }
    }
}

/// At most `most` bytes of a text, in whole characters.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(table: &mut Table, at: i64, reason: &str, message: &str) {
        table.add(at, Some("c"), Severity::Warning, reason, message);
    }

    #[test]
    fn the_same_event_is_counted_with_its_first_and_last_time() {
        let mut table = Table::default();
        for at in [10, 15, 20] {
            add(&mut table, at, "Unhealthy", "no");
        }
        table.add(21, Some("d"), Severity::Warning, "Unhealthy", "no");
        add(&mut table, 22, "Unhealthy", "never");
        let counts: Vec<_> = table
            .lines
            .iter()
            .map(|line| (line.first, line.last, line.count))
            .collect();
        assert_eq!(counts, [(10, 20, 3), (21, 21, 1), (22, 22, 1)]);
        assert_eq!(table.last(), 22);
        assert_eq!(Table::default().last(), 0);
    }

    #[test]
    fn events_that_differ_in_their_text_alone_become_one_line() {
        let mut table = Table::default();
        for at in 0..30 {
            add(&mut table, at, "Unhealthy", &format!("at {at}"));
        }
        add(&mut table, 30, "Killing", "stop");
        assert_eq!(table.lines.len(), SIMILAR + 2);
        let combined = &table.lines[SIMILAR];
        assert_eq!(
            (combined.message.as_str(), combined.count),
            ("(combined from similar events): at 29", 20)
        );
        // One that has its line is still counted there.
        add(&mut table, 31, "Unhealthy", "at 3");
        assert_eq!((table.lines[3].count, table.lines[3].last), (2, 31));
    }

    #[test]
    fn lines_and_messages_are_bounded_and_the_most_silent_go_first() {
        let mut table = Table::default();
        for at in 0..LINES as i64 {
            add(&mut table, at, &format!("R{at}"), "");
        }
        add(&mut table, 100, "R0", "");
        add(&mut table, 101, "New", &"ä".repeat(MESSAGE));
        assert_eq!(table.lines.len(), LINES);
        assert_eq!(table.lines[0].reason, "R0");
        assert_eq!(table.lines[1].reason, "R2");
        assert_eq!(table.lines.last().unwrap().message, "ä".repeat(MESSAGE / 2));
    }
}
