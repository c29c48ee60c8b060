//! `overmask`: runs task packs on a frozen base. See [`overmask::cli`].

fn main() -> std::process::ExitCode {
    overmask::cli::main()
}
