//! Kubernetes' rules of names (its `IsDNS1123Label` and kin), each as what is wrong with a text, if anything is.

type Wrong = Option<&'static str>;

const LABEL: &str = "must be at most 63 lower-case letters, digits and '-', and begin and end with a letter or digit";
const SUBDOMAIN: &str = "must be at most 253 lower-case letters, digits, '-' and '.', each part beginning and ending with a letter or digit";
const PORT: &str = "must be at most 15 lower-case letters, digits and single '-', with a letter, and begin and end with a letter or digit";
const QUALIFIED: &str = "must be at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit, after an optional DNS name and '/'";
const VALUE: &str =
    "must be empty or at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit";

/// A container, volume, namespace or host name.
pub fn label(text: &str) -> Wrong {
    (!is_label(text)).then_some(LABEL)
}

/// A pod name.
pub fn subdomain(text: &str) -> Wrong {
    (!is_subdomain(text)).then_some(SUBDOMAIN)
}

/// The name of a port.
pub fn port(text: &str) -> Wrong {
    let right = text.len() <= 15
        && is_label(text)
        && !text.contains("--")
        && text.bytes().any(|byte| byte.is_ascii_lowercase());
    (!right).then_some(PORT)
}

/// The key of a label or annotation.
pub fn qualified(text: &str) -> Wrong {
    let (prefix, name) = text
        .split_once('/')
        .map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let right = prefix.is_none_or(is_subdomain) && is_value(name) && !name.is_empty();
    (!right).then_some(QUALIFIED)
}

/// The value of a label.
pub fn label_value(text: &str) -> Wrong {
    (!is_value(text)).then_some(VALUE)
}

/// The name of an environment variable: anything printable without `=`.
pub fn variable(text: &str) -> Wrong {
    let right = !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=');
    (!right).then_some("must be printable ASCII without '=', and not empty")
}

fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_part(text)
}

fn is_subdomain(text: &str) -> bool {
    // A part may be longer than a label: only the whole is limited.
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_value(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let outer = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && bytes.iter().all(|byte| inner(*byte)) && outer(bytes.first()) && outer(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short_and_lower_case() {
        for right in ["a", "a-b", "0a", &"x".repeat(63)] {
            assert_eq!(label(right), None, "{right}");
        }
        for wrong in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"x".repeat(64)] {
            assert!(label(wrong).is_some(), "{wrong}");
        }
    }

    #[test]
    fn subdomains_have_dots() {
        for right in ["a", "a.b-c.0", &"x".repeat(253)] {
            assert_eq!(subdomain(right), None, "{right}");
        }
        for wrong in ["", ".", "a..b", "a.-b", "A.b", "../a", &"x".repeat(254)] {
            assert!(subdomain(wrong).is_some(), "{wrong}");
        }
    }

    #[test]
    fn port_names_have_a_letter() {
        for right in ["http", "h2", "8080a"] {
            assert_eq!(port(right), None, "{right}");
        }
        for wrong in ["", "80", "a--b", "-a", "HTTP", "sixteen-letters-"] {
            assert!(port(wrong).is_some(), "{wrong}");
        }
    }

    #[test]
    fn keys_may_have_a_domain() {
        for right in ["a", "App", "example.com/a_b.c"] {
            assert_eq!(qualified(right), None, "{right}");
        }
        for wrong in ["", "/a", "a/", "a/b/c", "Example.com/a", "_a"] {
            assert!(qualified(wrong).is_some(), "{wrong}");
        }
        assert_eq!(label_value(""), None);
        assert!(label_value("a b").is_some());
        assert!(variable("A=B").is_some() && variable("").is_some() && variable("a.b-c").is_none());
    }
}
