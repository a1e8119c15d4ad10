//! Who a container's process is: users and groups by number or by the names of the image.
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use machine::cri;

/// The most of /etc/passwd or /etc/group that is read.
const MAX_FILE: u64 = 10 << 20;

/// A process's identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, sorted.
    pub groups: Vec<u32>,
    /// From /etc/passwd.
    pub home: Option<String>,
}

/// Why a user cannot be told.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    #[error("the user or group id {0} is out of range")]
    Range(String),
    #[error("runAsGroup is set without runAsUser")]
    GroupWithoutUser,
}

/// /etc/passwd and /etc/group of the image; missing ones are empty.
pub fn databases(rootfs: &Path) -> (String, String) {
    let read = |path: &str| {
        let mut bytes = Vec::new();
        if let Ok(file) = sys::beneath::open_in_root(rootfs, Path::new(path)) {
            // A device or a folder in its place reads as nothing.
            if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                let _ = file.take(MAX_FILE).read_to_end(&mut bytes);
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    (read("etc/passwd"), read("etc/group"))
}

/// Decides from the request, the image's `USER` and the image's databases.
///
/// # Errors
/// When a name is unknown or a number out of range.
pub fn decide(
    security: &cri::LinuxContainerSecurityContext,
    image_user: &str,
    passwd: &str,
    group: &str,
) -> Result<User, Error> {
    let number = |value: i64| {
        u32::try_from(value).ok().filter(|id| *id < u32::MAX).ok_or_else(|| Error::Range(value.to_string()))
    };
    let (user_text, group_text) = match (&security.run_as_user, security.run_as_username.as_str()) {
        (Some(user), _) => (number(user.value)?.to_string(), String::new()),
        (None, "") => match image_user.split_once(':') {
            Some((user, group)) => (user.to_owned(), group.to_owned()),
            None => (image_user.to_owned(), String::new()),
        },
        (None, name) => (name.to_owned(), String::new()),
    };
    let explicit = security.run_as_user.is_some() || !security.run_as_username.is_empty();
    if security.run_as_group.is_some() && !explicit && image_user.is_empty() {
        return Err(Error::GroupWithoutUser);
    }
    let entry = find_user(&user_text, passwd)?;
    let mut user = User { uid: entry.uid, gid: entry.gid, groups: Vec::new(), home: entry.home };
    if !group_text.is_empty() {
        user.gid = find_group(&group_text, group)?;
    }
    if let Some(group) = &security.run_as_group {
        user.gid = number(group.value)?;
    }
    let mut groups = BTreeSet::from([user.gid]);
    for group in &security.supplemental_groups {
        groups.insert(number(*group)?);
    }
    if security.supplemental_groups_policy == cri::SupplementalGroupsPolicy::Merge as i32
        && let Some(name) = &entry.name
    {
        groups.extend(memberships(name, group));
    }
    user.groups = groups.into_iter().collect();
    Ok(user)
}

#[derive(Default)]
struct Entry {
    name: Option<String>,
    uid: u32,
    gid: u32,
    home: Option<String>,
}

fn parse_id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id < u32::MAX)
}

fn find_user(text: &str, passwd: &str) -> Result<Entry, Error> {
    let text = if text.is_empty() { "0" } else { text };
    let wanted = parse_id(text);
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { continue };
        let (Some(uid), Some(gid)) = (parse_id(uid), parse_id(gid)) else { continue };
        // A number is always an id: an image could give the name `1000` to root, whatever the pod says (runAsUser, runAsNonRoot).
        if wanted.map_or(name == text, |wanted| wanted == uid) {
            // A line break or the like in HOME would reach the environment (CVE-2026-15809).
            let home = (!home.is_empty() && !home.contains(char::is_control)).then(|| home.to_owned());
            return Ok(Entry { name: Some(name.to_owned()), uid, gid, home });
        }
    }
    match wanted {
        Some(uid) => Ok(Entry { uid, ..Entry::default() }),
        None if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') => {
            Err(Error::Range(text.to_owned()))
        }
        None => Err(Error::NoUser(text.to_owned())),
    }
}

fn find_group(text: &str, group: &str) -> Result<u32, Error> {
    if let Some(gid) = parse_id(text) {
        return Ok(gid);
    }
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [name, _, gid, ..] = fields[..]
            && let (true, Some(gid)) = (name == text, parse_id(gid))
        {
            return Ok(gid);
        }
    }
    Err(Error::NoGroup(text.to_owned()))
}

fn memberships(user: &str, group: &str) -> Vec<u32> {
    group
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, gid, members, ..] = fields[..] else { return None };
            members.split(',').any(|member| member == user).then(|| parse_id(gid)).flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nwheel:x:10:root,app\n";

    fn context() -> cri::LinuxContainerSecurityContext {
        cri::LinuxContainerSecurityContext::default()
    }

    #[test]
    fn the_images_user_is_looked_up_with_its_groups() {
        let user = decide(&context(), "app", PASSWD, GROUP).unwrap();
        assert_eq!(
            (user.uid, user.gid, user.groups, user.home.as_deref()),
            (1000, 1001, vec![10, 1001], Some("/home/app"))
        );
        let user = decide(&context(), "1000:wheel", PASSWD, GROUP).unwrap();
        assert_eq!((user.uid, user.gid), (1000, 10));
        assert_eq!(decide(&context(), "", PASSWD, GROUP).unwrap().groups, [0, 10]);
    }

    #[test]
    fn the_pods_numbers_win_and_strict_takes_no_groups_of_the_image() {
        let mut security = context();
        security.run_as_user = Some(cri::Int64Value { value: 1000 });
        security.run_as_group = Some(cri::Int64Value { value: 5 });
        security.supplemental_groups = vec![7];
        security.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict as i32;
        let user = decide(&security, "root", PASSWD, GROUP).unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (1000, 5, vec![5, 7]));
    }

    #[test]
    fn ids_out_of_range_do_not_become_root() {
        assert_eq!(decide(&context(), "4294967296", PASSWD, GROUP), Err(Error::Range("4294967296".into())));
        assert_eq!(decide(&context(), "nobody", PASSWD, GROUP), Err(Error::NoUser("nobody".into())));
        assert_eq!(decide(&context(), "app:none", PASSWD, GROUP), Err(Error::NoGroup("none".into())));
        for text in ["-1", "4294967295", "18446744073709551616", "99999999999999999999"] {
            assert_eq!(decide(&context(), text, PASSWD, GROUP), Err(Error::Range(text.into())));
        }
        assert_eq!(decide(&context(), "2147483648", PASSWD, GROUP).unwrap().uid, 1 << 31);
    }

    /// An image whose databases call root by numbers.
    #[test]
    fn a_number_is_an_id_whatever_names_the_image_has() {
        let (passwd, group) = ("1000:x:0:0::/root:/bin/sh\n", "1000:x:0:\n");
        let user = decide(&context(), "1000:1000", passwd, group).unwrap();
        assert_eq!((user.uid, user.gid), (1000, 1000));
        let mut security = context();
        security.run_as_user = Some(cri::Int64Value { value: 1000 });
        assert_eq!(decide(&security, "", passwd, group).unwrap().uid, 1000);
    }

    #[test]
    fn no_home_reaches_past_its_variable() {
        let passwd = "app:x:1000:1000::/home\u{b}x\r:/bin/sh\n";
        assert_eq!(decide(&context(), "app", passwd, GROUP).unwrap().home, None);
    }
}
