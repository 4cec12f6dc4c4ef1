//! From a message to what it wants.

use std::sync::Arc;

use leveret_core::error::AmqpError;
use leveret_core::ids::Wall;
use leveret_core::message::Message;

use crate::definition::{Definition, Wishes, name};
use crate::header::{self, Action, Headers};

/// Entries of a reply, unless the order says how many, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: u64 = 10_000;
/// Times of a preview, unless the order says how many, and at most.
const PREVIEW: usize = 10;
const PREVIEW_MAX: u64 = 1_000;

/// What an order wants.
#[derive(Debug)]
pub(crate) enum Demand {
    Put(Box<Definition>, Wishes),
    Delete(String),
    Pause(String, Option<Box<str>>),
    Resume(String, Option<Box<str>>),
    RunNow(String),
    Backfill { name: String, from: Wall, to: Wall },
    List { after: Option<String>, limit: usize },
    Show(String),
    Preview { of: Previewed, limit: usize },
    History { name: String, limit: usize },
}

/// Whose times are to be shown.
#[derive(Debug)]
pub(crate) enum Previewed {
    /// Those of a schedule that there is.
    Kept(String),
    /// Those that this one would have.
    Proposed(Box<Definition>),
}

impl Demand {
    /// Reads the headers of an order.
    ///
    /// # Errors
    /// 406 with a text that says what to change.
    pub(crate) fn read(message: &Message, user: &Arc<str>, now: Wall) -> Result<Self, AmqpError> {
        let table = message.properties().headers.unwrap_or_default();
        let (headers, action) = Headers::check(&table)?;
        let name = || name(&headers).map(str::to_owned);
        let limit = |default, max| {
            let limit = headers.number(&header::LIMIT, 1, max)?;
            Ok::<_, AmqpError>(limit.map_or(default, |n| usize::try_from(n).unwrap_or(default)))
        };
        let note = || Ok::<_, AmqpError>(headers.any_text(&header::NOTE)?.map(Into::into));
        Ok(match action {
            Action::Put => {
                let (definition, wishes) =
                    Definition::read(&headers, &name()?, message, user, now)?;
                Self::Put(Box::new(definition), wishes)
            }
            Action::Delete => Self::Delete(name()?),
            Action::Pause => Self::Pause(name()?, note()?),
            Action::Resume => Self::Resume(name()?, note()?),
            Action::RunNow => Self::RunNow(name()?),
            Action::Backfill => {
                let (name, (from, to)) = (name()?, range(&headers, now)?);
                Self::Backfill { name, from, to }
            }
            Action::List => {
                let after = headers.any_text(&header::AFTER)?.map(str::to_owned);
                let limit = limit(LIMIT, LIMIT_MAX)?;
                Self::List { after, limit }
            }
            Action::Show => Self::Show(name()?),
            Action::Preview => {
                let limit = limit(PREVIEW, PREVIEW_MAX)?;
                let proposed = [&header::CRON, &header::EVERY, &header::AT];
                let of = if proposed.iter().any(|header| headers.has(header)) {
                    let name = if headers.has(&header::NAME) {
                        name()?
                    } else {
                        String::new()
                    };
                    let (definition, _) = Definition::read(&headers, &name, message, user, now)?;
                    Previewed::Proposed(Box::new(definition))
                } else {
                    Previewed::Kept(name()?)
                };
                Self::Preview { of, limit }
            }
            Action::History => {
                let (name, limit) = (name()?, limit(LIMIT, LIMIT_MAX)?);
                Self::History { name, limit }
            }
        })
    }
}

fn range(headers: &Headers<'_>, now: Wall) -> Result<(Wall, Wall), AmqpError> {
    let missing = |header: &header::Header| header.error("it is missing");
    let from = headers.moment(&header::FROM)?;
    let from = from.ok_or_else(|| missing(&header::FROM))?;
    let to = headers.moment(&header::TO)?;
    let to = to.ok_or_else(|| missing(&header::TO))?;
    if to < from {
        return Err(header::TO.error("it is before x-schedule-from"));
    }
    if to > now {
        return Err(header::TO.error("it is in the future: those times come by themselves"));
    }
    Ok((from, to))
}
