//! THE TABLE of settings, and where their values come from.
//!
//! One row a setting: its name, what it is for (the help text and the manual's), its type, its
//! default and its range. A row gives the field of [`Settings`], the flag `--its-name`, the
//! variable `LEVERET_ITS_NAME`, the key `its_name` of the configuration file, a line of
//! `leveret config` and a row of `docs/operating.md`. A flag beats the environment, the
//! environment the file, the file the default.
//!
//! Users, vhosts, permissions and [`housekeeping`] are no settings: they are tables of the same
//! file.

pub mod accounts;
pub mod housekeeping;
pub mod value;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::StartError;
use accounts::Accounts;
use housekeeping::Housekeeping;
use value::{
    Addresses, Location, LogFormat, LogLevel, Octets, Password, Span, Text, Value, Watermark,
};

/// Everything that is decided before the first connection.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The rows of the table.
    pub settings: Settings,
    /// Who may do what where.
    pub accounts: Accounts,
    /// What is done by the clock.
    pub housekeeping: Housekeeping,
}

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    /// As in the file: `frame_max`.
    pub name: &'static str,
    /// What it is for. The first line stands alone in `-h`.
    pub help: &'static str,
    /// What a value looks like.
    pub kind: &'static str,
    /// In the setting's own notation; empty if there is none.
    pub default: &'static str,
    /// Smallest and largest value, if it has such.
    pub range: Option<(&'static str, &'static str)>,
    set: fn(&mut Settings, &str) -> Result<(), String>,
    show: fn(&Settings) -> String,
}

macro_rules! settings {
    ($(
        $(#[doc = $help:literal])+
        $name:ident: $kind:ty = $default:literal $(, in $min:literal ..= $max:literal)?;
    )*) => {
        /// The value of every setting.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $($(#[doc = $help])+ pub $name: $kind,)*
        }

        /// Every setting, in the order of the manual.
        pub static TABLE: &[Setting] = &[$(Setting {
            name: stringify!($name),
            help: concat!($($help, "\n",)+),
            kind: <$kind as Value>::KIND,
            default: $default,
            range: settings!(@range $($min, $max)?),
            set: |settings, text| {
                settings.$name = <$kind as Value>::parse(text)?;
                $(in_range(&settings.$name, $min, $max)?;)?
                Ok(())
            },
            show: |settings| settings.$name.show(),
        },)*];

        impl Default for Settings {
            fn default() -> Self {
                Self {
                    $($name: <$kind as Value>::parse($default).expect("a test reads every default"),)*
                }
            }
        }
    };
    (@range) => { None };
    (@range $min:literal, $max:literal) => { Some(($min, $max)) };
}

