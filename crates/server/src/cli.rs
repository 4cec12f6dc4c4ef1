//! The command line. Its flags come from the table of settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use clap_complete::Shell;

use crate::config::{self, Config, TABLE};
use crate::error::StartError;
use crate::remote::{self, RemoteTask};
use crate::store_tool::StoreTask;

/// What is to be done.
#[derive(Debug)]
pub enum Task {
    /// Be the broker.
    Serve(Box<Config>),
    /// Ask a running broker whether it is ready.
    Health {
        /// Where to ask.
        url: String,
    },
    /// Ask a running broker about schedules or delayed messages, or change them.
    Remote(Box<RemoteTask>),
    /// Look after the log of a data directory.
    Store(StoreTask),
    /// Print this, and that is all.
    Print(String),
}

/// Why there is nothing to do.
#[derive(Debug)]
pub enum Unusable {
    /// The user asked for help or the version, which is this text.
    Help(clap::Error),
    /// Something is wrong.
    Wrong(StartError),
}

/// Makes out what is to be done.
///
/// # Errors
/// [`Unusable`] if that is nothing.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Task, Unusable> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let first = arguments.get(1).and_then(|first| first.to_str());
    let matches = if first.is_some_and(|first| remote::command::NAMES.contains(&first)) {
        // A broker's settings mean nothing to them.
        remote_command().try_get_matches_from(arguments)?
    } else {
        command().try_get_matches_from(arguments)?
    };
    match matches.subcommand() {
        Some((name, options)) if remote::command::NAMES.contains(&name) => {
            let task = remote::command::parse(name, options, variable)?;
            return Ok(Task::Remote(Box::new(task)));
        }
        Some(("completions", options)) => {
            let mut text = Vec::new();
            if let Some(&shell) = options.get_one::<Shell>("shell") {
                clap_complete::generate(shell, &mut command(), "leveret", &mut text);
            }
            return Ok(Task::Print(String::from_utf8_lossy(&text).into_owned()));
        }
        Some(("config", options)) if options.get_flag("markdown") => {
            return Ok(Task::Print(config::to_markdown()));
        }
        Some(("store", options)) => return Ok(Task::Store(store_task(options))),
        _ => {}
    }
    let file = config::file_path(matches.get_one::<PathBuf>("config").cloned(), &variable);
    let config = Config::load(&flags(&matches), &variable, file.as_deref())?;
    Ok(match matches.subcommand() {
        Some(("config", _)) => Task::Print(config.settings.to_toml()),
        Some(("health", options)) => {
            let url = options.get_one::<String>("url").cloned();
            Task::Health {
                url: url
                    .or_else(|| crate::health::url(&config.settings))
                    .ok_or_else(no_url)?,
            }
        }
        _ => Task::Serve(Box::new(config)),
    })
}

fn no_url() -> StartError {
    StartError::new("there is no HTTP listener to ask: http_listen is none")
}

fn store_task(matches: &ArgMatches) -> StoreTask {
    // The parser has seen to it that they are there.
    let path = |options: &ArgMatches, name| {
        let path = options.get_one::<PathBuf>(name);
        path.cloned().unwrap_or_default()
    };
    match matches.subcommand() {
        Some(("salvage", options)) => StoreTask::Salvage {
            from: path(options, "from"),
            to: path(options, "to"),
        },
        other => StoreTask::Check {
            dir: other.map_or_else(PathBuf::new, |(_, options)| path(options, "dir")),
        },
    }
}

/// The settings given by flags.
fn flags(matches: &ArgMatches) -> BTreeMap<&'static str, String> {
    TABLE
        .iter()
        .filter_map(|row| {
            let values: Vec<&str> = matches
                .get_many::<String>(row.name)?
                .map(String::as_str)
                .collect();
            Some((row.name, values.join(",")))
        })
        .collect()
}

fn command() -> Command {
    let settings = TABLE.iter().map(|row| {
        let first = row.help.trim().split("\n\n").next().unwrap_or_default();
        let default = if row.default.is_empty() {
            String::new()
        } else {
            format!(" [default: {}]", row.default)
        };
        let range = row
            .range
            .map(|(min, max)| format!(" [{min} to {max}]"))
            .unwrap_or_default();
        let joined = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        Arg::new(row.name)
            .long(row.flag())
            .value_name(row.kind.to_uppercase())
            .value_parser(NonEmptyStringValueParser::new())
            .allow_hyphen_values(false)
            .action(ArgAction::Append)
            .global(true)
            .help(format!("{}{default}", joined(first)))
            .long_help(format!(
                "{}{range}{default} [env: {}]",
                joined(row.help),
                row.variable()
            ))
    });
    Command::new("leveret")
        .version(env!("CARGO_PKG_VERSION"))
        .about("An AMQP 0-9-1 message broker that RabbitMQ's clients use unchanged")
        .after_help(
            "Without a command it serves. Every setting can also be given as an environment variable \
             or in a file; a flag beats the environment, which beats the file.",
        )
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .global(true)
                .help("Configuration file, in TOML: settings, users, vhosts, permissions")
                .long_help(format!(
                    "Configuration file, in TOML: settings, users, vhosts, permissions [env: {}]",
                    config::FILE_VARIABLE
                )),
        )
        .args(settings)
        .subcommand(
            Command::new("health")
                .about("Asks a running broker whether it is ready; the exit code says it")
                .arg(
                    Arg::new("url")
                        .long("url")
                        .value_name("URL")
                        .help("Where to ask; by default the configured HTTP listener"),
                ),
        )
        .subcommand(
            Command::new("config").about("Prints the effective settings, as a configuration file").arg(
                Arg::new("markdown")
                    .long("markdown")
                    .action(ArgAction::SetTrue)
                    .help("Prints the table of all settings instead, as the manual shows it"),
            ),
        )
        .subcommand(store_command())
        .subcommands(remote::command::commands())
        .subcommand(
            Command::new("completions").about("Prints a completion script").arg(
                Arg::new("shell").required(true).value_parser(clap::value_parser!(Shell)).help("For which shell"),
            ),
        )
}

