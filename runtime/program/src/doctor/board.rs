//! Which machine it is and what system runs on it.

use serde_json::json;

use super::finding::{Finding, or_unknown};
use super::system::System;

/// NVIDIA's file with the release of L4T, the system of Jetson boards.
const L4T: &str = "etc/nv_tegra_release";

pub(super) fn findings(system: &System) -> Vec<Finding> {
    let model = model(system);
    let jetpack = jetpack(system, model.as_deref());
    let board = match &model {
        Some(model) => Finding::new("board", model, json!({ "model": model })),
        None => Finding::unknown("board", "neither a device tree nor DMI names it", json!({ "model": null })),
    };
    [Some(board), jetpack, Some(operating_system(system))].into_iter().flatten().collect()
}

/// The name of the board, or of the computer with its maker before it.
fn model(system: &System) -> Option<String> {
    const DMI: &str = "sys/class/dmi/id";
    let in_tree = || system.text("proc/device-tree/model");
    let in_dmi = || {
        let name = system.text(&format!("{DMI}/product_name"))?;
        Some(system.text(&format!("{DMI}/sys_vendor")).map_or(name.clone(), |maker| format!("{maker} {name}")))
    };
    in_tree().or_else(in_dmi)
}

/// The version of JetPack, on a board that has it.
fn jetpack(system: &System, model: Option<&str>) -> Option<Finding> {
    let package = system.package("nvidia-l4t-core");
    let l4t = system.text(L4T).as_deref().and_then(l4t_release);
    // `36.4.3-20250107174145`
    let l4t = l4t.or_else(|| package.and_then(|version| version.split('-').next().map(str::to_owned)));
    if l4t.is_none() && !model.is_some_and(|model| model.contains("Jetson")) {
        return None;
    }
    // `6.2+b77`
    let exact = system.package("nvidia-jetpack").and_then(|version| version.split('+').next().map(str::to_owned));
    let jetpack = exact.or_else(|| l4t.as_deref().and_then(jetpack_of).map(str::to_owned));
    let facts = json!({ "jetpack": jetpack, "l4t": l4t });
    Some(match l4t {
        Some(l4t) => Finding::new("jetpack", format!("JetPack {}, L4T {l4t}", or_unknown(jetpack)), facts),
        None => Finding::unknown("jetpack", &format!("there is no /{L4T}"), facts),
    })
}

/// The release in `# R36 (release), REVISION: 4.3, GCID: ...`: `36.4.3`.
fn l4t_release(text: &str) -> Option<String> {
    let (major, rest) = text.strip_prefix("# R")?.split_once(' ')?;
    let revision = rest.split_once("REVISION: ")?.1.split(',').next()?;
    Some(format!("{major}.{revision}"))
}

/// The JetPack that has a release of L4T.
fn jetpack_of(l4t: &str) -> Option<&'static str> {
    match l4t.split('.').next()? {
        "32" => Some("4"),
        "34" | "35" => Some("5"),
        "36" => Some("6"),
        "38" | "39" => Some("7"),
        _ => None,
    }
}

fn operating_system(system: &System) -> Finding {
    let name = system.value("etc/os-release", "PRETTY_NAME", '=');
    let kernel = system.text("proc/sys/kernel/osrelease");
    let glibc = glibc(system);
    let (processor, program) = (std::env::consts::ARCH, env!("CARGO_PKG_VERSION"));
    let facts =
        json!({ "name": name, "kernel": kernel, "glibc": glibc, "architecture": processor, "overmask": program });
    let [name, kernel, glibc] = [name, kernel, glibc].map(or_unknown);
    let found = format!("{name}, kernel {kernel}, glibc {glibc}, {processor}, overmask {program}");
    Finding::new("system", found, facts)
}

/// The version that the C library says it is; none with another one than glibc.
fn glibc(system: &System) -> Option<String> {
    const VERSION: &[u8] = b"release version ";
    let arch = std::env::consts::ARCH;
    let folders = [format!("lib/{arch}-linux-gnu"), "lib64".to_owned(), "lib".to_owned()];
    let library = folders.iter().find_map(|folder| system.bytes(&format!("{folder}/libc.so.6")))?;
    let start = library.windows(VERSION.len()).position(|window| window == VERSION)? + VERSION.len();
    let digits = library[start..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.');
    let version: String = digits.map(|byte| char::from(*byte)).collect();
    Some(version.trim_end_matches('.').to_owned()).filter(|version| !version.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    fn texts(files: &[(&str, &str)]) -> Vec<String> {
        let (_dir, system) = tree(files);
        findings(&system).into_iter().map(|finding| format!("{}: {}", finding.check, finding.found)).collect()
    }

    #[test]
    fn releases_of_l4t_are_those_of_jetpack() {
        let release = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: ...";
        for (text, said) in [
            (release, "jetpack: JetPack 5, L4T 35.4.1"),
            (&release.replace("35", "36"), "jetpack: JetPack 6, L4T 36.4.1"),
            (&release.replace("35", "39"), "jetpack: JetPack 7, L4T 39.4.1"),
            (&release.replace("35", "99"), "jetpack: JetPack unknown, L4T 99.4.1"),
        ] {
            assert_eq!(texts(&[(L4T, text)])[1], said);
        }
        let model = ("proc/device-tree/model", "NVIDIA Jetson Nano\0");
        assert!(texts(&[model, (L4T, "else")])[1].starts_with("jetpack: unknown"));
        let packages = "Package: nvidia-l4t-core\nStatus: install ok installed\nVersion: 36.4.3-2025\n\n\
                        Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 6.2+b77\n";
        assert_eq!(texts(&[("var/lib/dpkg/status", packages)])[1], "jetpack: JetPack 6.2, L4T 36.4.3");
    }

    #[test]
    fn a_computer_has_a_maker_and_a_c_library() {
        let libc = "\u{7f}ELF...GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\nCopyright";
        let said = texts(&[
            ("sys/class/dmi/id/product_name", "NUC7\n"),
            ("sys/class/dmi/id/sys_vendor", "Intel\n"),
            ("etc/os-release", "NAME=Debian\nPRETTY_NAME=\"Debian 12\"\n"),
            ("lib64/libc.so.6", libc),
        ]);
        assert_eq!(said[0], "board: Intel NUC7");
        assert!(said[1].starts_with("system: Debian 12, kernel unknown, glibc 2.36, "), "{}", said[1]);
        assert_eq!(texts(&[])[0], "board: unknown: neither a device tree nor DMI names it");
    }
}
