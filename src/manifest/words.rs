//! The kubelet's words (pkg/kubelet/events, and the messages of kuberuntime and the image manager) for what happens to
//! a pod.

use super::events::{Happening, Trouble};
use super::pod::Pod;
use crate::model::container::Reason;
use crate::model::event::Severity::{self, Normal, Warning};

/// An event: its type, its reason and its message.
pub type Words = (Severity, &'static str, String);

/// What a kubelet would tell. Nothing: it would say nothing.
pub fn of(pod: &Pod, container: Option<&str>, what: &Happening) -> Vec<Words> {
    let name = container.unwrap_or_default();
    match what {
        Happening::Pulling { image } => vec![(Normal, "Pulling", format!("Pulling image {image:?}"))],
        Happening::Pulled { image, took: None } => {
            let message = format!("Container image {image:?} already present on machine");
            vec![(Normal, "Pulled", message)]
        }
        Happening::Pulled {
            image,
            took: Some(took),
        } => {
            let message = format!("Successfully pulled image {image:?} in {:.3}s", took.as_secs_f64());
            vec![(Normal, "Pulled", message)]
        }
        Happening::Created { .. } => vec![(Normal, "Created", format!("Created container: {name}"))],
        Happening::Started => vec![(Normal, "Started", format!("Started container {name}"))],
        Happening::Exited {
            reason: Reason::StartError,
            message,
            ..
        } => vec![(Warning, "Failed", format!("Error: {message}"))],
        Happening::BackOff { .. } => vec![(Warning, "BackOff", back_off(pod, name))],
        Happening::Failed { trouble, message, .. } => failed(trouble, message),
        Happening::Lost => {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            vec![(Normal, "SandboxChanged", message.to_owned())]
        }
        Happening::Told {
            severity,
            reason,
            message,
        } => vec![(*severity, reason, message.clone())],
        Happening::Accepted
        | Happening::Exited { .. }
        | Happening::Running { .. }
        | Happening::Finished { .. }
        | Happening::Deleting
        | Happening::Deleted => Vec::new(),
    }
}

fn back_off(pod: &Pod, name: &str) -> String {
    format!("Back-off restarting failed container {name} in pod {}", full_name(pod))
}

/// As the kubelet writes a pod: `NAME_NAMESPACE(UID)`.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", pod.name.name, pod.name.namespace, pod.uid)
}

fn failed(trouble: &Trouble, message: &str) -> Vec<Words> {
    match trouble {
        Trouble::Sandbox => vec![(
            Warning,
            "FailedCreatePodSandBox",
            format!("Failed to create pod sandbox: {message}"),
        )],
        Trouble::NeverPulled { image } => vec![
            (
                Warning,
                "ErrImageNeverPull",
                format!("Container image {image:?} is not present with pull policy of Never"),
            ),
            (Warning, "Failed", "Error: ErrImageNeverPull".to_owned()),
        ],
        Trouble::Image { image } => vec![
            (Warning, "Failed", format!("Failed to pull image {image:?}: {message}")),
            (Warning, "Failed", "Error: ErrImagePull".to_owned()),
            (Normal, "BackOff", format!("Back-off pulling image {image:?}")),
            (Warning, "Failed", "Error: ImagePullBackOff".to_owned()),
        ],
        Trouble::Container => vec![(Warning, "Failed", format!("Error: {message}"))],
        Trouble::Deletion => vec![(Warning, "FailedKillPod", format!("error killing pod: {message}"))],
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::manifest::parse;

    #[test]
    fn every_happening_has_the_kubelets_words() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: c, image: i}]\n";
        let pod = Pod {
            uid: "u".to_owned(),
            ..parse(text, 0).unwrap()
        };
        let image = || "i:1".to_owned();
        let failed = |trouble| Happening::Failed {
            trouble,
            message: "it broke".to_owned(),
            retry_at: 0,
        };
        let exited = |reason| Happening::Exited {
            code: 1,
            reason,
            message: "no such file".to_owned(),
        };
        for (what, expected) in [
            (
                Happening::Pulling { image: image() },
                "Normal Pulling Pulling image \"i:1\"",
            ),
            (
                Happening::Pulled {
                    image: image(),
                    took: None,
                },
                "Normal Pulled Container image \"i:1\" already present on machine",
            ),
            (
                Happening::Pulled {
                    image: image(),
                    took: Some(Duration::from_millis(1250)),
                },
                "Normal Pulled Successfully pulled image \"i:1\" in 1.250s",
            ),
            (Happening::Started, "Normal Started Started container c"),
            (exited(Reason::StartError), "Warning Failed Error: no such file"),
            (exited(Reason::Error), ""),
            (
                Happening::BackOff { until: 0 },
                "Warning BackOff Back-off restarting failed container c in pod p_default(u)",
            ),
            (
                Happening::Lost,
                "Normal SandboxChanged Pod sandbox changed, it will be killed and re-created.",
            ),
            (
                failed(Trouble::Sandbox),
                "Warning FailedCreatePodSandBox Failed to create pod sandbox: it broke",
            ),
            (failed(Trouble::Container), "Warning Failed Error: it broke"),
            (
                failed(Trouble::Image { image: image() }),
                "Warning Failed Failed to pull image \"i:1\": it broke\nWarning Failed Error: ErrImagePull\n\
                 Normal BackOff Back-off pulling image \"i:1\"\nWarning Failed Error: ImagePullBackOff",
            ),
            (
                failed(Trouble::NeverPulled { image: image() }),
                "Warning ErrImageNeverPull Container image \"i:1\" is not present with pull policy of Never\n\
                 Warning Failed Error: ErrImageNeverPull",
            ),
        ] {
            let words = of(&pod, Some("c"), &what).into_iter();
            let lines: Vec<_> = words
                .map(|(severity, reason, message)| format!("{} {reason} {message}", severity.as_str()))
                .collect();
            assert_eq!(lines.join("\n"), expected, "{what:?}");
        }
    }
}
