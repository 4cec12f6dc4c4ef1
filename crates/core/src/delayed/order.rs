//! Orders about delayed messages: to list, look at, cancel and move them.
//!
//! They come the same way as those to the scheduler: published to `amq.schedule`, with the header
//! `x-delayed-action`, or by the HTTP API.

use leveret_codec::{FieldTable, FieldValue};
use serde_json::{Value, json};

use crate::delay;
use crate::delayed::look::{LookUp, Looked};
use crate::delayed::release::DelayedMessage;
use crate::effect::Effects;
use crate::error::{AmqpError, Named};
use crate::ids::{Lsn, Seq, Wall};
use crate::message::Message;
use crate::permission::{Access, Permissions};
use crate::schedules::work_of;
use crate::vhost::Vhost;

const ACTION: &str = "x-delayed-action";
const ID: &str = "x-delayed-id";
const LIMIT: &str = "x-delayed-limit";

/// Messages that are listed at once, unless an order says how many.
const LISTED: i64 = 100;

/// Most messages that are listed at once.
const LISTED_MAX: i64 = 10_000;

/// What it costs to show one of them.
const SHOWN_WORK: u64 = 8;

/// Octets of a body that are shown when somebody peeks.
const BODY_SHOWN_MAX: usize = 64 << 10;

/// What becomes of an order.
#[derive(Debug)]
pub enum Ordered {
    /// The answer, as JSON; it holds once this record is safe.
    Done(Vec<u8>, Lsn),
    /// Nothing yet: a message has to be looked for in the log. The order may be given again in the
    /// turn in which [`Broker::looked_up`](crate::Broker::looked_up) says that this one was.
    Later(LookUp),
}

impl Vhost {
    /// Obeys an order if it is about delayed messages; None if it is not.
    pub(crate) fn order_about_delayed(
        &mut self,
        user: &str,
        permissions: &Permissions,
        message: &Message,
        fx: &mut Effects,
    ) -> Option<Result<Ordered, AmqpError>> {
        let headers = message.properties().headers?;
        let action = headers.get(ACTION)?;
        let named = Named {
            kind: "queue",
            name: super::QUEUE,
            vhost: &self.name,
        };
        let action = action.as_str().unwrap_or_default();
        let mut check = permissions.check(user, Access::Configure, named);
        if action == "peek" {
            // It shows what others have sent.
            check = check.and_then(|()| permissions.check(user, Access::Read, named));
        }
        if let Err(error) = check {
            return Some(Err(error));
        }
        Some(self.obey_about_delayed(action, &headers, fx))
    }

    fn obey_about_delayed(
        &mut self,
        action: &str,
        headers: &FieldTable,
        fx: &mut Effects,
    ) -> Result<Ordered, AmqpError> {
        let mut safe = Lsn(0);
        let answer = match action {
            "list" => {
                let limit = headers.get(LIMIT).and_then(FieldValue::as_i64);
                let limit = limit.unwrap_or(LISTED).clamp(1, LISTED_MAX);
                let list = self.list_delayed(usize::try_from(limit).unwrap_or(1));
                self.work += SHOWN_WORK * list.len() as u64;
                let list: Vec<Value> = list.iter().map(|entry| shown(entry, false)).collect();
                json!({ "count": self.delayed.len(), "messages": list })
            }
            "peek" => {
                let place = match self.delayed_named(headers, true)? {
                    Ok(place) => place,
                    Err(later) => return Ok(Ordered::Later(later)),
                };
                let entry = self.show_delayed(place);
                self.work += SHOWN_WORK + entry.message.as_ref().map_or(0, work_of);
                shown(&entry, true)
            }
            "cancel" => {
                let place = match self.delayed_named(headers, false)? {
                    Ok(place) => place,
                    Err(later) => return Ok(Ordered::Later(later)),
                };
                safe = self.cancel_delayed(place, fx);
                json!({ "cancelled": name_of(place) })
            }
            "retime" => {
                let due = delay::moment(headers, self.now.wall)?;
                let place = match self.delayed_named(headers, true)? {
                    Ok(place) => place,
                    Err(later) => return Ok(Ordered::Later(later)),
                };
                let (moved, record) = self.retime_delayed(place, due, fx).ok_or_else(|| {
                    AmqpError::precondition_failed(format_args!(
                        "delayed message '{}' is not in memory; try again",
                        name_of(place)
                    ))
                })?;
                safe = record;
                shown(&self.show_delayed(moved), false)
            }
            _ => {
                return Err(AmqpError::precondition_failed(format_args!(
                    "invalid header {ACTION}: '{action}'; one of list, peek, cancel, retime"
                )));
            }
        };
        Ok(Ordered::Done(answer.to_string().into_bytes(), safe))
    }

    /// The message that an order names, in memory if that is needed; or what is being looked for.
    fn delayed_named(
        &mut self,
        headers: &FieldTable,
        in_memory: bool,
    ) -> Result<Result<Seq, LookUp>, AmqpError> {
        let Some(id) = headers.get(ID).and_then(FieldValue::as_str) else {
            return Err(AmqpError::precondition_failed(format_args!(
                "header {ID} is missing: the id that a list shows, or the message-id"
            )));
        };
        match self.look_for(id, in_memory)? {
            Looked::Later(number) => Ok(Err(number)),
            Looked::At(place) => Ok(Ok(place)),
            Looked::Nowhere => Err(AmqpError::not_found(Named {
                kind: "delayed message",
                name: id,
                vhost: &self.name,
            })),
        }
    }
}

/// The broker's name for a message: 16 hexadecimal digits.
pub(super) fn name_of(place: Seq) -> String {
    format!("{:016x}", place.0)
}

fn shown(entry: &DelayedMessage, with_body: bool) -> Value {
    let mut shown = json!({ "id": name_of(entry.place), "due": date(entry.due) });
    let (Some(message), Some(fields)) = (&entry.message, shown.as_object_mut()) else {
        return shown;
    };
    let id = message.properties().message_id;
    let id = id.map(|id| String::from_utf8_lossy(&id).into_owned());
    fields.insert("exchange".into(), message.exchange().into());
    fields.insert("routing_key".into(), message.routing_key().into());
    fields.insert("message_id".into(), id.into());
    fields.insert("persistent".into(), message.is_persistent().into());
    fields.insert("payload_bytes".into(), message.body_len().into());
    if with_body {
        let body = message.body();
        let body = body.get(..BODY_SHOWN_MAX).unwrap_or(body);
        let text = String::from_utf8_lossy(body).into_owned();
        fields.insert("payload".into(), text.into());
    }
    shown
}

/// RFC 3339, in UTC.
fn date(at: Wall) -> String {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
    format!("{at:.3}")
}
