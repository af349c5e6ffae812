//! The process of a container: what it runs, with which environment, as whom.

use oci_spec::runtime::{Process, User as OciUser, UserBuilder};

use super::{Host, Note, Plan, capabilities, lsm, resource_field};
use crate::model::Refusal;
use crate::model::container::{ContainerConfig, User};
use crate::model::image::ImageConfig;

/// Where programs are looked for when neither image nor request says so: the default of Docker and of containerd.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TERM: &str = "xterm";

/// The process of the container that `plan` describes.
pub(super) fn process(plan: &Plan<'_>, notes: &mut Vec<Note>) -> Result<Process, Refusal> {
    let container = plan.container;
    let mut process = Process::default();
    process
        .set_terminal(Some(container.tty))
        .set_user(user(plan.user))
        .set_args(Some(args(container, plan.image)?))
        .set_env(Some(env(container, plan.image, plan.hostname)?))
        .set_cwd(working_dir(container, plan.image)?.into())
        .set_capabilities(Some(capabilities::sets(&container.security, plan.host)?))
        .set_rlimits(None)
        .set_no_new_privileges(Some(container.security.no_new_privs))
        .set_apparmor_profile(lsm::apparmor(&container.security, plan.host)?)
        .set_oom_score_adj(Some(oom_score_adj(
            container.resources.oom_score_adj,
            plan.host,
            notes,
        )?));
    Ok(process)
}

/// A further process in a container: `process` is the container's own, out of its spec.
pub fn exec(process: &Process, command: Vec<String>, tty: bool) -> Process {
    let mut exec = process.clone();
    exec.set_args(Some(command)).set_terminal(Some(tty));
    if tty && let Some(env) = exec.env_mut() {
        let known = env.iter().any(|entry| entry.starts_with("TERM="));
        if !known {
            env.push(format!("TERM={TERM}"));
        }
    }
    exec
}

/// `user` as the runtime wants it.
pub(super) fn user(user: &User) -> OciUser {
    UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(user.supplemental_groups.clone())
        .build()
        .expect("every field has a default")
}

