//! The file that names the devices of a fleet, and how each is reached.

use std::collections::BTreeSet;
use std::path::Path;

use overmask_cli::CodedError;
use serde::Deserialize;

/// The largest file of devices, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// A device, with what was said for all of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) host: String,
    pub(super) store: Option<String>,
    pub(super) program: String,
    pub(super) ssh: Vec<String>,
    pub(super) group: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    defaults: Defaults,
    #[serde(default, rename = "device")]
    devices: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    store: Option<String>,
    program: Option<String>,
    ssh: Option<Vec<String>>,
    group: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    host: String,
    name: Option<String>,
    store: Option<String>,
    program: Option<String>,
    ssh: Option<Vec<String>>,
    group: Option<String>,
}

/// The devices of a file, in its order.
pub(super) fn read(path: &Path) -> Result<Vec<Device>, CodedError> {
    let wrong = |reason: String| CodedError::input(format!("{}: {reason}", path.display()));
    let bytes =
        overmask::fs::read_at_most(path, MAX_FILE).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let bytes = bytes.ok_or_else(|| wrong(format!("has more than {MAX_FILE} bytes")))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8".to_owned()))?;
    parse(&text).map_err(wrong)
}

fn parse(text: &str) -> Result<Vec<Device>, String> {
    let Document { defaults, devices } = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("line {}: {}", before.split('\n').count(), error.message())
    })?;
    if devices.is_empty() {
        return Err("names no device; each has a table [[device]] with `host`".to_owned());
    }
    let (mut names, mut stores) = (BTreeSet::new(), BTreeSet::new());
    let mut all = Vec::new();
    for (place, entry) in devices.into_iter().enumerate() {
        let Entry { host, name, store, program, ssh, group } = entry;
        let name = name.unwrap_or_else(|| host.clone());
        let wrong = |reason: &str| Err(format!("device {} (`{name}`): {reason}", place + 1));
        if host.is_empty() || host.starts_with('-') || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return wrong("`host` is no name of a machine; name one as in \"user@board\"");
        }
        let store = store.or_else(|| defaults.store.clone());
        let program = program.or_else(|| defaults.program.clone()).unwrap_or_else(|| "overmask".to_owned());
        let ssh = ssh.or_else(|| defaults.ssh.clone()).unwrap_or_else(|| vec!["ssh".to_owned()]);
        let group = group.or_else(|| defaults.group.clone());
        if ssh.first().is_none_or(String::is_empty) {
            return wrong("`ssh` names no program; write it as in [\"ssh\", \"-p\", \"2222\"]");
        }
        if program.is_empty() || store.as_ref().is_some_and(String::is_empty) {
            return wrong("`program` or `store` is empty; leave it out");
        }
        if name.is_empty() || !names.insert(name.clone()) {
            return wrong("`name` is empty, or another device has the same; give each its own");
        }
        // What connects may lead to another machine of the same name.
        if !stores.insert((host.clone(), store.clone(), ssh.clone())) {
            return wrong("another device has the same `host` and `store`; remove one of the two");
        }
        all.push(Device { name, host, store, program, ssh, group });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_what_is_said_for_all_unless_it_says_otherwise() {
        let devices = parse(
            r#"
            [defaults]
            store = "/data/overmask"
            group = "field"
            [[device]]
            host = "root@board1.example"
            [[device]]
            name = "lab"
            host = "board2.example"
            store = "/srv/store"
            program = "/opt/overmask"
            ssh = ["ssh", "-p", "2222"]
            group = "lab"
            "#,
        );
        let device = |name: &str, host: &str, store: &str, program: &str, ssh: &[&str], group: &str| Device {
            name: name.into(),
            host: host.into(),
            store: Some(store.into()),
            program: program.into(),
            ssh: ssh.iter().map(|&word| word.into()).collect(),
            group: Some(group.into()),
        };
        let first =
            device("root@board1.example", "root@board1.example", "/data/overmask", "overmask", &["ssh"], "field");
        let second = device("lab", "board2.example", "/srv/store", "/opt/overmask", &["ssh", "-p", "2222"], "lab");
        assert_eq!(devices.unwrap(), [first, second]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, said) in [
            ("", "no device"),
            ("[defaults]\nstor = 'x'", "line 2: unknown field `stor`"),
            ("[[device]]\nhost = 'a'\nport = 3", "line 3: unknown field `port`"),
            ("[[device]]\nname = 'a'", "missing field `host`"),
            ("[[device]\n", "line 1: "),
            ("[[device]]\nhost = '-oProxyCommand=x'", "device 1 (`-oProxyCommand=x`): `host`"),
            ("[[device]]\nhost = ''", "`host`"),
            ("[[device]]\nhost = 'a b'", "`host`"),
            ("[[device]]\nhost = 'a'\nssh = []", "`ssh`"),
            ("[[device]]\nhost = 'a'\nssh = 'ssh'", "line 3: invalid type"),
            ("[[device]]\nhost = 'a'\nstore = ''", "leave it out"),
            ("[[device]]\nhost = 'a'\n[[device]]\nhost = 'a'", "device 2 (`a`): `name`"),
            ("[[device]]\nhost = 'a'\n[[device]]\nhost = 'a'\nname = 'b'", "device 2 (`b`): another device has"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        // Two stores of one machine are two devices.
        let two = "[[device]]\nhost = 'a'\n[[device]]\nhost = 'a'\nname = 'b'\nstore = '/b'";
        assert_eq!(parse(two).unwrap().len(), 2);
    }
}
