//! Runs a command of the program to its end.

use std::env::{self, VarError};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::CommandFactory as _;
use clap_complete::Shell;
use sluice_core::Clock;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::banner::{ModelLine, banner};
use crate::cli::{Arguments, Command, ConfigCommand, ServeArguments};
use crate::config::{Layers, ServeConfig};
use crate::engine::MonotonicClock;
use crate::listeners::{ADMIN_KEY, API_KEY, Listeners, Secrets};
use crate::output::say;
use crate::server::Server;
use crate::{audit_command, bench_command, key_command, logging, model, model_command, policy_command};

pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let runtime = Builder::new_multi_thread().enable_all().build().context("no threads for the server")?;
    let ended = execute(&runtime, arguments);
    // A model that is still being loaded when the program is told to go is not waited for.
    runtime.shutdown_background();
    ended
}

fn execute(runtime: &Runtime, arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        None => serve(runtime, arguments.serve)?,
        Some(Command::Serve(arguments)) => serve(runtime, *arguments)?,
        Some(Command::Model(command)) => return model_command::run(command),
        Some(Command::Config(ConfigCommand::Show { origin, serve })) => show_config(*serve, origin)?,
        Some(Command::Completions { shell }) => complete(shell)?,
        Some(Command::Key(command)) => key_command::run(command)?,
        Some(Command::Audit(command)) => return audit_command::run(command),
        Some(Command::Bench(arguments)) => return runtime.block_on(bench_command::run(*arguments)),
        Some(Command::Policy(command)) => {
            let (text, code) = runtime.block_on(policy_command::run(command))?;
            say(text.trim_end())?;
            return Ok(code);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(runtime: &Runtime, arguments: ServeArguments) -> Result<()> {
    let config = ServeConfig::of(typed(arguments)?.settings())?;
    logging::start(config.log, &config.log_filter)?;
    runtime.block_on(until_told_to_go(&config))
}

fn typed(mut arguments: ServeArguments) -> Result<Layers> {
    let file = arguments.config.take();
    let environment = env::vars_os().filter_map(unicode);
    Ok(Layers::read(arguments.settings(), environment, file.as_deref())?)
}

/// What does not make sense is an error here, as it is for the server.
fn show_config(arguments: ServeArguments, origins: bool) -> Result<()> {
    let layers = typed(arguments)?;
    ServeConfig::of(layers.settings())?;
    Ok(say(layers.show(origins).trim_end())?)
}

fn complete(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "sluice", &mut script);
    Ok(say(String::from_utf8_lossy(&script).trim_end())?)
}

/// From the first port to the last answer.
async fn until_told_to_go(config: &ServeConfig) -> Result<()> {
    let mut signals = Signals::listen()?;
    let listeners = Listeners::open(&config.server, &secrets()?)?;
    let server = tokio::select! {
        started = start(config, listeners) => started?,
        () = signals.next() => {
            tracing::info!("told to go before it served");
            return Ok(());
        }
    };
    signals.next().await;
    tracing::info!("told to go: no new requests, and the answers in progress get {:?}", config.server.drain_timeout);
    tokio::select! {
        () = server.drain(config.server.drain_timeout) => {}
        () = signals.next() => tracing::warn!("told again: going now"),
    }
    server.stop().await;
    Ok(())
}

/// From the model's files to the first request.
async fn start(config: &ServeConfig, listeners: Listeners) -> Result<Server> {
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::start());
    let served = load(config, &clock).await?;
    let line = ModelLine {
        name: served.name.clone(),
        description: served.computed.description.clone(),
        max_model_len: served.computed.max_model_len,
        blocks: served.computed.blocks,
        engine: served.computed.engine,
    };
    let server = Server::start(config, served, &clock, listeners).await?;
    say(&banner(&server, &line))?;
    Ok(server)
}

async fn load(config: &ServeConfig, clock: &Arc<dyn Clock>) -> Result<model::ServedModel> {
    let (model, engine, clock) = (config.model.clone(), config.engine, Arc::clone(clock));
    tokio::task::spawn_blocking(move || model::load(&model, &engine, &clock)).await?
}

fn secrets() -> Result<Secrets> {
    let read = |name| match env::var(name) {
        Ok(secret) => Ok(Some(secret)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => bail!("{name} is not text"),
    };
    Ok(Secrets { api: read(API_KEY)?, admin: read(ADMIN_KEY)? })
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be received");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn unicode((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}