settings! {
    /// Address and port for AMQP; may be given several times.
    ///
    /// `[::]` takes IPv4 as well as IPv6.
    amqp_listen: Addresses = "[::]:5672";

    /// Address and port for AMQP over TLS; may be given several times.
    ///
    /// Needs `tls_certificate` and `tls_key`.
    amqps_listen: Addresses = "none";

    /// File with the server's certificate chain, in PEM.
    tls_certificate: Location = "";

    /// File with the certificate's private key, in PEM.
    tls_key: Location = "";

    /// Address and port for the HTTP API, health checks and metrics; `none` for no such listener.
    ///
    /// The API wants a login; health checks and metrics are for everybody who can reach the address.
    http_listen: Addresses = "127.0.0.1:15672";

    /// Directory that belongs to this broker alone.
    ///
    /// Made if missing. It must not be writable for others, and only one broker at a time may use
    /// it.
    data_dir: Location = "data";

    /// How log lines look.
    log_format: LogFormat = "text";

    /// What is logged: error, warn, info, debug or trace, or a list such as `info,leveret=debug`.
    log_level: LogLevel = "info";

    /// Largest frame, in octets, as agreed with each client.
    frame_max: Octets = "128KiB", in "4KiB" ..= "16MiB";

    /// Most channels of one connection, as agreed with each client.
    channel_max: u16 = "2047", in "1" ..= "65535";

    /// Offered heartbeat; a client that is silent three times as long is gone. `0s` offers none.
    ///
    /// The client has the last word. Whole seconds.
    heartbeat: Span = "60s", in "0s" ..= "65535s";

    /// Time from the first octet of a connection until it is logged in and has opened its vhost.
    handshake_timeout: Span = "10s", in "100ms" ..= "10m";

    /// How long the octets for a connection may wait without its socket taking one of them; then
    /// it is closed. `0s` waits for ever.
    send_timeout: Span = "15s", in "0s" ..= "24h";

    /// How long a delivery may go unacknowledged before its channel is closed. `0s` waits for ever.
    ///
    /// The queue argument `x-consumer-timeout` overrides it.
    consumer_timeout: Span = "30m", in "0s" ..= "8760h";

    /// Time for a TLS handshake.
    tls_handshake_timeout: Span = "5s", in "100ms" ..= "10m";

    /// Most connections; never more than nine tenths of the file descriptors.
    connections_max: usize = "65000", in "1" ..= "10000000";

    /// Largest body of a message; what is larger is refused before it is read.
    message_size_max: Octets = "16MiB", in "1KiB" ..= "512MiB";

    /// Memory use above which publishers are no longer read.
    ///
    /// A share of the control group's limit or else of the machine's memory, or a size.
    memory_watermark: Watermark = "0.6";

    /// Octets that may wait to be written to one connection before its consumers count as full,
    /// or before it is no longer read if they are replies.
    outbox_max: Octets = "1MiB", in "16KiB" ..= "1GiB";

    /// Octets of undelivered messages that a queue holds in memory before it leaves what it can to the
    /// disk: to the log, or to the swap area.
    queue_memory_max: Octets = "16MiB", in "64KiB" ..= "1024GiB";

    /// Most queues of one vhost.
    queues_max: usize = "100000", in "1" ..= "100000000";

    /// Most exchanges of one vhost.
    exchanges_max: usize = "10000", in "10" ..= "100000000";

    /// Most bindings of one vhost.
    bindings_max: usize = "1000000", in "1" ..= "1000000000";

    /// Most memory that keys and arguments of one vhost's bindings take, with what routing makes of
    /// them, in octets.
    ///
    /// Beside it each binding takes about half a KiB, which `bindings_max` bounds. A topic pattern
    /// costs some 80 octets for each word it shares with no other pattern, a headers binding up to
    /// 1,200 for each key.
    binding_bytes_max: Octets = "256MiB", in "64KiB" ..= "1024GiB";

    /// Most consumers of one vhost.
    consumers_max: usize = "100000", in "1" ..= "100000000";

    /// Most consumers of one channel.
    consumers_per_channel_max: usize = "10000", in "1" ..= "1000000";

    /// Most schedules of one vhost. Ended ones make room, the oldest first.
    schedules_max: usize = "200000", in "1" ..= "10000000";

    /// Name of a user that is made when the broker starts, with all rights in the vhost `/`.
    ///
    /// Takes the place of `guest`. Needs `default_pass`.
    default_user: Text = "";

    /// Password of `default_user`. Better in the environment than on the command line, where
    /// everybody on the machine can read it.
    default_pass: Password = "";
}

fn in_range<T: Value + PartialOrd>(value: &T, min: &str, max: &str) -> Result<(), String> {
    if *value < T::parse(min)? || *value > T::parse(max)? {
        return Err(format!("is not between {min} and {max}"));
    }
    Ok(())
}

impl Setting {
    /// `--frame-max` without the dashes in front.
    #[must_use]
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// `LEVERET_FRAME_MAX`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("LEVERET_{}", self.name.to_uppercase())
    }

    /// The help text as one paragraph.
    #[must_use]
    pub fn sentence(&self) -> String {
        self.help.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn is_secret(&self) -> bool {
        self.name == "default_pass"
    }

    fn is_list(&self) -> bool {
        self.kind == Addresses::KIND
    }
}

