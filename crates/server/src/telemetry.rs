//! Log lines, on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::Settings;
use crate::config::value::LogFormat;

/// Starts logging. Does nothing if somebody has done so already, as tests have.
pub fn start(settings: &Settings) {
    // A library that has much to say about its own state; whoever wants to hear that says so later.
    let filter = EnvFilter::new(format!(
        "tokio_cron_scheduler=warn,{}",
        settings.log_level.0
    ));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(std::io::stderr);
    let _ = match settings.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}
