//! What a schedule is: name, trigger, policies, and the message with its target.
//!
//! All of it is in the headers of the order that made it. So what is kept in the log is that
//! message, with the moment it came at, and a start reads it the way the order was read. These octets
//! are in memory once, for the log and for us: the message to fire is made of them each time.

use std::ops::Range;
use std::sync::Arc;

use jiff::civil::Date;
use leveret_codec::{FieldTable, Properties};
use leveret_core::error::AmqpError;
use leveret_core::fired;
use leveret_core::ids::Wall;
use leveret_core::message::Message;

use crate::cron::{Cron, Dialect, Dst, Expression, quoted};
use crate::duration;
use crate::header::{self, Headers, PREFIX};
use crate::name::Name;
use crate::octets::{Octets, put_text};
use crate::policy::{Misfire, MisfireKind, Overlap, OverlapKind, Policy};
use crate::time;
use crate::trigger::{Every, Trigger};
use crate::zone::Zone;

/// Longest name of a schedule, in octets: a `message-id` of 255 has room for it.
pub const NAME_OCTETS_MAX: usize = 200;

/// First octet of a definition.
const VERSION: u8 = 1;

/// Where [`Definition::since`] is in it.
const SINCE: Range<usize> = 1..9;

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
    pub(crate) name: Name,
    /// Shared by all schedules that go by the same.
    pub(crate) rule: Arc<Rule>,
    /// Shared by all schedules on the same terms.
    pub(crate) terms: Arc<Terms>,
    /// What is kept of it: the order, when it came, and from whom. Shared with the log.
    pub(crate) kept: Arc<[u8]>,
}

/// When a schedule is due.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Rule {
    pub(crate) trigger: Trigger,
    pub(crate) zone: Zone,
}

/// How a schedule fires.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Terms {
    /// In whose name.
    pub(crate) user: Arc<str>,
    pub(crate) policy: Policy,
}

/// What is kept of a definition.
struct Kept<'a> {
    since: Wall,
    updated: Wall,
    user: &'a str,
    /// The order's block.
    block: &'a [u8],
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
        let kept = encode(since, since, user, message).into();
        Self::with(headers, Name::new(name), user, since, kept)
    }

    /// The same, of which these octets are kept.
    fn with(
        headers: &Headers<'_>,
        name: Name,
        user: &Arc<str>,
        since: Wall,
        kept: Arc<[u8]>,
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
        check_message(headers)?;
        let user = Arc::clone(user);
        let definition = Self {
            name,
            rule: Arc::new(Rule { trigger, zone }),
            terms: Arc::new(Terms { user, policy }),
            kept,
        };
        Ok((definition, wishes))
    }

    /// What it fires, with the address it goes to, and without the headers of the order.
    pub(crate) fn template(&self) -> Message {
        self.message_with(|_| {})
    }

    /// The same with other properties.
    pub(crate) fn message_with(&self, change: impl FnOnce(&mut Properties)) -> Message {
        // Was read before, so the default never shows.
        let (order, properties) = self.order().unwrap_or_else(|| {
            let none = Properties::default();
            (Message::fired("", "", &none, &[]), none)
        });
        message_of(&order, properties, change)
    }

    /// Whether its messages survive a restart.
    pub(crate) fn is_persistent(&self) -> bool {
        self.order().is_some_and(|(order, _)| order.is_persistent())
    }

    /// When it was first said that it has this trigger: intervals are counted from here.
    pub(crate) fn since(&self) -> Wall {
        Kept::read(&self.kept).map_or(Wall(0), |kept| kept.since)
    }

    /// When an order last changed it.
    pub(crate) fn updated(&self) -> Wall {
        Kept::read(&self.kept).map_or(Wall(0), |kept| kept.updated)
    }

    /// Octets of the order that made it.
    pub(crate) fn order_octets(&self) -> usize {
        Kept::read(&self.kept).map_or(0, |kept| kept.block.len())
    }

    fn order(&self) -> Option<(Message, Properties)> {
        Message::read_block(Kept::read(&self.kept)?.block)
    }

    /// The first nominal time after `t`.
    pub(crate) fn next_after(&self, t: Wall) -> Option<Wall> {
        let rule = &*self.rule;
        self.terms.policy.next_after(&rule.trigger, &rule.zone, t)
    }

    /// When it is due: its nominal time, put off by what is always the same for this time.
    pub(crate) fn due(&self, nominal: Wall) -> Wall {
        let jitter_ms = self.terms.policy.jitter_ms;
        if jitter_ms == 0 {
            return nominal;
        }
        // Not past the next one, so that they stay in order.
        let room = self
            .next_after(nominal)
            .map_or(u64::MAX, |next| next.0 - nominal.0 - 1);
        let most = jitter_ms.min(room);
        Wall(nominal.0 + spread(&self.name, nominal) % (most + 1))
    }

    /// Goes on as this one did, if the trigger is the same but for what it is counted from. False
    /// if it is another trigger.
    pub(crate) fn go_on_as(&mut self, old: &Self) -> bool {
        let same = match (&self.rule.trigger, &old.rule.trigger) {
            (Trigger::Every(new), Trigger::Every(old)) if !new.at_anchor && !old.at_anchor => {
                new.interval_ms == old.interval_ms
            }
            (new, old) => new == old,
        };
        if same {
            let (trigger, zone) = (old.rule.trigger.clone(), self.rule.zone.clone());
            self.rule = Arc::new(Rule { trigger, zone });
            let mut kept = self.kept.to_vec();
            if let Some(since) = kept.get_mut(SINCE) {
                since.copy_from_slice(&old.since().0.to_le_bytes());
            }
            self.kept = kept.into();
        }
        same
    }

    /// From what was kept, and under which key.
    pub(crate) fn decode(of: Name, octets: &Arc<[u8]>) -> Result<(Self, Wishes), String> {
        let version = octets.first();
        if version != Some(&VERSION) {
            return Err(format!(
                "the definition of a schedule has version {version:?}"
            ));
        }
        let parts = || {
            let kept = Kept::read(octets)?;
            let (_, properties) = Message::read_block(kept.block)?;
            Some((kept, properties))
        };
        let (kept, properties) = parts().ok_or("the definition of a schedule cannot be read")?;
        let table = properties.headers.unwrap_or_default();
        let headers = Headers::checked(&table);
        if name(&headers).map_err(|error| error.text)? != &*of {
            return Err("kept under another name".to_owned());
        }
        let user = kept.user.into();
        let octets = Arc::clone(octets);
        Self::with(&headers, of, &user, kept.since, octets).map_err(|error| error.text)
    }
}

