//! Reads a user's crontab: five fields or a descriptor, then the command, as `crontab -l` prints
//! it.
//!
//! Whether the fields make sense is the broker's to say; this only takes lines apart.

/// What a line says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Line {
    /// A job.
    Entry(Entry),
    /// A variable that means nothing here.
    Ignored(String),
    /// What is wrong.
    Wrong(String),
}

/// A job.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    /// `0 6 * * 1-5`, `@daily`, `@every 1h`.
    pub(super) cron: String,
    pub(super) timezone: Option<String>,
    /// The rest of the line, as it stands.
    pub(super) command: String,
}

/// The lines that say something, with their numbers from 1 on.
pub(super) fn parse(text: &str) -> Vec<(usize, Line)> {
    let mut zone = None;
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let said = match assignment(line) {
            Some((name @ ("CRON_TZ" | "TZ"), value)) => match zone_of(value) {
                Ok((found, "")) => {
                    zone = found;
                    continue;
                }
                // As robfig/cron has it: for this line alone.
                Ok((found, rest)) => entry(rest, found),
                Err(why) => Line::Wrong(format!("{name}: {why}")),
            },
            Some((name, _)) => Line::Ignored(name.to_owned()),
            None => entry(line, zone.clone()),
        };
        lines.push((number, said));
    }
    lines
}

/// Name and value, if the line sets a variable.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim().trim_matches(['"', '\'']);
    let mut letters = name.chars();
    let first = letters.next()?;
    let is_name = (first.is_ascii_alphabetic() || first == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then(|| (name, value.trim()))
}

/// The zone, and what follows it. An empty one is that of the broker: UTC.
fn zone_of(value: &str) -> Result<(Option<String>, &str), &'static str> {
    let (zone, rest) = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let inner = value.get(1..).unwrap_or_default();
            inner.split_once(quote).ok_or("a quote is missing")?
        }
        _ => value.split_once(char::is_whitespace).unwrap_or((value, "")),
    };
    let zone = (!zone.is_empty()).then(|| zone.to_owned());
    Ok((zone, rest.trim()))
}

fn entry(line: &str, timezone: Option<String>) -> Line {
    let (fields, wanted) = match line.split_whitespace().next() {
        Some("@every") => (2, "'@every', a duration and a command are wanted"),
        Some(first) if first.starts_with('@') => (1, "a command is wanted after the descriptor"),
        _ => (5, "five fields and a command are wanted"),
    };
    let mut rest = line;
    let mut cron = Vec::new();
    for _ in 0..fields {
        let (field, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if !field.is_empty() {
            cron.push(field);
        }
        rest = after.trim_start();
    }
    if cron.len() < fields || rest.is_empty() {
        return Line::Wrong(wanted.to_owned());
    }
    let mut cron = cron.join(" ");
    if fields == 5
        && let Some((others, of_week)) = cron.rsplit_once(' ')
    {
        cron = format!("{others} {}", with_sunday_first(of_week));
    }
    Line::Entry(Entry {
        cron,
        timezone,
        command: rest.to_owned(),
    })
}

/// Days of the week as the broker reads them: to cron Sunday is 0 as well as 7. What is written in
/// another way is left to the broker to refuse.
fn with_sunday_first(of_week: &str) -> String {
    let items = of_week.split(',').map(|item| match item {
        "7" | "7-7" => "0".to_owned(),
        "0-7" => "0-6".to_owned(),
        _ => match item.strip_suffix("-7") {
            Some(first @ ("1" | "2" | "3" | "4" | "5" | "6")) => format!("{first}-6,0"),
            _ => item.to_owned(),
        },
    });
    items.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(cron: &str, timezone: Option<&str>, command: &str) -> Line {
        Line::Entry(Entry {
            cron: cron.to_owned(),
            timezone: timezone.map(str::to_owned),
            command: command.to_owned(),
        })
    }

    #[test]
    fn lines_are_taken_apart() {
        let text = "\
# nightly things
MAILTO=\"root@localhost\"
PATH = /usr/bin:/bin

5 0 * * *       $HOME/bin/daily.job >> $HOME/tmp/out 2>&1
CRON_TZ=Europe/Berlin
\t15 14 1 * *\techo \"a=b  c\"
TZ='Asia/Tokyo'
@daily backup --all
@every 1h30m poll
CRON_TZ=America/New_York 0 6 * * ? report
@reboot start
CRON_TZ=
0 22 * * 1-5 date=now run
";
        let berlin = Some("Europe/Berlin");
        let tokyo = Some("Asia/Tokyo");
        #[rustfmt::skip]
        let expected = [
            (2, Line::Ignored("MAILTO".to_owned())),
            (3, Line::Ignored("PATH".to_owned())),
            (5, job("5 0 * * *", None, "$HOME/bin/daily.job >> $HOME/tmp/out 2>&1")),
            (7, job("15 14 1 * *", berlin, "echo \"a=b  c\"")),
            (9, job("@daily", tokyo, "backup --all")),
            (10, job("@every 1h30m", tokyo, "poll")),
            (11, job("0 6 * * ?", Some("America/New_York"), "report")),
            (12, job("@reboot", tokyo, "start")),
            (14, job("0 22 * * 1-5", None, "date=now run")),
        ];
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn sunday_may_be_7() {
        #[rustfmt::skip]
        let table = [
            ("0 6 * * 7 x",       "0 6 * * 0"),
            ("0 6 * * 5-7 x",     "0 6 * * 5-6,0"),
            ("0 6 * * 0-7 x",     "0 6 * * 0-6"),
            ("0 6 * * 1,7 x",     "0 6 * * 1,0"),
            ("0 6 * * 1-7/2 x",   "0 6 * * 1-7/2"), // for the broker to refuse
            ("7 7 7 7 mon-fri x", "7 7 7 7 mon-fri"),
        ];
        for (line, expected) in table {
            assert_eq!(parse(line), [(1, job(expected, None, "x"))], "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        #[rustfmt::skip]
        let table = [
            ("* * * *",         "five fields and a command are wanted"),
            ("* * * * *",       "five fields and a command are wanted"),
            ("nonsense",        "five fields and a command are wanted"),
            ("@daily",          "a command is wanted after the descriptor"),
            ("@every 1h",       "'@every', a duration and a command are wanted"),
            ("TZ='Asia/Tokyo",  "TZ: a quote is missing"),
        ];
        for (line, expected) in table {
            assert_eq!(
                parse(line),
                [(1, Line::Wrong(expected.to_owned()))],
                "{line}"
            );
        }
    }
}
