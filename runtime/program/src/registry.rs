//! How the commands `push` and `flash --from` reach a registry.

use std::path::PathBuf;

use clap::Args;
use overmask_cli::{CodedError, ExitCode};
use overmask_oci::{Access, OciError, Options, Proxy, Reference, Registry};

const REGISTRY: &str = "Registry";

/// What goes another way.
const INSTEAD: &[&str] =
    if cfg!(feature = "fleet") { &["packs", "base", "to", "fleet"] } else { &["packs", "base", "to"] };

/// How a registry is reached.
#[derive(Debug, Args)]
pub(super) struct RegistryArgs {
    /// Reach the registry without TLS [default: true for localhost, else false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = REGISTRY)]
    plain_http: Option<bool>,
    /// Certificates (PEM) that may vouch for the registry, in place of the system's
    #[arg(long, value_name = "FILE", help_heading = REGISTRY)]
    ca_file: Option<PathBuf>,
}

impl RegistryArgs {
    /// Opens the repository that a reference is in.
    pub(super) fn open(&self, reference: &Reference, access: Access) -> Result<Registry, OciError> {
        let options = Options {
            plain_http: self.plain_http,
            ca_file: self.ca_file.clone(),
            auth_files: overmask_cli::registry_auth_files(),
            proxy: Proxy::try_from_env(),
            ..Options::default()
        };
        Registry::open(reference, access, &options)
    }
}

/// What is flashed from a registry.
#[derive(Debug, Args)]
pub(super) struct FromArgs {
    /// Flash an artifact of an OCI registry, HOST/REPOSITORY:TAG, with the bases beside it that the store lacks
    #[arg(long, value_name = "REFERENCE", help_heading = REGISTRY, conflicts_with_all = INSTEAD)]
    from: Option<String>,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl FromArgs {
    /// The registry, if something is flashed from one.
    pub(super) fn open(&self) -> anyhow::Result<Option<Registry>> {
        let is_said = self.registry.plain_http.is_some() || self.registry.ca_file.is_some();
        let Some(from) = &self.from else {
            let message =
                "--plain-http and --ca-file are about a registry: name what is flashed with --from".to_owned();
            return if is_said { Err(CodedError { message, code: ExitCode::Usage }.into()) } else { Ok(None) };
        };
        Ok(Some(self.registry.open(&from.parse()?, Access::Pull)?))
    }
}
