//! A model of a disk: what a program's calls have made of it, and what a power cut may leave of that.
//!
//! A file's bytes are on the disk when it was synced, a directory's names when the directory was. What was done since
//! may have got there or not, each change by itself and in any order, a file's bytes in part or as zeros. A rename
//! within a directory is one change; from one directory to another it is two, of which one may be lost: less than any
//! journaling file system promises.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use overmask_tests::Numbers;

type Inode = usize;

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Dir(BTreeMap<String, Inode>),
    File(Vec<u8>),
}

/// A change of a node that gets to the disk as one.
#[derive(Debug, Clone)]
enum Change {
    /// Names that go, and names that come.
    Names(Vec<String>, Vec<(String, Inode)>),
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Clone)]
struct Entry {
    now: Node,
    synced: Node,
    since: Vec<Change>,
}

/// A file as a process has it open.
#[derive(Debug, Clone)]
struct Open {
    inode: Inode,
    offset: usize,
    append: bool,
}

/// A disk, and what a process has open of it.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    root: String,
    inodes: Vec<Entry>,
    open: BTreeMap<i64, Open>,
}

/// How much of what was not synced a power cut leaves.
pub(super) enum Left<'a> {
    All,
    Nothing,
    Some(&'a mut Numbers),
}

impl Node {
    fn apply(&mut self, change: &Change) {
        match (self, change) {
            (Node::Dir(names), Change::Names(gone, come)) => {
                names.retain(|name, _| !gone.contains(name));
                names.extend(come.iter().cloned());
            }
            (Node::File(bytes), Change::Write(at, written)) => {
                bytes.resize(bytes.len().max(at + written.len()), 0);
                bytes[*at..at + written.len()].copy_from_slice(written);
            }
            (Node::File(bytes), Change::Length(len)) => bytes.resize(*len, 0),
            (node, change) => panic!("{change:?} of {node:?}"),
        }
    }
}

impl Disk {
    /// A disk with what is in a directory, all of it synced.
    pub(super) fn of(dir: &Path) -> Disk {
        let mut disk = Disk { root: dir.to_str().unwrap().to_owned(), inodes: Vec::new(), open: BTreeMap::new() };
        disk.read(dir);
        disk
    }

    fn read(&mut self, path: &Path) -> Inode {
        let inode = self.add(Node::File(Vec::new()));
        let node = if path.is_dir() {
            let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            Node::Dir(names.map(|name| (name.clone(), self.read(&path.join(name)))).collect())
        } else {
            Node::File(fs::read(path).unwrap())
        };
        self.inodes[inode] = Entry { now: node.clone(), synced: node, since: Vec::new() };
        inode
    }

    fn add(&mut self, empty: Node) -> Inode {
        self.inodes.push(Entry { now: empty.clone(), synced: empty, since: Vec::new() });
        self.inodes.len() - 1
    }

    fn change(&mut self, inode: Inode, change: Change) {
        self.inodes[inode].now.apply(&change);
        self.inodes[inode].since.push(change);
    }

    fn names(&self, dir: Inode) -> &BTreeMap<String, Inode> {
        match &self.inodes[dir].now {
            Node::Dir(names) => names,
            Node::File(_) => panic!("{dir} is no directory"),
        }
    }

    fn len(&self, file: Inode) -> usize {
        match &self.inodes[file].now {
            Node::File(bytes) => bytes.len(),
            Node::Dir(_) => panic!("{file} is no file"),
        }
    }

