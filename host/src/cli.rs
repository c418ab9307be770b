//! The command line.

mod model;
mod policy;
mod serve;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

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

/// How a running server's admin listener is reached.
#[derive(Args, Debug)]
pub struct AdminArguments {
    /// The server's admin listener.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    pub admin: String,
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