impl Config {
    /// The configuration from all its sources.
    ///
    /// `flags` holds what the command line gave, by setting name; lists are joined by commas.
    /// `variable` reads the environment.
    ///
    /// # Errors
    /// The first thing that is wrong: a file that cannot be read, a key nobody knows, a value that
    /// makes no sense, settings that contradict each other.
    pub fn load(
        flags: &BTreeMap<&'static str, String>,
        variable: impl Fn(&str) -> Option<String>,
        file: Option<&Path>,
    ) -> Result<Self, StartError> {
        let mut settings = Settings::default();
        let mut accounts = accounts::Tables::default();
        let mut housekeeping = Housekeeping::default();
        if let Some(path) = file {
            (accounts, housekeeping) = read_file(path, &mut settings)?;
        }
        for row in TABLE {
            // An empty variable is what an orchestrator makes of an unset one.
            if let Some(text) = variable(&row.variable()).filter(|text| !text.is_empty()) {
                set(&mut settings, row, &text, &row.variable())?;
            }
            if let Some(text) = flags.get(row.name) {
                set(&mut settings, row, text, &format!("--{}", row.flag()))?;
            }
        }
        settings.check()?;
        let accounts = Accounts::new(accounts, &settings)?;
        Ok(Self {
            settings,
            accounts,
            housekeeping,
        })
    }
}

impl Settings {
    /// What no single setting can tell.
    fn check(&self) -> Result<(), StartError> {
        let complain = |text: &str| Err(StartError::new(text));
        if self.amqp_listen.0.is_empty() && self.amqps_listen.0.is_empty() {
            return complain("nothing to listen on: amqp_listen and amqps_listen are both none");
        }
        if !self.amqps_listen.0.is_empty()
            && (self.tls_certificate.0.is_none() || self.tls_key.0.is_none())
        {
            return complain("amqps_listen needs tls_certificate and tls_key");
        }
        if self.default_user.0.is_some() != self.default_pass.0.is_some() {
            return complain("default_user and default_pass need each other");
        }
        if !self.heartbeat.as_ms().is_multiple_of(1_000) {
            return complain("heartbeat must be whole seconds");
        }
        if self.data_dir.0.is_none() {
            return complain("data_dir must not be empty");
        }
        Ok(())
    }

    /// Every setting as a line of a configuration file; secrets are left out.
    #[must_use]
    pub fn to_toml(&self) -> String {
        TABLE
            .iter()
            .map(|row| {
                let value = (row.show)(self);
                if row.is_secret() {
                    return format!(
                        "# {} is {}\n",
                        row.name,
                        if value.is_empty() { "not set" } else { "set" }
                    );
                }
                format!("{} = {}\n", row.name, toml::Value::String(value))
            })
            .collect()
    }
}

/// The table as the manual shows it.
#[must_use]
pub fn to_markdown() -> String {
    let mut text = "| setting | default | what it is |\n| --- | --- | --- |\n".to_owned();
    for row in TABLE {
        let default = if row.default.is_empty() {
            String::new()
        } else {
            format!("`{}`", row.default)
        };
        let range = row
            .range
            .map(|(min, max)| format!(" {min} to {max}."))
            .unwrap_or_default();
        text += &format!(
            "| `{}` | {default} | {}{range} |\n",
            row.name,
            row.sentence()
        );
    }
    text
}

/// Sets one value and says where it came from if it is wrong.
fn set(settings: &mut Settings, row: &Setting, text: &str, origin: &str) -> Result<(), StartError> {
    (row.set)(settings, text).map_err(|reason| {
        let value = if row.is_secret() {
            "the value"
        } else {
            &format!("'{text}'")
        };
        StartError::new(format!("{origin}: {value} {reason}"))
    })
}