    /// The directory in which a path is, and its name there; none where that is not on this disk. The root has no name.
    fn place(&self, dirfd: &str, path: &str) -> Option<(Inode, String)> {
        let (mut dir, rest) = match path.strip_prefix(&self.root) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => (0, rest),
            _ if path.starts_with('/') => return None,
            _ => (self.open.get(&dirfd.parse().ok()?)?.inode, path),
        };
        let mut parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let name = parts.pop().unwrap_or_default();
        for part in parts {
            dir = *self.names(dir).get(part)?;
        }
        Some((dir, name.to_owned()))
    }

    fn inode(&self, place: &(Inode, String)) -> Option<Inode> {
        if place.1.is_empty() { Some(place.0) } else { self.names(place.0).get(&place.1).copied() }
    }

    /// Does what a process did, a line of its log; returns whether that changed or synced anything.
    pub(super) fn replay(&mut self, line: &str) -> bool {
        let Some((call, rest)) = line.split_once('(') else { return false };
        // A call at which the process was killed was not made.
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { return false };
        let arguments = arguments.trim_end().strip_suffix(')').unwrap();
        let Ok(result) = result.split([' ', '<']).next().unwrap().parse::<i64>() else { return false };
        if result < 0 {
            return false;
        }
        let arguments: Vec<String> = arguments.split(", ").map(unquoted).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let fd = |text: &str| text.parse::<i64>().unwrap_or(-1);
        match (call, &arguments[..]) {
            ("openat", [dirfd, path, flags, ..]) => return self.open(dirfd, path, flags, result),
            ("open", [path, flags, ..]) => return self.open("AT_FDCWD", path, flags, result),
            ("close", [closed]) => drop(self.open.remove(&fd(closed))),
            ("lseek", [sought, ..]) => {
                if let Some(open) = self.open.get_mut(&fd(sought)) {
                    open.offset = result as usize;
                }
            }
            ("write", [to, _, _]) => return self.write(fd(to), None, arguments[1], result),
            ("pwrite64", [to, _, _, at]) => return self.write(fd(to), at.parse().ok(), arguments[1], result),
            ("ftruncate", [of, len]) => {
                let Some(open) = self.open.get(&fd(of)) else { return false };
                self.change(open.inode, Change::Length(len.parse().unwrap()));
                return true;
            }
            ("fsync" | "fdatasync", [synced]) => {
                let Some(open) = self.open.get(&fd(synced)) else { return false };
                let entry = &mut self.inodes[open.inode];
                (entry.synced, entry.since) = (entry.now.clone(), Vec::new());
                return true;
            }
            ("mkdir", [path, _]) => return self.make_dir("AT_FDCWD", path),
            ("mkdirat", [dirfd, path, _]) => return self.make_dir(dirfd, path),
            ("unlink" | "rmdir", [path]) => return self.remove("AT_FDCWD", path),
            ("unlinkat", [dirfd, path, _]) => return self.remove(dirfd, path),
            ("rename", [from, to]) => return self.rename(["AT_FDCWD", from], ["AT_FDCWD", to], false),
            ("renameat", [a, from, b, to]) => return self.rename([a, from], [b, to], false),
            ("renameat2", [a, from, b, to, flags]) => {
                return self.rename([a, from], [b, to], flags.contains("RENAME_EXCHANGE"));
            }
            ("fcntl", [of, command, ..]) if command.starts_with("F_DUPFD") => {
                assert!(!self.open.contains_key(&fd(of)), "{line}: not in the model");
            }
            ("fcntl" | "flock", _) => {}
            (_, [first, ..]) => {
                let is_ours = arguments.iter().any(|argument| argument.starts_with(&self.root));
                assert!(!is_ours && !self.open.contains_key(&fd(first)), "{call}: not in the model");
            }
            _ => panic!("{line}"),
        }
        false
    }

    fn open(&mut self, dirfd: &str, path: &str, flags: &str, fd: i64) -> bool {
        let Some(place) = self.place(dirfd, path) else { return false };
        let found = self.inode(&place);
        let inode = found.unwrap_or_else(|| {
            let inode = self.add(Node::File(Vec::new()));
            self.change(place.0, Change::Names(Vec::new(), vec![(place.1, inode)]));
            inode
        });
        let flags: Vec<&str> = flags.split('|').collect();
        assert!(found.is_some() || flags.contains(&"O_CREAT"), "{path} is not there");
        if flags.contains(&"O_TRUNC") {
            self.change(inode, Change::Length(0));
        }
        self.open.insert(fd, Open { inode, offset: 0, append: flags.contains(&"O_APPEND") });
        found.is_none() || flags.contains(&"O_TRUNC")
    }

    fn write(&mut self, fd: i64, at: Option<usize>, bytes: &str, written: i64) -> bool {
        let Some(Open { inode, offset, append }) = self.open.get(&fd).cloned() else { return false };
        let bytes: Vec<u8> = bytes.chars().map(|c| u8::try_from(c).unwrap()).take(written as usize).collect();
        assert_eq!(bytes.len(), written as usize);
        let start = at.unwrap_or(if append { self.len(inode) } else { offset });
        if at.is_none() {
            self.open.get_mut(&fd).unwrap().offset = start + bytes.len();
        }
        self.change(inode, Change::Write(start, bytes));
        true
    }

    fn make_dir(&mut self, dirfd: &str, path: &str) -> bool {
        let Some((dir, name)) = self.place(dirfd, path) else { return false };
        let inode = self.add(Node::Dir(BTreeMap::new()));
        self.change(dir, Change::Names(Vec::new(), vec![(name, inode)]));
        true
    }

    fn remove(&mut self, dirfd: &str, path: &str) -> bool {
        let Some((dir, name)) = self.place(dirfd, path) else { return false };
        self.change(dir, Change::Names(vec![name], Vec::new()));
        true
    }

    fn rename(&mut self, [a, from]: [&str; 2], [b, to]: [&str; 2], exchange: bool) -> bool {
        let (Some(from), Some(to)) = (self.place(a, from), self.place(b, to)) else { return false };
        let (moved, other) = (self.inode(&from).unwrap(), self.inode(&to));
        let back: Vec<_> = other.filter(|_| exchange).map(|inode| (from.1.clone(), inode)).into_iter().collect();
        if from.0 == to.0 {
            let come = [back, vec![(to.1, moved)]].concat();
            self.change(to.0, Change::Names(vec![from.1], come));
        } else {
            self.change(to.0, Change::Names(Vec::new(), vec![(to.1, moved)]));
            self.change(from.0, Change::Names(vec![from.1], back));
        }
        true
    }

    /// Ends the process: what it had open is closed.
    pub(super) fn end(&mut self) {
        self.open.clear();
    }

    /// How many changes a power cut may lose now.
    pub(super) fn at_stake(&self) -> usize {
        self.inodes.iter().map(|entry| entry.since.len()).sum()
    }

    /// Builds what a power cut leaves.
    pub(super) fn cut(&self, left: &mut Left<'_>, to: &Path) {
        let _ = fs::remove_dir_all(to);
        let nodes: Vec<Node> = self.inodes.iter().map(|entry| entry.left(left)).collect();
        build(&nodes, 0, to);
    }
}

