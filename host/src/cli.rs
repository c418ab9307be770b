//! The command line.

mod model;
mod policy;
mod serve;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use sluice_http::Scope;
use sluice_load::BenchArguments;

pub use model::{ModelCommand, PerplexityArguments};
pub use policy::{PolicyCommand, ReplayArguments};
pub use serve::ServeArguments;

/// An LLM inference server whose scheduling policies are WebAssembly components, swapped while it runs.
#[derive(Parser, Debug)]
#[command(version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Without a command, the server is started.
    #[command(flatten)]
    pub serve: ServeArguments,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Starts the server. This is also what happens without a command.
    Serve(Box<ServeArguments>),
    /// Sees and changes the policies of a running server.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Looks at a model's files, and measures what quantisation costs.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Shows what the server would be configured with.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Makes keys for the server's clients.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Looks at the record of what was done to the policies.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Loads a server with requests, this one or any other with OpenAI's API, and measures its answers.
    ///
    /// Requests go out when they are due, whether or not earlier ones were answered, and latencies count from when they
    /// were due: a server that falls behind cannot hide it. Without --request-rate, --max-concurrency or --trace, all
    /// requests are sent at once.
    ///
    /// Exits with 0, with 1 if no request succeeded, with 2 if the command cannot be meant.
    Bench(Box<BenchArguments>),
    /// Prints a script that completes this command line in a shell.
    Completions { shell: Shell },
}

#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Prints all settings as a file that sets them so: what holds of the flags, the environment and the file.
    Show {
        /// Say of each where it comes from: a default, a file, a variable or the command line.
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        serve: Box<ServeArguments>,
    },
}

#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Draws a secret. Prints it on the standard error, and on the standard output the lines that let it in: add them to
    /// the file of --api-key-file.
    New {
        /// Whose key it is. It stands in logs and in the audit log, and one name is one tenant.
        name: String,
        /// What it may do: inference, metrics, deploy. Once per scope [default: inference]
        #[arg(long, value_name = "SCOPE", value_parser = scope)]
        scope: Vec<Scope>,
    },
}

#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// Checks that no line was changed, taken out or put in. Exits with 1 if one was.
    Verify { file: PathBuf },
}

/// How a running server's admin listener is reached.
#[derive(Args, Debug)]
pub struct AdminArguments {
    /// The server's admin listener.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    pub admin: String,
    /// File with a key that has the scope deploy [default: SLUICE_ADMIN_KEY in the environment]
    #[arg(long, value_name = "FILE")]
    pub admin_key_file: Option<PathBuf>,
    /// PEM file with the authority that signed the server's certificate, where the system does not know it.
    #[arg(long, value_name = "FILE")]
    pub ssl_ca_certs: Option<PathBuf>,
    /// PEM file with a certificate and its private key, where the server asks its clients for one.
    #[arg(long, value_name = "FILE")]
    pub ssl_identity: Option<PathBuf>,
}

fn scope(text: &str) -> Result<Scope, serde::de::value::Error> {
    Scope::deserialize(text.into_deserializer())
}

const EXAMPLES: &str = "\
Examples:
  sluice                                          serve the model that ships with it on 127.0.0.1:8000
  sluice serve --model Qwen/Qwen2.5-0.5B-Instruct --replicas 2
  sluice serve --policy batching=step-time --policy-dir /etc/sluice/policies
  sluice config show --origin                     what is set, and where it was set
  sluice policy deploy my-policy.wasm             swap a policy under load
  sluice policy rollback batching";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_commands() {
        let good: [&[&str]; 7] = [
            &["list"],
            &["deploy", "a.wasm", "--config", "c.json", "--class", "script", "--admin", "http://h:1"],
            &["rollback", "routing"],
            &["inspect", "a.wasm"],
            &["history"],
            &["record", "batching", "--replica", "1", "--output", "r.sluice"],
            &["replay", "r.sluice", "a.wasm", "--config", "c.json", "--class", "script"],
        ];
        for arguments in good {
            assert!(Arguments::try_parse_from([&["sluice", "policy"], arguments].concat()).is_ok(), "{arguments:?}");
        }
        let bad: [&[&str]; 5] = [
            &["policy", "rollback", "steering"],
            &["policy", "deploy", "a.wasm", "--class", "heavy"],
            &["policy", "record", "batching"],
            &["--policy", "two-choices"],
            &["--replicas", "many"],
        ];
        for arguments in bad {
            assert!(Arguments::try_parse_from([&["sluice"], arguments].concat()).is_err(), "{arguments:?}");
        }
    }
}