fn read_file(
    path: &Path,
    settings: &mut Settings,
) -> Result<(accounts::Tables, Housekeeping), StartError> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|e| StartError::new(format!("cannot read the configuration file {name}: {e}")))?;
    let wrong = |e: &toml::de::Error| {
        let line = e.span().map_or(1, |span| {
            text[..span.start.min(text.len())].matches('\n').count() + 1
        });
        StartError::new(format!("{name}:{line}: {}", e.message().replace('\n', " ")))
    };
    let file: File = toml::from_str(&text).map_err(|e| wrong(&e))?;
    for (key, value) in &file.settings {
        let Some(row) = TABLE.iter().find(|row| row.name == key) else {
            return Err(StartError::new(format!(
                "{name}: unknown key '{key}'{}",
                hint(key)
            )));
        };
        let origin = format!("{name}: {key}");
        let text = scalar(value)
            .or_else(|| {
                let items = value.as_array().filter(|_| row.is_list())?;
                Some(
                    items
                        .iter()
                        .map(scalar)
                        .collect::<Option<Vec<_>>>()?
                        .join(","),
                )
            })
            .ok_or_else(|| {
                StartError::new(format!("{origin}: the value is not {}", article(row.kind)))
            })?;
        set(settings, row, &text, &origin)?;
    }
    // Files that the file names are meant relative to it, not to wherever the broker was started.
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    for (key, location) in [
        ("tls_certificate", &mut settings.tls_certificate),
        ("tls_key", &mut settings.tls_key),
        ("data_dir", &mut settings.data_dir),
    ] {
        if file.settings.contains_key(key)
            && let Some(path) = location.0.as_mut()
        {
            *path = base.join(&*path);
        }
    }
    let housekeeping = Housekeeping::new(file.housekeeping, base)
        .map_err(|error| StartError::new(format!("{name}: {error}")))?;
    let accounts = accounts::Tables {
        users: file.users,
        vhosts: file.vhosts,
        permissions: file.permissions,
    };
    Ok((accounts, housekeeping))
}

/// A configuration file: settings at the top, then the tables of accounts.
#[derive(serde::Deserialize)]
struct File {
    #[serde(default)]
    users: Vec<accounts::UserTable>,
    #[serde(default)]
    vhosts: Vec<accounts::VhostTable>,
    #[serde(default)]
    permissions: Vec<accounts::PermissionTable>,
    #[serde(default)]
    housekeeping: housekeeping::Table,
    #[serde(flatten)]
    settings: BTreeMap<String, toml::Value>,
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        _ => None,
    }
}

fn article(kind: &str) -> String {
    match kind {
        "octets" => "a number of octets".to_owned(),
        "address:port" => "an address with its port, or a list of such".to_owned(),
        "level" | "text|json" | "share|octets" => kind.to_owned(),
        _ => format!("a {kind}"),
    }
}

/// The setting that was probably meant.
fn hint(key: &str) -> String {
    let squeezed = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    TABLE
        .iter()
        .find(|row| squeezed(row.name) == squeezed(key))
        .map(|row| format!(" (did you mean '{}'?)", row.name))
        .unwrap_or_default()
}

/// Where the file is, if the environment says so.
pub const FILE_VARIABLE: &str = "LEVERET_CONFIG";

