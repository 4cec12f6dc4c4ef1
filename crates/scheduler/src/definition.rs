//! What a schedule is: name, trigger, policies, and the message with its target.
//!
//! All of it is in the headers of the order that made it. So what is kept in the log is that
//! message, with the moment it came at, and a start reads it the way the order was read.

use std::sync::Arc;

use jiff::civil::Date;
use leveret_core::error::AmqpError;
use leveret_core::fired;
use leveret_core::ids::Wall;
use leveret_core::message::Message;

use crate::cron::{Cron, Dialect, Dst, Expression, quoted};
use crate::duration;
use crate::header::{self, Headers, PREFIX};
use crate::octets::{Octets, put_text};
use crate::policy::{Misfire, MisfireKind, Overlap, OverlapKind, Policy};
use crate::time;
use crate::trigger::{Every, Trigger};
use crate::zone::Zone;

/// Longest name of a schedule, in octets: a `message-id` of 255 has room for it.
pub const NAME_OCTETS_MAX: usize = 200;

/// First octet of a definition.
const VERSION: u8 = 1;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
const YEAR_MS: u64 = 366 * DAY_MS;

/// Longest interval: a hundred years.
const INTERVAL_SECONDS_MAX: u64 = 100 * 366 * 24 * 60 * 60;

/// Runs that are made up for at most, and how many are unless an order says so.
const MISFIRE_MAX: u64 = 10_000;
const MISFIRE_DEFAULT: u32 = 1_000;

/// A consumer that needs longer than a day for a message is taken for lost.
const OVERLAP_TIMEOUT_MS: u64 = DAY_MS;

/// What addresses of direct replies begin with.
const DIRECT_REPLY: &[u8] = b"amq.rabbitmq.reply-to";

/// Most times that a run may be delivered again.
const RETRIES_MAX: u64 = 1_000_000;

/// Dates that a schedule may leave out: all holidays of fifty years.
const EXCLUDED_MAX: usize = 1_000;

/// A schedule as it was ordered.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    pub(crate) name: Arc<str>,
    /// In whose name it fires.
    pub(crate) user: Arc<str>,
    pub(crate) trigger: Trigger,
    pub(crate) zone: Zone,
    pub(crate) policy: Policy,
    /// What it fires, with the address it goes to, and without the headers of the order.
    pub(crate) template: Message,
    /// When it was first said that it has this trigger: intervals are counted from here.
    pub(crate) since: Wall,
    /// When an order last changed it.
    pub(crate) updated: Wall,
    /// How many octets are kept of it.
    pub(crate) kept_octets: usize,
}

/// What an order says about the state of a schedule, not about what it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Wishes {
    pub(crate) paused: Option<bool>,
    pub(crate) note: Option<Box<str>>,
    /// It has one time only, and that has passed.
    pub(crate) overdue: bool,
    /// The order itself says that what was missed is made up for.
    pub(crate) made_up_for: bool,
}

impl Definition {
    /// Reads an order. `since` is when it came, also if that was long ago.
    pub(crate) fn read(
        headers: &Headers<'_>,
        name: &str,
        message: &Message,
        user: &Arc<str>,
        since: Wall,
    ) -> Result<(Self, Wishes), AmqpError> {
        let zone = zone(headers)?;
        let (policy, said) = policy(headers)?;
        let (trigger, zone) = trigger(headers, zone, &policy, since)?;
        let wishes = Wishes {
            paused: headers.flag(&header::PAUSED)?,
            note: headers.any_text(&header::NOTE)?.map(Into::into),
            overdue: matches!(trigger, Trigger::At(at) if at <= since),
            made_up_for: said && policy.misfire.kind != MisfireKind::Skip,
        };
        let definition = Self {
            name: name.into(),
            user: Arc::clone(user),
            trigger,
            zone,
            policy,
            template: template(headers, message)?,
            since,
            updated: since,
            kept_octets: 0, // until it is to be kept
        };
        Ok((definition, wishes))
    }

    /// Where its messages go that are rejected, if it says so.
    pub(crate) fn dead_letter_exchange(&self) -> Option<String> {
        let headers = self.template.properties().headers?;
        let exchange = headers.get(fired::DEAD_LETTER_EXCHANGE)?.as_str()?;
        Some(exchange.to_owned())
    }

    /// The first nominal time after `t`.
    pub(crate) fn next_after(&self, t: Wall) -> Option<Wall> {
        self.policy.next_after(&self.trigger, &self.zone, t)
    }