impl<'a> Kept<'a> {
    fn read(octets: &'a [u8]) -> Option<Self> {
        let mut octets = Octets(octets);
        octets.u8()?;
        Some(Self {
            since: Wall(octets.u64()?),
            updated: Wall(octets.u64()?),
            user: octets.text()?,
            block: octets.0,
        })
    }
}

/// What is kept of a definition: the order itself.
fn encode(since: Wall, updated: Wall, user: &str, order: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(SINCE.end + 8 + 2 + user.len() + order.block().len());
    out.push(VERSION);
    out.extend_from_slice(&since.0.to_le_bytes());
    out.extend_from_slice(&updated.0.to_le_bytes());
    put_text(&mut out, user);
    out.extend_from_slice(order.block());
    out
}

/// Where messages go that are rejected, if the schedule that fires them says so.
pub(crate) fn dead_letter_exchange(template: &Message) -> Option<String> {
    let headers = template.properties().headers?;
    let exchange = headers.get(fired::DEAD_LETTER_EXCHANGE)?.as_str()?;
    Some(exchange.to_owned())
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

/// The message that a schedule of this order fires, its properties changed by what is said of a run.
pub(crate) fn message_of(
    order: &Message,
    mut properties: Properties,
    change: impl FnOnce(&mut Properties),
) -> Message {
    let table = properties.headers.take().unwrap_or_default();
    let headers = Headers::checked(&table);
    // Looked at by `check_message`.
    let address = [&header::EXCHANGE, &header::ROUTING_KEY];
    let address = address.map(|header| headers.any_text(header).ok().flatten());
    let [exchange, key] = address.map(|text| text.unwrap_or_default().to_owned());
    properties.headers = passed_on(table);
    own_properties(&mut properties);
    change(&mut properties);
    Message::fired(&exchange, &key, &properties, order.body())
}

/// A message can be made of the order.
fn check_message(headers: &Headers<'_>) -> Result<(), AmqpError> {
    let exchange = headers.any_text(&header::EXCHANGE)?.unwrap_or_default();
    let key = headers.any_text(&header::ROUTING_KEY)?.unwrap_or_default();
    check_passed_on(headers)?;
    for (header, text) in [(&header::EXCHANGE, exchange), (&header::ROUTING_KEY, key)] {
        if text.len() > 255 {
            return Err(header.error("longer than 255 octets"));
        }
    }
    Ok(())
}

/// Headers of an order without what is said to us.
fn passed_on(table: FieldTable) -> Option<FieldTable> {
    let kept: FieldTable = table
        .into_iter()
        .filter(|(name, _)| {
            let ours = name.as_str().starts_with(PREFIX);
            let stays = !ours || header::PASSED_ON.contains(&name.as_str());
            stays && *name.as_str() != *"BCC"
        })
        .map(|(name, value)| (name.as_str().to_owned(), value))
        .collect();
    Some(kept).filter(|kept| !kept.is_empty())
}

/// Properties of an order, as far as they are for what it fires.
fn own_properties(properties: &mut Properties) {
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