/// The command line. The request's command replaces the image's entrypoint, and then the image's arguments do not
/// count either; the request's arguments replace the image's.
fn args(container: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, Refusal> {
    let program = match (&container.command[..], &image.entrypoint[..]) {
        // An entrypoint of one empty word is how an image file takes back that of its base image.
        ([], [only]) if only.is_empty() => &[],
        ([], entrypoint) => entrypoint,
        (command, _) => command,
    };
    let args = match (&container.args[..], &container.command[..]) {
        ([], []) => &image.cmd[..],
        (args, _) => args,
    };
    let all = [program, args].concat();
    match all.first() {
        None => Err(Refusal::invalid(
            "command",
            "neither the request nor the image names a program",
        )),
        Some(first) if first.is_empty() => Err(Refusal::invalid("command", "the program's name is empty")),
        Some(_) => without_nul("command", all),
    }
}

/// The environment: what berth sets, then the image's, then the request's; of two values for a name the later counts.
fn env(container: &ContainerConfig, image: &ImageConfig, hostname: &str) -> Result<Vec<String>, Refusal> {
    let mut env = Environment::default();
    env.set("PATH", PATH);
    if container.tty {
        env.set("TERM", TERM);
    }
    env.set("HOSTNAME", hostname);
    // An entry of an image without "=" or without a name sets nothing.
    for (name, value) in image.env.iter().filter_map(|entry| entry.split_once('=')) {
        if !name.is_empty() {
            env.set(name, value);
        }
    }
    for (index, (name, value)) in container.envs.iter().enumerate() {
        if name.is_empty() || name.contains('=') {
            return Err(Refusal::invalid(
                format!("envs[{index}].key"),
                format!("{name:?} is no name of a variable"),
            ));
        }
        env.set(name, value);
    }
    without_nul("envs", env.into_entries())
}

/// Variables in the order in which they were first set.
#[derive(Default)]
struct Environment(Vec<(String, String)>);

impl Environment {
    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    fn into_entries(self) -> Vec<String> {
        self.0
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}

fn working_dir(container: &ContainerConfig, image: &ImageConfig) -> Result<String, Refusal> {
    let candidates = [&container.working_dir, &image.working_dir];
    let chosen = candidates
        .into_iter()
        .find(|dir| !dir.is_empty())
        .map_or("/", |dir| dir);
    if !chosen.starts_with('/') {
        return Err(Refusal::invalid("working_dir", format!("{chosen:?} is not absolute")));
    }
    Ok(without_nul("working_dir", vec![chosen.to_owned()])?.remove(0))
}

/// The kernel takes texts that end at a NUL byte: one inside would silently cut what was asked for.
fn without_nul(field: &str, texts: Vec<String>) -> Result<Vec<String>, Refusal> {
    match texts.iter().any(|text| text.contains('\0')) {
        true => Err(Refusal::invalid(field, "holds a NUL byte")),
        false => Ok(texts),
    }
}

/// The score asked for, or the lowest that this host lets berth give, with a note.
pub(super) fn oom_score_adj(asked: i64, host: &Host, notes: &mut Vec<Note>) -> Result<i32, Refusal> {
    if !(-1000..=1000).contains(&asked) {
        return Err(Refusal::invalid(
            resource_field("oom_score_adj"),
            format!("{asked} is not within -1000 to 1000"),
        ));
    }
    let given = asked.max(host.oom_score_adj_floor);
    if given != asked {
        notes.push(Note::OomScoreAdjRaised { asked, given });
    }
    Ok(i32::try_from(given).unwrap_or(1000))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }

    fn container(command: &str, args: &str) -> ContainerConfig {
        ContainerConfig {
            command: words(command),
            args: words(args),
            ..ContainerConfig::default()
        }
    }

    fn image(entrypoint: &str, cmd: &str) -> ImageConfig {
        ImageConfig {
            entrypoint: words(entrypoint),
            cmd: words(cmd),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn a_command_line_is_put_together_as_docker_does() {
        let cases = [
            ("", "", "entry", "cmd", "entry cmd"),
            ("", "", "", "cmd", "cmd"),
            ("", "", "entry", "", "entry"),
            ("c", "", "entry", "cmd", "c"),
            ("", "a", "entry", "cmd", "entry a"),
            ("c", "a", "entry", "cmd", "c a"),
            ("c", "a", "", "", "c a"),
            ("", "a", "", "cmd", "a"),
        ];
        for (command, arguments, entrypoint, cmd, expected) in cases {
            let args = args(&container(command, arguments), &image(entrypoint, cmd)).unwrap();
            assert_eq!(args, words(expected), "{command} {arguments} {entrypoint} {cmd}");
        }
    }

    #[test]
    fn an_entrypoint_of_one_empty_word_is_none() {
        let mut image = image("", "cmd");
        image.entrypoint = vec![String::new()];
        assert_eq!(args(&container("", ""), &image).unwrap(), ["cmd"]);
    }

    #[test]
    fn a_container_without_a_program_is_refused() {
        let refusal = args(&container("", ""), &image("", "")).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "command: neither the request nor the image names a program"
        );
    }

    #[test]
    fn an_argument_with_a_nul_byte_is_refused() {
        let mut container = container("sh", "");
        container.args = vec!["a\0b".into()];
        assert_eq!(
            args(&container, &ImageConfig::default()).unwrap_err().to_string(),
            "command: holds a NUL byte"
        );
    }

    #[test]
    fn the_request_wins_over_the_image_and_the_image_over_berth() {
        let container = ContainerConfig {
            envs: vec![("A".into(), "request".into()), ("EMPTY".into(), String::new())],
            tty: true,
            ..ContainerConfig::default()
        };
        let image = ImageConfig {
            env: words("PATH=/bin A=image B=x=y NOTHING =odd"),
            ..ImageConfig::default()
        };
        let env = env(&container, &image, "pod").unwrap();
        assert_eq!(env, words("PATH=/bin TERM=xterm HOSTNAME=pod A=request B=x=y EMPTY="));
    }

    #[test]
    fn a_variable_without_a_proper_name_is_refused() {
        for name in ["", "A=B"] {
            let container = ContainerConfig {
                envs: vec![(name.into(), "x".into())],
                ..ContainerConfig::default()
            };
            let refusal = env(&container, &ImageConfig::default(), "").unwrap_err();
            assert!(refusal.to_string().starts_with("envs[0].key: "), "{refusal}");
        }
    }

    #[test]
    fn the_request_names_the_working_directory_before_the_image() {
        let cases = [("", "", "/"), ("", "/img", "/img"), ("/req", "/img", "/req")];
        for (request, image, expected) in cases {
            let container = ContainerConfig {
                working_dir: request.into(),
                ..ContainerConfig::default()
            };
            let image = ImageConfig {
                working_dir: image.into(),
                ..ImageConfig::default()
            };
            assert_eq!(working_dir(&container, &image).unwrap(), expected);
        }
        let relative = ContainerConfig {
            working_dir: "work".into(),
            ..ContainerConfig::default()
        };
        assert!(working_dir(&relative, &ImageConfig::default()).is_err());
    }

    #[test]
    fn a_score_below_the_hosts_floor_is_raised_and_noted() {
        let host = Host {
            oom_score_adj_floor: 0,
            ..Host::default()
        };
        let mut notes = Vec::new();
        assert_eq!(oom_score_adj(-998, &host, &mut notes), Ok(0));
        assert_eq!(notes, [Note::OomScoreAdjRaised { asked: -998, given: 0 }]);
        assert_eq!(oom_score_adj(500, &host, &mut notes), Ok(500));
        assert_eq!(notes.len(), 1);
        assert!(oom_score_adj(1001, &host, &mut notes).is_err());
    }

    #[test]
    fn an_exec_differs_in_its_command_and_terminal_alone() {
        let mut process = Process::default();
        process.set_env(Some(vec!["A=1".into()]));
        let exec = exec(&process, words("ls -l"), true);
        assert_eq!(exec.args(), &Some(words("ls -l")));
        assert_eq!(exec.env(), &Some(words("A=1 TERM=xterm")));
        assert_eq!(exec.capabilities(), process.capabilities());
    }

    proptest! {
        #[test]
        fn every_variable_is_there_once_with_its_last_value(
            image in prop::collection::vec(("[A-C]{1,2}", "[a-z=]{0,3}"), 0..8),
            request in prop::collection::vec(("[A-C]{1,2}", "[a-z=]{0,3}"), 0..8),
        ) {
            let container = ContainerConfig { envs: request.clone(), ..ContainerConfig::default() };
            let config = ImageConfig {
                env: image.iter().map(|(name, value)| format!("{name}={value}")).collect(),
                ..ImageConfig::default()
            };
            let env = env(&container, &config, "pod").unwrap();
            for (name, _) in image.iter().chain(&request) {
                let last = image.iter().chain(&request).rfind(|(other, _)| other == name).unwrap();
                let prefix = format!("{name}=");
                let found: Vec<_> = env.iter().filter(|entry| entry.starts_with(&prefix)).collect();
                prop_assert_eq!(found, [&format!("{}={}", last.0, last.1)]);
            }
        }

        #[test]
        fn a_command_in_the_request_hides_the_whole_image(
            command in prop::collection::vec("[a-z]{1,3}", 1..3),
            args_given in prop::collection::vec("[a-z]{1,3}", 0..3),
            entrypoint in prop::collection::vec("[A-Z]{1,3}", 0..3),
            cmd in prop::collection::vec("[A-Z]{1,3}", 0..3),
        ) {
            let container = ContainerConfig {
                command: command.clone(), args: args_given.clone(), ..ContainerConfig::default()
            };
            let image = ImageConfig { entrypoint, cmd, ..ImageConfig::default() };
            prop_assert_eq!(args(&container, &image).unwrap(), [command, args_given].concat());
        }
    }
}
