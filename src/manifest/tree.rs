//! A YAML document as a tree of names and lines: which fields are there, and where.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::fields::{Object, Shape};
use super::problem::{Problem, What};

/// A node and the line that it begins on.
pub struct Tree {
    line: u64,
    node: Node,
}

enum Node {
    Map(Vec<(String, u64, Tree)>),
    List(Vec<Tree>),
    Null,
    Scalar,
}

impl Tree {
    /// The fields that nobody knows or that are not covered.
    pub fn check(&self, object: &Object) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.check_object("", object, &mut problems);
        problems
    }

    fn check_object(&self, path: &str, object: &Object, problems: &mut Vec<Problem>) {
        let Node::Map(fields) = &self.node else { return };
        for (name, line, value) in fields {
            let path = join(path, name);
            let covered = object.covered.iter().find(|(covered, _)| covered == name);
            match covered {
                Some((_, shape)) => value.check_shape(&path, shape, problems),
                // To Kubernetes a null is no field at all.
                None if matches!(value.node, Node::Null) => {}
                None => {
                    let known = object.known.contains(&name.as_str());
                    let what = if known { What::Unsupported } else { What::Unknown };
                    problems.push(Problem {
                        line: Some(*line),
                        path,
                        what,
                    });
                }
            }
        }
    }

    fn check_shape(&self, path: &str, shape: &Shape, problems: &mut Vec<Problem>) {
        match (shape, &self.node) {
            (Shape::One(object), _) => self.check_object(path, object, problems),
            (Shape::Many(object), Node::List(items)) => {
                for (i, item) in items.iter().enumerate() {
                    item.check_object(&format!("{path}[{i}]"), object, problems);
                }
            }
            (Shape::Keys(covered), Node::Map(fields)) => {
                for (name, line, _) in fields.iter().filter(|(name, ..)| !covered.contains(&name.as_str())) {
                    problems.push(Problem {
                        line: Some(*line),
                        path: join(path, name),
                        what: What::Unsupported,
                    });
                }
            }
            (Shape::Empty, Node::Map(fields)) if fields.is_empty() => {}
            (Shape::Empty, Node::Null) => {}
            (Shape::Empty, _) => {
                problems.push(Problem {
                    line: Some(self.line),
                    path: path.to_owned(),
                    what: What::Unsupported,
                });
            }
            (Shape::Any | Shape::Many(_) | Shape::Keys(_), _) => {}
        }
    }

    /// The line of `path` (as in `spec.containers[0].name`), or of the nearest thing around it that is there.
    pub fn line(&self, path: &str) -> u64 {
        let (mut tree, mut line) = (self, self.line);
        for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
            let next = match (&tree.node, step.strip_suffix(']')) {
                (Node::List(items), Some(index)) => index
                    .parse()
                    .ok()
                    .and_then(|i: usize| items.get(i))
                    .map(|item| (item.line, item)),
                (Node::Map(fields), None) => fields
                    .iter()
                    .find(|(name, ..)| name == step)
                    .map(|(_, line, value)| (*line, value)),
                _ => None,
            };
            let Some(next) = next else { break };
            (line, tree) = next;
        }
        line
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Node>::deserialize(deserializer)?;
        Ok(Self {
            line: spanned.referenced.line(),
            node: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            fields.push((key.value, key.referenced.line(), map.next_value()?));
        }
        Ok(Node::Map(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
}