/// The file to read, as given by flag or environment.
#[must_use]
pub fn file_path(
    flag: Option<PathBuf>,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<PathBuf> {
    flag.or_else(|| {
        variable(FILE_VARIABLE)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn load(
        file: &str,
        environment: &[(&str, &str)],
        flags: &[(&'static str, &str)],
    ) -> Result<Config, String> {
        let mut path = tempfile::NamedTempFile::new().unwrap();
        path.write_all(file.as_bytes()).unwrap();
        let flags = flags
            .iter()
            .map(|&(name, value)| (name, value.to_owned()))
            .collect();
        let variable = |name: &str| {
            environment
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        Config::load(&flags, variable, Some(path.path())).map_err(|e| {
            e.to_string()
                .replace(&path.path().display().to_string(), "FILE")
        })
    }

    #[test]
    fn every_default_and_every_bound_is_a_value() {
        let mut settings = Settings::default();
        for row in TABLE {
            (row.set)(&mut settings, row.default)
                .unwrap_or_else(|e| panic!("{}: default {e}", row.name));
            for bound in row.range.iter().flat_map(|(min, max)| [min, max]) {
                (row.set)(&mut settings, bound)
                    .unwrap_or_else(|e| panic!("{}: {bound} {e}", row.name));
            }
        }
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
        let file = "channel_max = 1\n";
        let environment = &[("LEVERET_CHANNEL_MAX", "2")];
        let flags = &[("channel_max", "3")];
        let channel_max = |config: Result<Config, String>| config.unwrap().settings.channel_max;
        assert_eq!(channel_max(load("", &[], &[])), 2_047);
        assert_eq!(channel_max(load(file, &[], &[])), 1);
        assert_eq!(channel_max(load(file, environment, &[])), 2);
        assert_eq!(channel_max(load(file, environment, flags)), 3);
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        #[rustfmt::skip]
        let table = [
            // file                                  what is said
            ("frame_maximum = 1",                    "FILE: unknown key 'frame_maximum'"),
            ("frame-max = 8192",                     "FILE: unknown key 'frame-max' (did you mean 'frame_max'?)"),
            ("frame_max = 100",                      "FILE: frame_max: '100' is not between 4KiB and 16MiB"),
            ("frame_max = true",                     "FILE: frame_max: the value is not a number of octets"),
            ("frame_max = [4096]",                   "FILE: frame_max: the value is not a number of octets"),
            ("heartbeat = 60",                       "FILE: heartbeat: '60' is not a duration with its unit, such as 500ms, 10s or 5m"),
            ("heartbeat = \"1500ms\"",               "heartbeat must be whole seconds"),
            ("amqp_listen = \"localhost:5672\"",     "FILE: amqp_listen: 'localhost:5672' is not an IP address with a port, such as 127.0.0.1:5672 or [::]:5672"),
            ("amqps_listen = \"[::]:5671\"",         "amqps_listen needs tls_certificate and tls_key"),
            ("amqp_listen = []",                     "nothing to listen on: amqp_listen and amqps_listen are both none"),
            ("default_user = \"me\"",                "default_user and default_pass need each other"),
            ("log_format = \"xml\"",                 "FILE: log_format: 'xml' is neither text nor json"),
            ("[[users]]\nname = \"a\"\npasword = \"b\"", "FILE:3: unknown field `pasword`, expected one of `name`, `password`, `password_hash`, `tags`, `loopback_only`"),
        ];
        for (file, expected) in table {
            assert_eq!(
                load(file, &[], &[]).map(|_| ()),
                Err(expected.to_owned()),
                "{file}"
            );
        }
        let broken = load("channel_max = 1\nframe_max =\n", &[], &[])
            .map(|_| ())
            .unwrap_err();
        assert!(
            broken.starts_with("FILE:2: ") && !broken.contains('\n'),
            "{broken}"
        );
        let flag = load("", &[], &[("channel_max", "x")])
            .map(|_| ())
            .unwrap_err();
        assert_eq!(flag, "--channel-max: 'x' is not a whole number in range");
        let variable = load("", &[("LEVERET_CHANNEL_MAX", "0")], &[])
            .map(|_| ())
            .unwrap_err();
        assert_eq!(
            variable,
            "LEVERET_CHANNEL_MAX: '0' is not between 1 and 65535"
        );
    }

    #[test]
    fn lists_are_lists_in_the_file_and_commas_elsewhere() {
        let two = "127.0.0.1:1,[::1]:2";
        let from_file = load("amqp_listen = [\"127.0.0.1:1\", \"[::1]:2\"]", &[], &[]).unwrap();
        let from_environment = load("", &[("LEVERET_AMQP_LISTEN", two)], &[]).unwrap();
        assert_eq!(from_file.settings.amqp_listen.show(), two);
        assert_eq!(from_environment.settings.amqp_listen.show(), two);
    }

    #[test]
    fn the_effective_settings_can_be_read_back_and_hold_no_secret() {
        let config = load(
            "default_user = \"me\"\ndefault_pass = \"hidden\"\nmemory_watermark = 0.5\n",
            &[],
            &[],
        )
        .unwrap();
        let text = config.settings.to_toml();
        assert!(!text.contains("hidden"), "{text}");
        assert!(!format!("{config:?}").contains("hidden"), "{config:?}");
        let without_user = text.replace("default_user = \"me\"", "");
        assert_eq!(
            load(&without_user, &[], &[])
                .unwrap()
                .settings
                .memory_watermark,
            Watermark::Share(0.5)
        );
    }

    /// The manual's table is this one; `leveret config --markdown` prints it.
    #[test]
    fn the_manual_shows_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operating.md");
        let Ok(manual) = std::fs::read_to_string(path) else {
            return; // a published crate comes without the manual
        };
        let Some((_, rest)) = manual.split_once("<!-- settings -->\n") else {
            return;
        };
        let (shown, _) = rest
            .split_once("<!-- /settings -->")
            .expect("an end of the table");
        assert_eq!(
            shown.trim(),
            to_markdown().trim(),
            "docs/operating.md is not up to date: put the output of `leveret config --markdown` there"
        );
    }
}
