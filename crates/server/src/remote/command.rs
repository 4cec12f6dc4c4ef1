//! The command line of `leveret schedule` and `leveret delayed`.

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use serde_json::{Map, Value, json};

use super::client::part;
use super::import::Import;
use super::view::View;
use super::{Job, RemoteTask, Request, Target};
use crate::error::StartError;

/// Names of the commands, as the first argument has them.
pub const NAMES: [&str; 2] = ["schedule", "delayed"];

/// Largest crontab or payload, in octets.
const FILE_OCTETS_MAX: u64 = 2 << 20;

/// Flags that become a field of a schedule: name, what its value looks like, help. `-` is `_` in
/// the field.
const FIELDS: &[(&str, &str, &str)] = &[
    (
        "cron",
        "CRON",
        "When: '*/5 * * * *', '@daily', '@every 1h30m'",
    ),
    ("every", "DURATION", "When: an interval, such as 1h30m"),
    ("at", "TIME", "When: once, such as 2030-01-31T09:00:00Z"),
    (
        "timezone",
        "ZONE",
        "Time zone of --cron, such as Europe/Berlin [default: UTC]",
    ),
    ("dialect", "WORD", "How --cron is read: robfig or quartz"),
    (
        "dst",
        "RULES",
        "When clocks are changed: skip or next-valid, both or once",
    ),
    (
        "exchange",
        "NAME",
        "Exchange to publish to [default: the default exchange]",
    ),
    (
        "routing-key",
        "KEY",
        "Routing key; with the default exchange the name of a queue",
    ),
    ("misfire", "WORD", "What was missed: fire-once, skip or all"),
    ("misfire-max", "NUMBER", "How many of them at most"),
    ("misfire-window", "MS", "None older than this"),
    (
        "overlap",
        "WORD",
        "While a run is not acked: allow, skip, buffer-one or buffer-all",
    ),
    (
        "overlap-timeout",
        "MS",
        "After this a run that nobody acks counts as over",
    ),
    ("jitter", "MS", "Put each run off by up to this"),
    ("start", "TIME", "No run before this"),
    ("end", "TIME", "No run after this"),
    ("max-runs", "NUMBER", "So many runs and no more"),
    (
        "exclude-dates",
        "DATES",
        "No run on these days: 2030-12-24,2030-12-25",
    ),
    ("deadline", "MS", "Alarm if a run is not acked after this"),
    (
        "dead-letter-exchange",
        "NAME",
        "Where a run goes that is rejected, or out of attempts",
    ),
    (
        "dead-letter-routing-key",
        "KEY",
        "With this key [default: its own]",
    ),
    (
        "retry-delay",
        "MS",
        "A run that is put back is delivered again after this",
    ),
    ("retry-limit", "NUMBER", "So many times and no more"),
    ("note", "TEXT", "For people"),
];

/// Those of them that are whole numbers.
const NUMBERS: &[&str] = &[
    "misfire-max",
    "misfire-window",
    "overlap-timeout",
    "jitter",
    "max-runs",
    "deadline",
    "retry-delay",
    "retry-limit",
];

/// Those that say when: one of them.
const TRIGGERS: [&str; 3] = ["cron", "every", "at"];

/// Both commands, for whoever puts the whole command line together.
#[must_use]
pub fn commands() -> [Command; 2] {
    [schedule(), delayed()]
}

