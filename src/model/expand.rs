//! Kubernetes' `$(NAME)` in commands, arguments and environment values.

/// `text` with every `$(NAME)` that `value_of` knows replaced. `$$` stands for one `$`, so `$$(NAME)` is `$(NAME)`
/// itself; a reference to an unknown name, and a `$` before anything else, stay as they are.
pub fn expand(text: &str, value_of: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            after
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|body| body.split_once(')')) {
            expanded.push_str(&value_of(name).unwrap_or_else(|| format!("$({name})")));
            after
        } else {
            expanded.push('$');
            after
        };
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expanded(text: &str) -> String {
        expand(text, |name| (name == "A").then(|| "1".to_owned()))
    }

    #[test]
    fn known_names_are_replaced_and_all_else_stays() {
        for (text, expected) in [
            ("$(A)", "1"),
            ("a$(A)b$(A)", "a1b1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$", "$$"),
            ("$A ${A} $", "$A ${A} $"),
            ("$(A", "$(A"),
            ("$()", "$()"),
            ("ä$(A)ö", "ä1ö"),
        ] {
            assert_eq!(expanded(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_text_whose_dollars_are_doubled_stands_for_itself(text in "[a$()A ]{0,30}") {
            prop_assert_eq!(expanded(&text.replace('$', "$$")), text);
        }
    }
}