impl Entry {
    fn left(&self, left: &mut Left<'_>) -> Node {
        let numbers = match left {
            Left::All => return self.now.clone(),
            Left::Nothing => return self.synced.clone(),
            Left::Some(numbers) => numbers,
        };
        let mut node = self.synced.clone();
        // Often all or nothing, as these are what most disks do.
        let share = [0.0, 0.2, 0.5, 0.8, 1.0][(numbers.uniform() * 5.0) as usize];
        for change in &self.since {
            if numbers.uniform() >= share {
                continue;
            }
            match change {
                Change::Write(at, bytes) if numbers.uniform() < 0.5 => {
                    // Only a beginning; and the rest may be zeros.
                    let cut = (numbers.uniform() * bytes.len() as f32) as usize;
                    node.apply(&Change::Write(*at, bytes[..cut].to_vec()));
                    if numbers.uniform() < 0.5 {
                        node.apply(&Change::Write(at + cut, vec![0; bytes.len() - cut]));
                    }
                }
                change => node.apply(change),
            }
        }
        node
    }
}

fn build(nodes: &[Node], inode: Inode, to: &Path) {
    match &nodes[inode] {
        Node::File(bytes) => fs::write(to, bytes).unwrap(),
        Node::Dir(names) => {
            use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
            fs::DirBuilder::new().mode(0o755).create(to).unwrap();
            names.iter().for_each(|(name, inode)| build(nodes, *inode, &to.join(name)));
            // Whose it is: as the program makes it.
            if to.ends_with("derived") {
                fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
            }
        }
    }
}

/// A text of the log: `"\x61\x62"`, each byte as the character with its number; anything else as it is.
fn unquoted(argument: &str) -> String {
    let Some(hex) = argument.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
        assert!(!argument.ends_with("..."), "the log is cut: {}", &argument[argument.len() - 20..]);
        return argument.to_owned();
    };
    hex.split("\\x").skip(1).map(|byte| char::from(u8::from_str_radix(byte, 16).unwrap())).collect()
}
