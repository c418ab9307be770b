//! `sluice policy`, as it is typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sluice_core::{DeploymentClass, Slot};

use super::AdminArguments;

#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// Shows which policies decide, and on which seats.
    List(AdminArguments),
    /// Puts a policy on all seats of its slot; nothing changes if it cannot be prepared.
    Deploy {
        #[arg(value_name = "FILE.wasm")]
        component: PathBuf,
        /// A file with the policy's configuration, a JSON object.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// `script` has more memory and longer deadlines, for languages that bring an interpreter.
        #[arg(long, default_value = "standard")]
        class: DeploymentClass,
        /// Refuse the component unless it is a policy for this slot.
        #[arg(long)]
        slot: Option<Slot>,
        #[command(flatten)]
        admin: AdminArguments,
    },
    /// Gives a slot back to its previous policy.
    Rollback {
        slot: Slot,
        #[command(flatten)]
        admin: AdminArguments,
    },
    /// Reads a component without a server: what it is, how it is configured, under which limits it would run.
    Inspect {
        #[arg(value_name = "FILE.wasm")]
        component: PathBuf,
        #[arg(long, default_value = "standard")]
        class: DeploymentClass,
    },
    /// Shows what was done to the policies, and what they did.
    History(AdminArguments),
    /// Saves what a policy saw and decided lately: the flight recorder of one seat.
    Record {
        slot: Slot,
        /// Of batching, whose seats are the replicas [default: 0]
        #[arg(long, value_name = "N")]
        replica: Option<u32>,
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        admin: AdminArguments,
    },
    /// Lets a component decide again what was recorded, without a server, and lists where it decides otherwise.
    ///
    /// A revision that the recording holds is asked for its own decisions only, and must decide the same to the byte.
    /// Any other is asked for all of them.
    ///
    /// Exits with 0 if no decision differs, with 1 if one does or the recording cannot be replayed.
    Replay(ReplayArguments),
}

#[derive(Args, Debug)]
pub struct ReplayArguments {
    pub recording: PathBuf,
    #[arg(value_name = "FILE.wasm")]
    pub component: PathBuf,
    /// A file with the policy's configuration [default: the recorded one of this component, or of this name, else {}]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// As it was deployed.
    #[arg(long, default_value = "standard")]
    pub class: DeploymentClass,
}