fn schedule() -> Command {
    let name = || {
        Arg::new("name")
            .value_name("NAME")
            .required(true)
            .help("Name of the schedule")
    };
    let note = || option("note", "TEXT", "Why, for people");
    let limit =
        || option("limit", "NUMBER", "So many at most").value_parser(clap::value_parser!(u32));
    let count =
        || option("count", "NUMBER", "So many times").value_parser(clap::value_parser!(u32));
    remote(
        "schedule",
        "Looks after the schedules of a running broker, over HTTP",
    )
    .subcommand(
        Command::new("add")
            .about("Makes a schedule, or changes the one of this name")
            .arg(name())
            .args(fields())
            .arg(option("payload", "TEXT", "Body of the message"))
            .arg(
                option(
                    "payload-file",
                    "FILE",
                    "The same from a file; '-' is standard input",
                )
                .conflicts_with("payload"),
            )
            .arg(option(
                "content-type",
                "TYPE",
                "Content type of the message",
            ))
            .arg(
                option(
                    "header",
                    "NAME=VALUE",
                    "Header of the message; may be repeated",
                )
                .action(ArgAction::Append),
            )
            .arg(flag("transient", "The message need not survive a restart"))
            .arg(flag("paused", "It fires nothing until it is resumed"))
            .group(ArgGroup::new("trigger").args(TRIGGERS).required(true)),
    )
    .subcommand(
        Command::new("list")
            .about("Lists them")
            .arg(limit())
            .arg(option(
                "after",
                "NAME",
                "From the first one behind this name on",
            )),
    )
    .subcommand(Command::new("show").about("Shows one").arg(name()))
    .subcommand(
        Command::new("preview")
            .about("Shows when one fires next, or would fire if there were one")
            .arg(name().required_unless_present_any(TRIGGERS).required(false))
            .args(fields())
            .arg(count())
            .group(
                ArgGroup::new("trigger")
                    .args(TRIGGERS)
                    .conflicts_with("name"),
            ),
    )
    .subcommand(
        Command::new("history")
            .about("Shows the last runs of one")
            .arg(name())
            .arg(limit()),
    )
    .subcommand(
        Command::new("pause")
            .about("Fires nothing until it is resumed")
            .arg(name())
            .arg(note()),
    )
    .subcommand(
        Command::new("resume")
            .about("Goes on")
            .arg(name())
            .arg(note()),
    )
    .subcommand(
        Command::new("run")
            .about("Fires one now, besides its times")
            .arg(name()),
    )
    .subcommand(
        Command::new("backfill")
            .about("Fires what one would have fired in the past")
            .arg(name())
            .arg(option("from", "TIME", "From this time on").required(true))
            .arg(option("to", "TIME", "Up to this time").required(true)),
    )
    .subcommand(Command::new("delete").about("Removes one").arg(name()))
    .subcommand(
        Command::new("import")
            .about("Makes a schedule of each job of a crontab; the command becomes the payload")
            .arg(
                Arg::new("file")
                    .value_name("FILE")
                    .required(true)
                    .help("Crontab; '-' is standard input"),
            )
            .arg(
                option(
                    "prefix",
                    "TEXT",
                    "Names are this and the number of the line",
                )
                .default_value("crontab-"),
            )
            .arg(option("exchange", "NAME", "Exchange to publish to").default_value(""))
            .arg(
                option("routing-key", "KEY", "Routing key")
                    .required_unless_present("exchange")
                    .default_value(""),
            )
            .arg(flag(
                "dry-run",
                "Asks no broker, only shows what would be made",
            )),
    )
}

fn delayed() -> Command {
    let id = || {
        let help = "Its id, as the list shows it, or its message-id";
        Arg::new("id").value_name("ID").required(true).help(help)
    };
    let limit = option("limit", "NUMBER", "So many at most").value_parser(clap::value_parser!(u32));
    remote(
        "delayed",
        "Looks after messages of a running broker that wait for their time, over HTTP",
    )
    .subcommand(
        Command::new("list")
            .about("Lists them, the next first")
            .arg(limit),
    )
    .subcommand(Command::new("peek").about("Shows one").arg(id()))
    .subcommand(Command::new("cancel").about("Removes one").arg(id()))
    .subcommand(
        Command::new("retime")
            .about("Gives one another time")
            .arg(id())
            .arg(option("at", "TIME", "At this time"))
            .arg(
                option("after", "MS", "So many milliseconds from now")
                    .value_parser(clap::value_parser!(u64)),
            )
            .group(ArgGroup::new("when").args(["at", "after"]).required(true)),
    )
}

/// A command with what says which broker.
fn remote(name: &'static str, about: &'static str) -> Command {
    let global = |name, value, help| option(name, value, help).global(true);
    Command::new(name)
        .about(about)
        .subcommand_required(true)
        .arg(global(
            "url",
            "URL",
            "The broker's HTTP listener [default: http://127.0.0.1:15672] [env: LEVERET_URL]",
        ))
        .arg(global(
            "user",
            "NAME",
            "User [default: guest] [env: LEVERET_USER]",
        ))
        .arg(global(
            "password",
            "TEXT",
            "Password; better in the environment [default: guest] [env: LEVERET_PASSWORD]",
        ))
        .arg(
            global(
                "vhost",
                "NAME",
                "Virtual host [default: /] [env: LEVERET_VHOST]",
            )
            .short('p'),
        )
        .arg(flag("json", "Answers as they come, for programs").global(true))
}

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

