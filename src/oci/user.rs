//! Who a container's process is: the request's word, the image's, and the image's account files.

use std::collections::BTreeSet;

use super::security_field;
use crate::model::Refusal;
use crate::model::container::User;
use crate::model::security::{GroupsPolicy, RunAs, Security};

/// The account files of an image, None where it has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Accounts<'a> {
    /// /etc/passwd
    pub passwd: Option<&'a [u8]>,
    /// /etc/group
    pub group: Option<&'a [u8]>,
}

/// The largest id that runc takes.
const MAX_ID: u32 = i32::MAX as u32;

/// Resolves the user of a container with the security context `security`, made from an image whose config names
/// `image_user`.
///
/// A number need not be known to the image: it then has group 0 and no further ones. A name must be. The primary
/// group is among the supplemental ones, or a process could shed the group by which a file denies it (CVE-2022-36109).
pub fn resolve(security: &Security, image_user: &str, accounts: Accounts<'_>) -> Result<User, Refusal> {
    let asked = asked(security, image_user)?;
    let account = account(&asked, accounts)?;
    let gid = match asked.group {
        Some(Name::Number(gid)) => gid,
        Some(Name::Text(ref name)) => group(name, accounts)
            .ok_or_else(|| Refusal::invalid(&asked.field, format!("the image's /etc/group knows no group {name:?}")))?,
        None => account.gid,
    };
    let from_image = match security.groups_policy {
        GroupsPolicy::Merge => account.name.map_or(Vec::new(), |name| groups_of(name, accounts)),
        GroupsPolicy::Strict => Vec::new(),
    };
    let all: BTreeSet<_> = [gid]
        .into_iter()
        .chain(security.supplemental_groups.iter().copied())
        .chain(from_image)
        .collect();
    let too_large = all.iter().copied().chain([account.uid]).find(|id| *id > MAX_ID);
    match too_large {
        Some(id) => Err(Refusal::invalid(asked.field, format!("the id {id} is above {MAX_ID}"))),
        None => Ok(User {
            uid: account.uid,
            gid,
            supplemental_groups: all.into_iter().collect(),
        }),
    }
}

/// A user and perhaps a group, and the field that asks for them.
struct Asked {
    user: Name,
    group: Option<Name>,
    field: String,
}

enum Name {
    Number(u32),
    Text(String),
}

impl Name {
    fn parse(text: &str) -> Self {
        match text.parse() {
            Ok(number) => Self::Number(number),
            Err(_) => Self::Text(text.to_owned()),
        }
    }
}

fn asked(security: &Security, image_user: &str) -> Result<Asked, Refusal> {
    let group = security.run_as_group.map(Name::Number);
    match &security.run_as {
        RunAs::Uid(uid) => Ok(Asked {
            user: Name::Number(*uid),
            group,
            field: security_field("run_as_user"),
        }),
        RunAs::Name(name) => Ok(Asked {
            user: Name::Text(name.clone()),
            group,
            field: security_field("run_as_username"),
        }),
        RunAs::Image if group.is_some() => Err(Refusal::invalid(
            security_field("run_as_group"),
            "needs run_as_user or run_as_username",
        )),
        RunAs::Image => {
            let (user, group) = image_user.split_once(':').unwrap_or((image_user, ""));
            let named = |text: &str| (!text.is_empty()).then(|| Name::parse(text));
            Ok(Asked {
                user: named(user).unwrap_or(Name::Number(0)),
                group: named(group),
                field: "image.user".to_owned(),
            })
        }
    }
}

struct Account<'a> {
    uid: u32,
    gid: u32,
    /// None: the image does not know the number.
    name: Option<&'a str>,
}

fn account<'a>(asked: &'a Asked, accounts: Accounts<'a>) -> Result<Account<'a>, Refusal> {
    let mut known = lines(accounts.passwd).filter_map(passwd_entry);
    match &asked.user {
        Name::Number(uid) => Ok(known.find(|entry| entry.uid == *uid).unwrap_or(Account {
            uid: *uid,
            gid: 0,
            name: None,
        })),
        Name::Text(name) => known.find(|entry| entry.name == Some(name)).ok_or_else(|| {
            let reason = match accounts.passwd {
                Some(_) => format!("the image's /etc/passwd knows no user {name:?}"),
                None => format!("the image has no /etc/passwd to look up {name:?} in"),
            };
            Refusal::invalid(&asked.field, reason)
        }),
    }
}

/// `name:password:uid:gid:…` (passwd(5)); None for anything else.
fn passwd_entry(line: &str) -> Option<Account<'_>> {
    let mut parts = line.split(':');
    let name = parts.next().filter(|name| !name.is_empty())?;
    Some(Account {
        uid: parts.nth(1)?.parse().ok()?,
        gid: parts.next()?.parse().ok()?,
        name: Some(name),
    })
}

/// A line of /etc/group.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// `name:password:gid:member,member` (group(5)); None for anything else.
fn group_entry(line: &str) -> Option<Group<'_>> {
    let mut parts = line.split(':');
    let name = parts.next().filter(|name| !name.is_empty())?;
    Some(Group {
        name,
        gid: parts.nth(1)?.parse().ok()?,
        members: parts.next().unwrap_or_default(),
    })
}

fn group(name: &str, accounts: Accounts<'_>) -> Option<u32> {
    let mut groups = lines(accounts.group).filter_map(group_entry);
    groups.find(|group| group.name == name).map(|group| group.gid)
}

/// The groups that list `user` among their members.
fn groups_of(user: &str, accounts: Accounts<'_>) -> Vec<u32> {
    lines(accounts.group)
        .filter_map(group_entry)
        .filter(|group| group.members.split(',').any(|member| member.trim() == user))
        .map(|group| group.gid)
        .collect()
}

