//! `leveret`: parse, start, wait, stop.

use std::io::Write as _;
use std::process::ExitCode;

use leveret::cli::{self, Task, Unusable};
use leveret::signals::Signals;
use leveret::{Config, Server, StartError, health, remote, store_tool, telemetry};
use rustix::process::{Resource, Rlimit, setrlimit};
use sd_notify::NotifyState;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The log failed while the broker ran.
const EXIT_LOG_LOST: u8 = 2;

fn main() -> ExitCode {
    let done = match cli::parse(std::env::args_os(), |name| std::env::var(name).ok()) {
        Ok(Task::Serve(config)) => serve(&config),
        Ok(Task::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(Task::Store(task)) => store_tool::run(&task).map(|told| {
            print!("{}", told.text);
            ExitCode::from(told.code)
        }),
        Ok(Task::Remote(task)) => {
            let told = remote::run(&task);
            // Whoever reads it may have read enough.
            let _ = std::io::stdout().write_all(told.out.as_bytes());
            eprint!("{}", told.err);
            return ExitCode::from(told.code);
        }
        Ok(Task::Health { url }) => return ask(&url),
        Err(Unusable::Help(text)) => text.exit(),
        Err(Unusable::Wrong(error)) => Err(error),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("leveret: {error}");
            ExitCode::from(error.code())
        }
    }
}

fn serve(config: &Config) -> Result<ExitCode, StartError> {
    telemetry::start(&config.settings);
    forbid_core_dumps();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("leveret")
        .build()
        .map_err(|e| StartError::new(format!("cannot start threads: {e}")))?
        .block_on(run(config))
}

/// What the broker has in memory, passwords and messages, is not to lie about in a file.
///
/// By the limit and not by `prctl`, which would hide the process's `/proc` from operators as well.
fn forbid_core_dumps() {
    let never = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, never) {
        tracing::warn!(%error, "core dumps could not be forbidden");
    }
}

async fn run(config: &Config) -> Result<ExitCode, StartError> {
    let mut signals = Signals::listen()?;
    let server = Server::start(config)?;
    notify(NotifyState::Ready);
    let signal = tokio::select! {
        signal = signals.next() => signal,
        () = server.lost() => {
            notify(NotifyState::Stopping);
            server.fail().await;
            // At once: what is left may hang on the disk that has failed.
            std::process::exit(i32::from(EXIT_LOG_LOST));
        }
    };
    tracing::info!(signal, "asked to stop");
    notify(NotifyState::Stopping);
    tokio::select! {
        is_closed = server.stop() => Ok(if is_closed {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(EXIT_LOG_LOST)
        }),
        signal = signals.next() => {
            tracing::warn!(signal, "asked again: stopping at once");
            std::process::exit(1);
        }
    }
}

/// Tells systemd, if it is there.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd could not be notified");
    }
}

fn ask(url: &str) -> ExitCode {
    match health::check(url) {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("leveret: {reason}");
            ExitCode::FAILURE
        }
    }
}