    /// When it is due: its nominal time, put off by what is always the same for this time.
    pub(crate) fn due(&self, nominal: Wall) -> Wall {
        if self.policy.jitter_ms == 0 {
            return nominal;
        }
        // Not past the next one, so that they stay in order.
        let room = self
            .next_after(nominal)
            .map_or(u64::MAX, |next| next.0 - nominal.0 - 1);
        let most = self.policy.jitter_ms.min(room);
        Wall(nominal.0 + spread(&self.name, nominal) % (most + 1))
    }

    /// Goes on as this one did, if the trigger is the same but for what it is counted from. False
    /// if it is another trigger.
    pub(crate) fn go_on_as(&mut self, old: &Self) -> bool {
        let same = match (&self.trigger, &old.trigger) {
            (Trigger::Every(new), Trigger::Every(old)) if !new.at_anchor && !old.at_anchor => {
                new.interval_ms == old.interval_ms
            }
            (new, old) => new == old,
        };
        if same {
            self.trigger = old.trigger.clone();
            self.since = old.since;
        }
        same
    }

    /// What is kept of it: the order itself.
    pub(crate) fn encode(&self, order: &Message) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.since.0.to_le_bytes());
        out.extend_from_slice(&self.updated.0.to_le_bytes());
        put_text(&mut out, &self.user);
        out.extend_from_slice(order.block());
        out
    }

    /// From what was kept.
    pub(crate) fn decode(octets: &[u8]) -> Result<(Self, Wishes), String> {
        let kept_octets = octets.len();
        let mut octets = Octets(octets);
        let version = octets.u8();
        if version != Some(VERSION) {
            return Err(format!(
                "the definition of a schedule has version {version:?}"
            ));
        }
        let mut parts = || {
            let (since, updated) = (Wall(octets.u64()?), Wall(octets.u64()?));
            let user: Arc<str> = octets.text()?.into();
            Some((since, updated, user, Message::from_block(octets.0)?))
        };
        let (since, updated, user, order) =
            parts().ok_or("the definition of a schedule cannot be read")?;
        let table = order.properties().headers.unwrap_or_default();
        let headers = Headers::checked(&table);
        let read = || Self::read(&headers, name(&headers)?, &order, &user, since);
        let (mut definition, wishes) = read().map_err(|error: AmqpError| error.text)?;
        definition.updated = updated;
        definition.kept_octets = kept_octets;
        Ok((definition, wishes))
    }
}

/// The refusal of a time that has passed.
pub(crate) fn overdue() -> AmqpError {
    header::AT.error(
        "it is in the past; choose a later time, or add x-schedule-misfire 'fire-once' to fire it \
         at once",
    )
}

/// The name that every order has but one that lists.
pub(crate) fn name<'a>(headers: &Headers<'a>) -> Result<&'a str, AmqpError> {
    let name = headers
        .text(&header::NAME)?
        .ok_or_else(|| header::NAME.error("it is missing: every schedule has a name"))?;
    if name.len() > NAME_OCTETS_MAX {
        return Err(header::NAME.error(format!("longer than {NAME_OCTETS_MAX} octets")));
    }
    if name.chars().any(char::is_control) {
        return Err(header::NAME.error("it has control characters"));
    }
    Ok(name)
}

fn zone(headers: &Headers<'_>) -> Result<Zone, AmqpError> {
    let Some(name) = headers.text(&header::TIMEZONE)? else {
        return Ok(Zone::UTC);
    };
    Zone::find(name).ok_or_else(|| {
        let name = quoted(name);
        header::TIMEZONE.error(format!("{name} is not a zone of the tz database"))
    })
}