/// The lines of an account file; one that is not UTF-8 names nobody that a request could.
fn lines(file: Option<&[u8]>) -> impl Iterator<Item = &str> {
    file.unwrap_or_default()
        .split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\n# comment\nweb:x:33:34::/:\nbad:x:many:1::/:\n\xff\xfe:x:1:1\n\
        web:x:99:99::/:\n1000:x:7:7::/:\nbig:x:4294967295:0::/:\n";
    const GROUP: &[u8] =
        b"root:x:0:\nwww:x:34:\nlogs:x:4:web,root\nadm:x:5:other, web\nempty:x:6\nodd\nstaff:x:50:root\n";

    fn accounts() -> Accounts<'static> {
        Accounts {
            passwd: Some(PASSWD),
            group: Some(GROUP),
        }
    }

    fn user(uid: u32, gid: u32, groups: &[u32]) -> User {
        User {
            uid,
            gid,
            supplemental_groups: groups.to_vec(),
        }
    }

    #[test]
    fn the_images_user_is_taken_as_docker_takes_it() {
        for (text, expected) in [
            ("", user(0, 0, &[0, 4, 50])),
            ("root", user(0, 0, &[0, 4, 50])),
            ("web", user(33, 34, &[4, 5, 34])),
            ("33", user(33, 34, &[4, 5, 34])),
            ("1234", user(1234, 0, &[0])),
            ("1000", user(1000, 0, &[0])),
            ("web:logs", user(33, 4, &[4, 5])),
            ("web:77", user(33, 77, &[4, 5, 77])),
            ("1234:staff", user(1234, 50, &[50])),
            ("1234:77", user(1234, 77, &[77])),
            ("web:", user(33, 34, &[4, 5, 34])),
            (":staff", user(0, 50, &[4, 50])),
        ] {
            assert_eq!(
                resolve(&Security::default(), text, accounts()),
                Ok(expected),
                "{text:?}"
            );
        }
    }

    #[test]
    fn the_request_wins_over_the_image() {
        let run_as = |run_as, run_as_group| Security {
            run_as,
            run_as_group,
            supplemental_groups: vec![900, 34, 900],
            ..Security::default()
        };
        for (security, expected) in [
            (run_as(RunAs::Uid(33), None), user(33, 34, &[4, 5, 34, 900])),
            (run_as(RunAs::Uid(33), Some(8)), user(33, 8, &[4, 5, 8, 34, 900])),
            (run_as(RunAs::Uid(4321), None), user(4321, 0, &[0, 34, 900])),
            (run_as(RunAs::Name("web".into()), None), user(33, 34, &[4, 5, 34, 900])),
            (run_as(RunAs::Name("1000".into()), Some(8)), user(7, 8, &[8, 34, 900])),
            (run_as(RunAs::Image, None), user(0, 0, &[0, 4, 34, 50, 900])),
        ] {
            assert_eq!(resolve(&security, "root", accounts()), Ok(expected), "{security:?}");
        }
    }

    #[test]
    fn the_strict_policy_leaves_out_the_images_groups() {
        let security = Security {
            run_as: RunAs::Uid(33),
            groups_policy: GroupsPolicy::Strict,
            supplemental_groups: vec![900],
            ..Security::default()
        };
        assert_eq!(resolve(&security, "", accounts()), Ok(user(33, 34, &[34, 900])));
    }

    #[test]
    fn an_image_without_account_files_runs_numbers_only() {
        let none = Accounts::default();
        assert_eq!(resolve(&Security::default(), "", none), Ok(user(0, 0, &[0])));
        assert_eq!(resolve(&Security::default(), "5:6", none), Ok(user(5, 6, &[6])));
        assert!(resolve(&Security::default(), "web", none).is_err());
        assert!(resolve(&Security::default(), "5:www", none).is_err());
    }

    #[test]
    fn a_refusal_names_the_field() {
        let named = Security {
            run_as: RunAs::Name("ghost".into()),
            ..Security::default()
        };
        let group_alone = Security {
            run_as_group: Some(1),
            ..Security::default()
        };
        let huge = Security {
            run_as: RunAs::Uid(u32::MAX),
            ..Security::default()
        };
        for (security, image, field) in [
            (named, "", "linux.security_context.run_as_username"),
            (group_alone, "web", "linux.security_context.run_as_group"),
            (huge, "", "linux.security_context.run_as_user"),
            (Security::default(), "ghost", "image.user"),
            (Security::default(), "web:ghost", "image.user"),
            (Security::default(), "big", "image.user"),
        ] {
            let refusal = resolve(&security, image, accounts()).unwrap_err().to_string();
            assert!(refusal.starts_with(&format!("{field}: ")), "{refusal}");
        }
    }

    proptest! {
        #[test]
        fn no_account_file_makes_it_panic(passwd: Vec<u8>, group: Vec<u8>, image in "[a-z0-9:]{0,6}") {
            let accounts = Accounts { passwd: Some(&passwd), group: Some(&group) };
            let _ = resolve(&Security::default(), &image, accounts);
        }

        #[test]
        fn groups_ascend_without_repeats_and_hold_the_primary_one(uid in 0..100u32, groups: Vec<u16>, strict: bool) {
            let security = Security {
                run_as: RunAs::Uid(uid),
                supplemental_groups: groups.into_iter().map(u32::from).collect(),
                groups_policy: if strict { GroupsPolicy::Strict } else { GroupsPolicy::Merge },
                ..Security::default()
            };
            let user = resolve(&security, "", accounts()).unwrap();
            prop_assert!(user.supplemental_groups.is_sorted_by(|a, b| a < b));
            prop_assert!(user.supplemental_groups.contains(&user.gid));
        }
    }
}