fn remote_command() -> Command {
    Command::new("leveret")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .subcommands(remote::command::commands())
}

fn store_command() -> Command {
    let path = |name: &'static str, value, help| {
        Arg::new(name)
            .value_name(value)
            .required(true)
            .value_parser(clap::value_parser!(PathBuf))
            .help(help)
    };
    Command::new("store")
        .about("Looks after the log of a data directory that no broker is using")
        .subcommand_required(true)
        .subcommand(
            Command::new("check")
                .about("Reads the whole log and says what is wrong; exit code 0 if nothing is, 3 if it is damaged")
                .arg(path("dir", "DIR", "The data directory")),
        )
        .subcommand(
            Command::new("salvage")
                .about("Writes what is sound in a log into a new one; exit code 0 if that is all, 3 if not")
                .arg(path("from", "FROM", "The data directory with the log; not changed"))
                .arg(path("to", "TO", "A data directory without a log; made if missing")),
        )
}

impl From<clap::Error> for Unusable {
    fn from(error: clap::Error) -> Self {
        use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};

        if matches!(error.kind(), DisplayHelp | DisplayVersion) {
            return Self::Help(error);
        }
        // One line, as for everything else that is wrong.
        let text = error.render().to_string();
        let line = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ");
        Self::Wrong(StartError::new(format!("{line} (see 'leveret --help')")))
    }
}

impl From<StartError> for Unusable {
    fn from(error: StartError) -> Self {
        Self::Wrong(error)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn task(arguments: &[&str]) -> Result<Task, String> {
        let arguments = ["leveret"].iter().chain(arguments).map(OsString::from);
        parse(arguments, |_| None).map_err(|unusable| match unusable {
            Unusable::Help(text) => text.to_string(),
            Unusable::Wrong(error) => error.to_string(),
        })
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_flag_may_be_repeated() {
        let Ok(Task::Serve(config)) =
            task(&["--amqp-listen", "127.0.0.1:1", "--amqp-listen", "[::1]:2"])
        else {
            panic!("it serves");
        };
        assert_eq!(config.settings.amqp_listen.0.len(), 2);
    }

    #[test]
    fn every_setting_is_in_the_help() {
        let help = task(&["--help"]).map(|_| ()).unwrap_err();
        for row in TABLE {
            assert!(help.contains(&format!("--{}", row.flag())), "{}", row.name);
            assert!(help.contains(&row.variable()), "{}", row.name);
        }
    }

    #[test]
    fn mistakes_are_one_line() {
        for arguments in [
            &["--no-such-flag"][..],
            &["serve"],
            &["--channel-max"],
            &["completions", "cmd"],
            &["store"],
            &["store", "check"],
            &["store", "salvage", "a"],
            &["schedule", "add", "a"],
            &["delayed", "peek"],
        ] {
            let line = task(arguments).map(|_| ()).unwrap_err();
            assert!(
                !line.contains('\n') && line.ends_with("(see 'leveret --help')"),
                "{line}"
            );
        }
        let line = task(&["--channel-max", "many"]).map(|_| ()).unwrap_err();
        assert_eq!(line, "--channel-max: 'many' is not a whole number in range");
    }

    #[test]
    fn health_asks_the_configured_listener() {
        #[rustfmt::skip]
        let table = [
            (&["health"][..],                                            "http://127.0.0.1:15672/health/ready"),
            (&["health", "--http-listen", "0.0.0.0:8080"],               "http://127.0.0.1:8080/health/ready"),
            (&["health", "--http-listen", "[::]:8080"],                  "http://[::1]:8080/health/ready"),
            (&["health", "--url", "http://10.0.0.1:1/health/live"],      "http://10.0.0.1:1/health/live"),
        ];
        for (arguments, expected) in table {
            assert!(
                matches!(task(arguments), Ok(Task::Health { url }) if url == expected),
                "{arguments:?}"
            );
        }
        assert!(task(&["health", "--http-listen", "none"]).is_err());
    }

    #[test]
    fn the_help_of_commands_that_ask_a_broker_has_no_settings() {
        let help = task(&["schedule", "add", "--help"])
            .map(|_| ())
            .unwrap_err();
        assert!(help.contains("--cron") && help.contains("--url"), "{help}");
        assert!(!help.contains("--frame-max"), "{help}");
        assert!(matches!(task(&["delayed", "list"]), Ok(Task::Remote(_))));
    }

    #[test]
    fn the_log_is_looked_after() {
        assert!(matches!(
            task(&["store", "check", "a"]),
            Ok(Task::Store(StoreTask::Check { dir })) if dir == Path::new("a")
        ));
        assert!(matches!(
            task(&["store", "salvage", "a", "b"]),
            Ok(Task::Store(StoreTask::Salvage { from, to }))
                if from == Path::new("a") && to == Path::new("b")
        ));
    }

    #[test]
    fn completions_and_tables_are_printed() {
        for arguments in [
            &["completions", "bash"][..],
            &["completions", "zsh"],
            &["config"],
            &["config", "--markdown"],
        ] {
            assert!(
                matches!(task(arguments), Ok(Task::Print(text)) if text.len() > 500),
                "{arguments:?}"
            );
        }
    }
}