fn trigger(
    headers: &Headers<'_>,
    zone: Zone,
    policy: &Policy,
    since: Wall,
) -> Result<(Trigger, Zone), AmqpError> {
    let count = [&header::CRON, &header::EVERY, &header::AT]
        .iter()
        .filter(|header| headers.has(header))
        .count();
    if count != 1 {
        return Err(AmqpError::precondition_failed(format_args!(
            "exactly one of {PREFIX}cron, {PREFIX}every and {PREFIX}at is wanted, not {count}; an \
             example: {PREFIX}cron '*/5 * * * *'"
        )));
    }
    if !headers.has(&header::CRON) {
        for only_cron in [&header::DIALECT, &header::DST] {
            if headers.has(only_cron) {
                return Err(only_cron.error("it means nothing without x-schedule-cron"));
            }
        }
    }
    if let Some(at) = headers.moment(&header::AT)? {
        return Ok((Trigger::At(at), zone));
    }
    if let Some(text) = headers.text(&header::EVERY)? {
        return Ok((every(interval_seconds(text)?, policy, since), zone));
    }
    let text = headers.text(&header::CRON)?.unwrap_or_default();
    let dialects = [Dialect::Robfig, Dialect::Quartz].map(|dialect| (dialect.word(), dialect));
    let dialect = headers.word(&header::DIALECT, &dialects)?;
    let dst = dst(headers)?;
    let expression = Cron::parse(text, dialect.unwrap_or_default(), zone.clone(), dst)
        .map_err(|why| header::CRON.error_of(text, why))?;
    Ok(match expression {
        Expression::Cron(cron) => {
            let zone = cron.zone().clone();
            (Trigger::Cron(Box::new(cron)), zone)
        }
        Expression::Every { seconds } if seconds <= INTERVAL_SECONDS_MAX => {
            (every(seconds, policy, since), zone)
        }
        Expression::Every { .. } => {
            let why = "longer than a hundred years; an example: '@every 24h'";
            return Err(header::CRON.error_of(text, why));
        }
        Expression::Reboot => (Trigger::Reboot, zone),
    })
}

fn interval_seconds(text: &str) -> Result<u64, AmqpError> {
    const EXAMPLE: &str = "an example: '1h30m'";
    let refuse = |why: &str| header::EVERY.error_of(text, format!("{why}; {EXAMPLE}"));
    let nanos = duration::parse(text).map_err(|why| refuse(&why))?;
    let seconds = nanos / 1_000_000_000;
    if seconds == 0 {
        return Err(refuse("the shortest interval is 1s"));
    }
    if nanos % 1_000_000_000 != 0 {
        return Err(refuse("an interval is whole seconds"));
    }
    if seconds > INTERVAL_SECONDS_MAX {
        return Err(refuse("longer than a hundred years"));
    }
    Ok(seconds)
}

/// Counted from the start that the order names, or else from the second it came in.
fn every(seconds: u64, policy: &Policy, since: Wall) -> Trigger {
    Trigger::Every(Every {
        anchor: policy.start.unwrap_or(Wall(since.0 / 1_000 * 1_000)),
        interval_ms: seconds * 1_000,
        at_anchor: policy.start.is_some(),
    })
}

fn dst(headers: &Headers<'_>) -> Result<Dst, AmqpError> {
    let mut dst = Dst::default();
    let Some(text) = headers.text(&header::DST)? else {
        return Ok(dst);
    };
    let (mut gap, mut fold) = (false, false);
    for word in text.split(',').map(str::trim) {
        let about = match word {
            "skip" | "next-valid" => {
                dst.next_valid = word == "next-valid";
                &mut gap
            }
            "both" | "once" => {
                dst.once = word == "once";
                &mut fold
            }
            _ => {
                let why = "there are skip or next-valid (an hour that is missing) and both or once \
                           (an hour that comes twice); an example: 'next-valid,once'";
                return Err(header::DST.error_of(text, why));
            }
        };
        if std::mem::replace(about, true) {
            let why = "one rule for the missing hour and one for the doubled hour at most";
            return Err(header::DST.error_of(text, why));
        }
    }
    Ok(dst)
}

/// The policies, and whether there is one about what was missed.
fn policy(headers: &Headers<'_>) -> Result<(Policy, bool), AmqpError> {
    let kind = headers.word(&header::MISFIRE, MisfireKind::WORDS)?;
    let max = headers.number(&header::MISFIRE_MAX, 1, MISFIRE_MAX)?;
    if max.is_some() && kind != Some(MisfireKind::All) {
        return Err(header::MISFIRE_MAX.error("it means nothing without x-schedule-misfire 'all'"));
    }
    let misfire = Misfire {
        kind: kind.unwrap_or_default(),
        max: max.map_or(MISFIRE_DEFAULT, |max| {
            u32::try_from(max).unwrap_or(u32::MAX)
        }),
        window_ms: headers.number(&header::MISFIRE_WINDOW, 1, 10 * YEAR_MS)?,
    };
    let overlap_kind = headers
        .word(&header::OVERLAP, OverlapKind::WORDS)?
        .unwrap_or_default();
    let timeout = headers.number(&header::OVERLAP_TIMEOUT, 1, YEAR_MS)?;
    if timeout.is_some() && overlap_kind == OverlapKind::Allow {
        let what = "it means nothing without x-schedule-overlap skip, buffer-one or buffer-all";
        return Err(header::OVERLAP_TIMEOUT.error(what));
    }
    let policy = Policy {
        misfire,
        overlap: Overlap {
            kind: overlap_kind,
            timeout_ms: timeout.unwrap_or(OVERLAP_TIMEOUT_MS),
        },
        jitter_ms: headers.number(&header::JITTER, 0, DAY_MS)?.unwrap_or(0),
        start: headers.moment(&header::START)?,
        end: headers.moment(&header::END)?,
        max_runs: headers.number(&header::MAX_RUNS, 1, i64::MAX.unsigned_abs())?,
        excluded: excluded(headers)?,
        deadline_ms: headers.number(&header::DEADLINE, 1, YEAR_MS)?,
    };
    if let (Some(start), Some(end)) = (policy.start, policy.end)
        && end < start
    {
        return Err(header::END.error("it is before x-schedule-start"));
    }
    Ok((policy, kind.is_some()))
}

