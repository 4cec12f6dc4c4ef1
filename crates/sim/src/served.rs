//! The server's half of a connection, without a socket: session, encoder, outbox.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use leveret_core::{Capabilities, Command, Mono, Outbound};
use leveret_session::{Encoder, Session, SessionConfig, Wire};

use crate::client::Sent;
use crate::model::{Checked, Model, Said, identify};
use crate::network::Link;
use crate::violation;

/// Octets encoded before they are written.
const CHUNK: usize = 4_096;

/// One connection, as the server has it.
#[derive(Debug)]
pub struct Served {
    /// Its reading half.
    pub session: Session,
    /// What was read and not yet used.
    pub input: Vec<u8>,
    /// What waits to be written.
    pub outbox: VecDeque<Outbound>,
    /// What is being written.
    pub wire: Wire,
    /// The core knows of it.
    pub opened: bool,
    /// The core wants nothing to be read.
    pub paused: bool,
    /// What the session waits for.
    pub owes: Option<Owes>,
    /// What the client said it understands.
    pub capabilities: Capabilities,
    /// Deliveries written and not yet reported, by their cost.
    pub drained: usize,
    /// Once everything is written the socket is closed.
    pub ending: bool,
    encoder: Encoder,
    /// Cost of deliveries that are being written.
    encoded: usize,
    /// Channels that the session has refused.
    refused: BTreeSet<u16>,
}

/// What a session waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Owes {
    /// The answer to a login.
    Login,
    /// An open vhost.
    Vhost,
}

impl Served {
    /// A connection that was accepted just now.
    #[must_use]
    pub fn new(config: Arc<SessionConfig>, now: Mono) -> Self {
        Self {
            session: Session::new(config, now),
            input: Vec::new(),
            outbox: VecDeque::new(),
            wire: Wire::default(),
            opened: false,
            paused: false,
            owes: None,
            capabilities: Capabilities::default(),
            drained: 0,
            ending: false,
            encoder: Encoder::new(4_096),
            encoded: 0,
            refused: BTreeSet::new(),
        }
    }

    /// Encodes what fits and writes up to `max` octets of it. Returns how much was written.
    pub fn write(&mut self, now: Mono, max: usize, link: &mut Link) -> usize {
        self.encoder.set_frame_max(self.session.frame_max());
        while self.wire.len() < CHUNK
            && let Some(outbound) = self.outbox.pop_front()
        {
            self.encoded += outbound.delivery_cost();
            self.encoder.encode(outbound, &mut self.wire);
        }
        let mut total = 0;
        while total < max && !self.wire.is_empty() {
            let piece = self.wire.first();
            let piece = &piece[..piece.len().min(max - total)];
            let written = link.down.write(piece);
            if written == 0 {
                break;
            }
            self.wire.advance(written);
            total += written;
        }
        if total > 0 {
            self.session.note_sent(now);
        }
        if self.wire.is_empty() {
            self.drained += std::mem::take(&mut self.encoded);
        }
        total
    }

    /// Whether nothing is left to be written, and the socket is to be closed then.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.wire.is_empty() && (self.wire.close_after() || self.ending && self.outbox.is_empty())
    }

    /// What a command means to the model, if it is what the client has sent next.
    ///
    /// # Errors
    /// If it is not.
    pub fn judge(
        &mut self,
        command: &Command,
        link: &mut Link,
        model: &Model,
    ) -> Result<Said, crate::model::Violation> {
        let said = match command {
            Command::Publish {
                channel,
                mandatory,
                message,
            } => {
                let id = identify(message).unwrap_or(u64::MAX);
                let published = usize::try_from(id)
                    .ok()
                    .and_then(|at| model.published.get(at));
                let same = published.is_some_and(|published| {
                    published.sent == (message.property_flags(), message.raw_properties().to_vec())
                        && published.exchange == message.exchange()
                        && published.keys[0] == message.routing_key()
                        && crate::model::body(id, published.body_len) == message.body()
                        && published.persistent == message.is_persistent()
                });
                if !same {
                    return Err(violation!(
                        "the session has made {message:?} of message {id}"
                    ));
                }
                Said::Publish {
                    channel: *channel,
                    id,
                    mandatory: *mandatory,
                }
            }
            Command::Settle {
                channel,
                delivery_tag,
                multiple,
                outcome,
            } => Said::Settle {
                channel: *channel,
                tag: *delivery_tag,
                multiple: *multiple,
                outcome: *outcome,
            },
            Command::Method { channel, method } => Said::Method {
                channel: *channel,
                method: (**method).clone(),
            },
            Command::Refuse { channel, error } => Said::Refuse {
                channel: *channel,
                code: error.code.value(),
            },
        };
        let sent = self.next_sent(link);
        let same = match (&sent, &said) {
            (Some(Sent::Said(sent)), said) => sent == said,
            (Some(Sent::Oversize(on)), Said::Refuse { channel, code: 406 }) => {
                self.refused.insert(*channel);
                on == channel
            }
            _ => false,
        };
        if same {
            Ok(said)
        } else {
            Err(violation!(
                "the client has sent {sent:?}, the session has heard {said:?}"
            ))
        }
    }

    /// The session has refused the connection with this code.
    ///
    /// # Errors
    /// If the client has not asked for it.
    pub fn judge_refusal(&mut self, code: u16, link: &mut Link) -> Checked {
        match self.next_sent(link) {
            Some(Sent::Fatal(_, expected)) if expected == code => Ok(()),
            sent => Err(violation!(
                "the client has sent {sent:?}, the session refuses it with {code}"
            )),
        }
    }

    /// What was sent next, but for what the session drops because it has refused the channel.
    fn next_sent(&mut self, link: &mut Link) -> Option<Sent> {
        loop {
            let sent = link.sent.pop_front()?;
            let (channel, ends) = match &sent {
                Sent::Said(Said::Method { channel, method }) => {
                    let ends = matches!(method.id(), (20, 40 | 41));
                    (*channel, ends)
                }
                Sent::Said(
                    Said::Publish { channel, .. }
                    | Said::Settle { channel, .. }
                    | Said::Refuse { channel, .. },
                )
                | Sent::Oversize(channel)
                | Sent::Fatal(channel, _) => (*channel, false),
            };
            if ends {
                self.refused.remove(&channel);
            }
            if !self.refused.contains(&channel) {
                return Some(sent);
            }
        }
    }
}
