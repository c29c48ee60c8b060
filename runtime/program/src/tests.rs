//! Tests of the command line itself.

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_help_starts_with_an_example_and_tells_the_exit_codes() {
    let mut command = Cli::command();
    command.build();
    let own = command.render_long_help().to_string();
    let subcommands = command.get_subcommands_mut().filter(|c| c.get_name() != "help");
    for help in subcommands.map(|c| c.render_long_help().to_string()).chain([own]) {
        assert!(help.starts_with("Example"), "{help}");
        assert!(help.contains(ExitCode::HELP), "{help}");
    }
}

#[test]
fn the_readme_commands_parse() {
    for line in [
        "overmask run --base base/ --pack trec.pack text",
        "overmask run --base base/ --pack a.pack --pack b.pack --json --engine tract",
        "overmask run --base base/ --pack a.pack --engine ort:cuda --threads 2 -q",
        "overmask inspect trec.pack --json",
        "overmask verify trec.pack --base base/ -vv",
        "overmask doctor",
        "overmask doctor --base base/ --base other/ --pack trec.pack --pack a.set#b --json",
        "overmask completions zsh",
        "overmask man run",
    ] {
        Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    for line in [
        "overmask",
        "overmask run --base base/ text",
        "overmask run --pack a.pack text",
        "overmask run --base base/ --pack a.pack --engine gpu",
        "overmask run --base base/ --pack a.pack --threads 0",
        "overmask verify --base base/",
        "overmask doctor base/",
        "overmask inspect a.pack -q -v",
    ] {
        assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[cfg(feature = "oci")]
#[test]
fn commands_with_a_registry_parse() {
    for line in [
        "overmask push trec.pack --base base/ registry.example/tasks/trec:3",
        "overmask push trec.pack movie.pack registry.example/tasks:7 --plain-http",
        "overmask push --base base/ registry.example/bases/minilm:1 --ca-file ca.pem --json",
        "overmask flash --from registry.example/tasks/trec:3 --plain-http=false --store device/",
    ] {
        Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    for line in [
        "overmask push",
        "overmask push --plain-http=perhaps a.pack registry.example/a",
        "overmask flash --from registry.example/a a.pack",
        "overmask flash --from registry.example/a --base base/",
        "overmask flash --from registry.example/a --to board",
    ] {
        assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap_err().exit_code(), 2, "{line}");
    }
}