fn fields() -> impl Iterator<Item = Arg> {
    FIELDS.iter().map(|&(name, value, help)| {
        let arg = option(name, value, help);
        if NUMBERS.contains(&name) {
            arg.value_parser(clap::value_parser!(u64))
        } else {
            arg.value_parser(NonEmptyStringValueParser::new())
        }
    })
}

/// What one of these commands wants.
///
/// # Errors
/// A file that cannot be read, a header that is none.
pub fn parse(
    name: &str,
    matches: &ArgMatches,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<RemoteTask, StartError> {
    let given = |name: &str, default: &str| {
        let flag = matches.get_one::<String>(name).cloned();
        let variable = || variable(&format!("LEVERET_{}", name.to_uppercase()));
        flag.or_else(|| variable().filter(|text| !text.is_empty()))
            .unwrap_or_else(|| default.to_owned())
    };
    let target = Target {
        url: given("url", "http://127.0.0.1:15672"),
        user: given("user", "guest"),
        password: given("password", "guest"),
        vhost: given("vhost", "/"),
    };
    // The parser has seen to it that there is one.
    let (action, options) = matches.subcommand().unwrap_or(("list", matches));
    let job = if name == "delayed" {
        delayed_job(action, options, &target.vhost)
    } else {
        schedule_job(action, options, &target.vhost)?
    };
    let json = matches.get_flag("json");
    Ok(RemoteTask { target, json, job })
}

fn schedule_job(action: &str, options: &ArgMatches, vhost: &str) -> Result<Job, StartError> {
    let all = format!("/api/schedules/{}", part(vhost));
    let one = format!("{all}/{}", part(&text(options, "name").unwrap_or_default()));
    let query = |path: String, flags: &[&str]| with_query(path, options, flags);
    let ask = |method, path, body, view| Job::Ask(Request { method, path, body }, view);
    Ok(match action {
        "add" => ask("PUT", one, definition(options)?, View::Fields),
        "list" => ask(
            "GET",
            query(all, &["limit", "after"]),
            Value::Null,
            View::Schedules,
        ),
        "preview" if options.contains_id("name") => {
            let path = query(format!("{one}/preview"), &["count"]);
            ask("GET", path, Value::Null, View::Preview)
        }
        "preview" => {
            let path = query(format!("{all}/preview"), &["count"]);
            ask(
                "POST",
                path,
                Value::Object(policies(options)),
                View::Preview,
            )
        }
        "history" => {
            let path = query(format!("{one}/history"), &["limit"]);
            ask("GET", path, Value::Null, View::History)
        }
        "pause" | "resume" => {
            let body = json!({"note": text(options, "note")});
            ask("POST", format!("{one}/{action}"), body, View::Fields)
        }
        "run" => ask("POST", format!("{one}/run"), json!({}), View::Fields),
        "backfill" => {
            let body = json!({"from": text(options, "from"), "to": text(options, "to")});
            ask("POST", format!("{one}/backfill"), body, View::Fields)
        }
        "delete" => ask("DELETE", one, Value::Null, View::Fields),
        "import" => {
            let file = text(options, "file").unwrap_or_default();
            let octets = read(&file)?;
            let text_of_file = String::from_utf8(octets)
                .map_err(|_| StartError::new(format!("{file} is not UTF-8")))?;
            Job::Import(Import {
                file,
                text: text_of_file,
                prefix: text(options, "prefix").unwrap_or_default(),
                exchange: text(options, "exchange").unwrap_or_default(),
                routing_key: text(options, "routing-key").unwrap_or_default(),
                dry_run: options.get_flag("dry-run"),
            })
        }
        _ => ask("GET", one, Value::Null, View::Fields),
    })
}

fn delayed_job(action: &str, options: &ArgMatches, vhost: &str) -> Job {
    let all = format!("/api/delayed/{}", part(vhost));
    let (method, body, view) = match action {
        "list" => ("GET", Value::Null, View::Messages),
        "cancel" => ("DELETE", Value::Null, View::Fields),
        "retime" => {
            let after = options.get_one::<u64>("after");
            let body = json!({"deliver_at": text(options, "at"), "deliver_after": after});
            ("PUT", body, View::Fields)
        }
        _ => ("GET", Value::Null, View::Fields),
    };
    let path = if action == "list" {
        with_query(all, options, &["limit"])
    } else {
        format!("{all}/{}", part(&text(options, "id").unwrap_or_default()))
    };
    Job::Ask(Request { method, path, body }, view)
}

/// A text that was given, or is by default.
fn text(options: &ArgMatches, name: &str) -> Option<String> {
    options.try_get_one::<String>(name).ok().flatten().cloned()
}

fn with_query(path: String, options: &ArgMatches, flags: &[&str]) -> String {
    let pairs = flags.iter().filter_map(|name| {
        let number = options.try_get_one::<u32>(name).ok().flatten();
        let value = number.map(u32::to_string).or_else(|| text(options, name))?;
        Some(format!("{name}={}", part(&value)))
    });
    let query = pairs.collect::<Vec<_>>().join("&");
    if query.is_empty() {
        path
    } else {
        format!("{path}?{query}")
    }
}

fn policies(options: &ArgMatches) -> Map<String, Value> {
    let given = FIELDS.iter().filter_map(|(name, ..)| {
        let value = if NUMBERS.contains(name) {
            json!(options.get_one::<u64>(name)?)
        } else {
            json!(options.get_one::<String>(name)?)
        };
        Some((name.replace('-', "_"), value))
    });
    given.collect()
}

fn definition(options: &ArgMatches) -> Result<Value, StartError> {
    let mut fields = policies(options);
    if options.get_flag("paused") {
        fields.insert("paused".to_owned(), json!(true));
    }
    let payload = match text(options, "payload-file") {
        Some(file) => Some(read(&file)?),
        None => text(options, "payload").map(String::into_bytes),
    };
    if let Some(octets) = payload {
        match String::from_utf8(octets) {
            Ok(text) => fields.insert("payload".to_owned(), text.into()),
            Err(error) => {
                fields.insert("payload_encoding".to_owned(), "base64".into());
                let text = STANDARD.encode(error.as_bytes());
                fields.insert("payload".to_owned(), text.into())
            }
        };
    }
    let mut headers = Map::new();
    for header in options.get_many::<String>("header").into_iter().flatten() {
        let Some((name, value)) = header.split_once('=') else {
            let why = format!("--header: '{header}' is not of the form NAME=VALUE");
            return Err(StartError::new(why));
        };
        headers.insert(name.to_owned(), value.into());
    }
    let mode = if options.get_flag("transient") { 1 } else { 2 };
    fields.insert(
        "properties".to_owned(),
        json!({
            "delivery_mode": mode,
            "content_type": text(options, "content-type"),
            "headers": headers,
        }),
    );
    Ok(Value::Object(fields))
}

fn read(file: &str) -> Result<Vec<u8>, StartError> {
    let failed = |error: std::io::Error| StartError::new(format!("cannot read {file}: {error}"));
    let mut octets = Vec::new();
    let mut from: Box<dyn std::io::Read> = if file == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(failed)?)
    };
    let most = FILE_OCTETS_MAX + 1;
    let from = from.as_mut();
    from.take(most).read_to_end(&mut octets).map_err(failed)?;
    if octets.len() as u64 == most {
        let why = format!("{file} is longer than {FILE_OCTETS_MAX} octets");
        return Err(StartError::new(why));
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(arguments: &[&str]) -> RemoteTask {
        let command = Command::new("leveret").subcommands(commands());
        let arguments = std::iter::once("leveret").chain(arguments.iter().copied());
        let matches = command.try_get_matches_from(arguments).unwrap();
        let (name, options) = matches.subcommand().unwrap();
        let variable = |name: &str| (name == "LEVERET_USER").then(|| "joe".to_owned());
        parse(name, options, variable).unwrap()
    }

    fn request(arguments: &[&str]) -> (&'static str, String, Value) {
        let Job::Ask(request, _) = task(arguments).job else {
            panic!("{arguments:?} asks nothing");
        };
        (request.method, request.path, request.body)
    }

    #[test]
    fn commands_become_requests() {
        let n = || Value::Null;
        #[rustfmt::skip]
        let table: &[(&[&str], _)] = &[
            (&["schedule", "list"],                                  ("GET", "/api/schedules/%2F", n())),
            (&["schedule", "list", "--limit", "3", "--after", "a b"], ("GET", "/api/schedules/%2F?limit=3&after=a%20b", n())),
            (&["schedule", "show", "a/b", "--vhost", "v"],           ("GET", "/api/schedules/v/a%2Fb", n())),
            (&["schedule", "delete", "a"],                           ("DELETE", "/api/schedules/%2F/a", n())),
            (&["schedule", "run", "a"],                              ("POST", "/api/schedules/%2F/a/run", json!({}))),
            (&["schedule", "pause", "a", "--note", "x"],             ("POST", "/api/schedules/%2F/a/pause", json!({"note": "x"}))),
            (&["schedule", "resume", "a"],                           ("POST", "/api/schedules/%2F/a/resume", json!({"note": null}))),
            (&["schedule", "history", "a", "--limit", "9"],          ("GET", "/api/schedules/%2F/a/history?limit=9", n())),
            (&["schedule", "preview", "a", "--count", "9"],          ("GET", "/api/schedules/%2F/a/preview?count=9", n())),
            (&["schedule", "preview", "--cron", "@daily"],           ("POST", "/api/schedules/%2F/preview", json!({"cron": "@daily"}))),
            (&["schedule", "backfill", "a", "--from", "f", "--to", "t"], ("POST", "/api/schedules/%2F/a/backfill", json!({"from": "f", "to": "t"}))),
            (&["delayed", "list", "--limit", "1"],                   ("GET", "/api/delayed/%2F?limit=1", n())),
            (&["delayed", "peek", "1f"],                             ("GET", "/api/delayed/%2F/1f", n())),
            (&["delayed", "cancel", "1f"],                           ("DELETE", "/api/delayed/%2F/1f", n())),
            (&["delayed", "retime", "1f", "--after", "5"],           ("PUT", "/api/delayed/%2F/1f", json!({"deliver_at": null, "deliver_after": 5}))),
        ];
        for (arguments, (method, path, body)) in table {
            let expected = (*method, (*path).to_owned(), body.clone());
            assert_eq!(request(arguments), expected, "{arguments:?}");
        }
    }

    #[test]
    fn a_schedule_is_made_of_flags() {
        let (method, path, body) = request(&[
            "schedule",
            "add",
            "a",
            "--every",
            "5m",
            "--routing-key",
            "q",
            "--jitter",
            "10",
            "--payload",
            "{}",
            "--header",
            "k=v=w",
            "--paused",
        ]);
        assert_eq!((method, path.as_str()), ("PUT", "/api/schedules/%2F/a"));
        let expected = json!({
            "every": "5m", "routing_key": "q", "jitter": 10, "payload": "{}", "paused": true,
            "properties": {"delivery_mode": 2, "content_type": null, "headers": {"k": "v=w"}},
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn a_schedule_has_one_trigger() {
        for arguments in [
            &["schedule", "add", "a"][..],
            &["schedule", "add", "a", "--cron", "@daily", "--every", "1h"],
            &["schedule", "preview"],
            &["schedule", "preview", "a", "--cron", "@daily"],
            &["schedule", "add", "a", "--every", "1h", "--jitter", "soon"],
            &["delayed", "retime", "1f"],
            &["delayed", "retime", "1f", "--at", "x", "--after", "1"],
        ] {
            let command = Command::new("leveret").subcommands(commands());
            let arguments = std::iter::once(&"leveret").chain(arguments);
            assert!(command.try_get_matches_from(arguments.clone()).is_err());
        }
    }

    #[test]
    fn flags_beat_the_environment() {
        assert_eq!(task(&["schedule", "list"]).target.user, "joe");
        let jane = task(&["schedule", "--user", "jane", "list"]);
        assert_eq!(jane.target.user, "jane");
        assert!(
            !format!("{jane:?}").contains("guest"),
            "a password is not shown"
        );
    }
}
