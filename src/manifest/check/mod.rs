//! The values of a manifest, by Kubernetes' rules of validation, and its defaults.

mod container;
mod pod;
mod probes;

use std::collections::BTreeSet;

/// Collects what is wrong: path and reason.
#[derive(Default)]
pub struct Check {
    pub wrong: Vec<(String, String)>,
}

impl Check {
    fn refuse(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.wrong.push((path.into(), reason.into()));
    }

    fn rule(&mut self, path: &str, wrong: Option<&'static str>) {
        if let Some(reason) = wrong {
            self.refuse(path, reason);
        }
    }

    fn required(&mut self, path: &str, value: Option<String>) -> String {
        let value = value.unwrap_or_default();
        if value.is_empty() {
            self.refuse(path, "required");
        }
        value
    }

    /// A required name that follows `rule`.
    fn name(&mut self, path: &str, value: Option<String>, rule: impl Fn(&str) -> Option<&'static str>) -> String {
        let value = self.required(path, value);
        if !value.is_empty() {
            self.rule(path, rule(&value));
        }
        value
    }

    fn unique<T: Ord>(&mut self, path: &str, seen: &mut BTreeSet<T>, value: T) {
        if !seen.insert(value) {
            self.refuse(path, "is there twice");
        }
    }

    /// The meaning of one of several words.
    fn word<T: Copy>(&mut self, path: &str, value: Option<&str>, default: T, words: &[(&str, T)]) -> T {
        let Some(value) = value else { return default };
        match words.iter().find(|(word, _)| *word == value) {
            Some((_, meaning)) => *meaning,
            None => {
                let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
                self.refuse(path, format!("{value:?} is none of {}", words.join(", ")));
                default
            }
        }
    }

    /// A user or group id.
    fn id(&mut self, path: &str, value: Option<i64>) -> Option<u32> {
        let value = value?;
        let id = u32::try_from(value).ok().filter(|id| i32::try_from(*id).is_ok());
        if id.is_none() {
            self.refuse(path, format!("{value} is not between 0 and {}", i32::MAX));
        }
        id
    }
}