fn excluded(headers: &Headers<'_>) -> Result<Box<[Date]>, AmqpError> {
    let texts = headers.texts(&header::EXCLUDE_DATES)?;
    if texts.len() > EXCLUDED_MAX {
        return Err(header::EXCLUDE_DATES.error(format!("more than {EXCLUDED_MAX} dates")));
    }
    let mut dates = texts
        .into_iter()
        .map(|text| {
            time::parse_date(text).ok_or_else(|| {
                let text = quoted(text);
                header::EXCLUDE_DATES.error(format!("{text} is no date"))
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    dates.sort_unstable();
    dates.dedup();
    Ok(dates.into())
}

/// The message to fire, without what was said to us.
fn template(headers: &Headers<'_>, order: &Message) -> Result<Message, AmqpError> {
    let exchange = headers.any_text(&header::EXCHANGE)?.unwrap_or_default();
    let key = headers.any_text(&header::ROUTING_KEY)?.unwrap_or_default();
    check_passed_on(headers)?;
    for (header, text) in [(&header::EXCHANGE, exchange), (&header::ROUTING_KEY, key)] {
        if text.len() > 255 {
            return Err(header.error("longer than 255 octets"));
        }
    }
    let mut properties = order.properties();
    if let Some(table) = properties.headers.take() {
        let kept: leveret_codec::FieldTable = table
            .into_iter()
            .filter(|(name, _)| {
                let ours = name.as_str().starts_with(PREFIX);
                let stays = !ours || header::PASSED_ON.contains(&name.as_str());
                stays && *name.as_str() != *"BCC"
            })
            .map(|(name, value)| (name.as_str().to_owned(), value))
            .collect();
        properties.headers = Some(kept).filter(|kept| !kept.is_empty());
    }
    // Who gets the answer to the order is not who answers the message.
    if properties
        .reply_to
        .as_ref()
        .is_some_and(|to| to.starts_with(DIRECT_REPLY))
    {
        (properties.reply_to, properties.correlation_id) = (None, None);
    }
    // Each run has its own.
    properties.message_id = None;
    Ok(Message::fired(exchange, key, &properties, order.body()))
}

/// Headers that are for the queues make sense.
fn check_passed_on(headers: &Headers<'_>) -> Result<(), AmqpError> {
    let exchange = headers.any_text(&header::DEAD_LETTER_EXCHANGE)?;
    let key = headers.any_text(&header::DEAD_LETTER_ROUTING_KEY)?;
    if key.is_some() && exchange.is_none() {
        let what = "it means nothing without x-schedule-dead-letter-exchange";
        return Err(header::DEAD_LETTER_ROUTING_KEY.error(what));
    }
    for (header, text) in [
        (&header::DEAD_LETTER_EXCHANGE, exchange),
        (&header::DEAD_LETTER_ROUTING_KEY, key),
    ] {
        if text.is_some_and(|text| text.len() > 255) {
            return Err(header.error("longer than 255 octets"));
        }
    }
    headers.number(&header::RETRY_DELAY, 1, YEAR_MS)?;
    headers.number(&header::RETRY_LIMIT, 0, RETRIES_MAX)?;
    Ok(())
}

/// A number that looks random, and is always the same for this time of this schedule.
fn spread(name: &str, nominal: Wall) -> u64 {
    // FNV-1a, then the finalizer of SplitMix64: neither may ever change.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for octet in name.bytes().chain(nominal.0.to_le_bytes()) {
        hash = (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
