//! A client that speaks AMQP in octets: what it knows, what it has to say, what it hears.
//!
//! It keeps to the protocol as far as it can know (the workload makes it break it on purpose), says
//! more before it is answered, and mixes the frames of its channels. What it decides to say is in
//! `workload.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use leveret_codec::{
    ChannelCloseOk, ConnectionCloseOk, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk,
    FRAME_BODY, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD, FRAME_OVERHEAD, FieldTable,
    FieldValue, LongStr, Method, PROTOCOL_HEADER, Properties, RawTable, ShortStr, encode_body,
    encode_header, encode_heartbeat, encode_method, parse_content_header, split_frame,
};
use leveret_core::{ConnectionId, Outbound};

use crate::dice::Dice;
use crate::history::{self, History};
use crate::letters::past_of;
use crate::model::{Checked, Published, Said, Violation, body};
use crate::network::Link;
use crate::violation;

/// What a client has put on its way, as the session should see it.
#[derive(Clone, Debug, PartialEq)]
pub enum Sent {
    /// This becomes a command.
    Said(Said),
    /// A content that is too large: the session refuses the channel.
    Oversize(u16),
    /// Nobody may say this: the session refuses the connection with this code.
    Fatal(u16, u16),
}

/// How far a client has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Not connected.
    Away,
    /// Between the protocol header and `connection.open-ok`.
    Greeting,
    /// Connected.
    Open,
    /// It has closed the connection, or broken the protocol: it says nothing more.
    Leaving,
    /// It was told to go and has agreed.
    Refused,
}

/// What a client knows of one of its channels.
#[derive(Clone, Debug, Default)]
pub struct Channel {
    /// Tells it from others with the same number.
    pub id: u64,
    /// It has closed it and waits for the answer.
    pub closing: bool,
    /// Deliveries to settle.
    pub unsettled: Vec<u64>,
    /// Settled in a transaction.
    pub in_tx: Vec<u64>,
    /// Queues by consumer tags, and whether nothing is to be acknowledged; those that have ended
    /// too, as deliveries may be under way.
    pub consumers: BTreeMap<String, (String, bool)>,
    /// Tags of those that have not ended.
    pub consuming: BTreeSet<String>,
    /// Queues it has asked for, to know which answer is about which.
    pub getting: VecDeque<(String, bool)>,
    /// Consumers without a tag that it has asked for.
    pub starting: VecDeque<(String, bool)>,
    /// Queues with names from the server.
    pub queues: Vec<String>,
    /// What publishing means.
    pub mode: Mode,
    /// Publishes in confirm mode.
    pub published: u64,
    /// It waits for `basic.recover-ok`: what comes before is stale.
    pub recovering: u32,
}

/// What publishing means.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// Nothing more.
    #[default]
    Plain,
    /// It is confirmed.
    Confirm,
    /// It is done at commit.
    Tx,
}

/// A frame to be sent.
#[derive(Debug)]
struct Frame {
    octets: Vec<u8>,
    /// What is complete with it.
    sent: Option<Sent>,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    /// Its connection, if it has one.
    pub connection: Option<ConnectionId>,
    /// How far it has come.
    pub phase: Phase,
    /// By number.
    pub channels: BTreeMap<u16, Channel>,
    /// Percent of chances to read that it takes.
    pub reads: u64,
    /// What it announces to understand.
    pub understands: bool,
    /// Largest frame it asks for.
    pub frame_max: u32,
    /// Heartbeat interval it asks for, in seconds.
    pub heartbeat_s: u16,
    queues: BTreeMap<u16, VecDeque<Frame>>,
    out: VecDeque<u8>,
    inbox: Vec<u8>,
    contents: BTreeMap<u16, Content>,
    /// Tags of consumers by the numbers the core has for them.
    tags: BTreeMap<u32, String>,
}

/// A content that is not all there.
#[derive(Debug)]
struct Content {
    method: Method<'static>,
    header: Option<(u16, Vec<u8>, usize)>,
    body: Vec<u8>,
}

/// What a client has heard.
#[derive(Debug)]
pub enum Heard {
    /// A method.
    Method(u16, Method<'static>),
    /// A method with a content: property flags, properties, body.
    Content(u16, Method<'static>, u16, Vec<u8>, Vec<u8>),
    /// A heartbeat.
    Heartbeat,
}

impl Client {
    /// A client that is not connected.
    #[must_use]
    pub fn new(dice: &mut Dice, frame_max: u32, heartbeat_s: u16) -> Self {
        Self {
            connection: None,
            phase: Phase::Away,
            channels: BTreeMap::new(),
            reads: dice.one_of(&[100, 100, 60, 20, 5]),
            understands: dice.chance(75),
            frame_max,
            heartbeat_s,
            queues: BTreeMap::new(),
            out: VecDeque::new(),
            inbox: Vec::new(),
            contents: BTreeMap::new(),
            tags: BTreeMap::new(),
        }
    }

    /// Begins a connection.
    pub fn connect(&mut self, id: ConnectionId) {
        self.forget();
        self.connection = Some(id);
        self.phase = Phase::Greeting;
        self.out.extend(PROTOCOL_HEADER);
    }

    /// The connection is over.
    pub fn forget(&mut self) {
        self.connection = None;
        self.phase = Phase::Away;
        self.channels.clear();
        self.queues.clear();
        self.out.clear();
        self.inbox.clear();
        self.contents.clear();
        self.tags.clear();
    }

    /// Whether everything it had to say is on its way.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.out.is_empty() && self.queues.values().all(VecDeque::is_empty)
    }

    // ---- saying ----

    /// Says a method, which becomes a command.
    pub fn say(&mut self, channel: u16, method: impl Into<Method<'static>>) {
        let method = method.into();
        let said = match &method {
            Method::BasicAck(m) => settle(
                channel,
                m.delivery_tag,
                m.multiple,
                leveret_core::Outcome::Ack,
            ),
            Method::BasicNack(m) => {
                let outcome = leveret_core::Outcome::Nack { requeue: m.requeue };
                settle(channel, m.delivery_tag, m.multiple, outcome)
            }
            Method::BasicReject(m) => {
                let outcome = leveret_core::Outcome::Reject { requeue: m.requeue };
                settle(channel, m.delivery_tag, false, outcome)
            }
            _ => Said::Method {
                channel,
                method: method.clone(),
            },
        };
        self.say_as(channel, &method, Some(Sent::Said(said)));
    }

    /// Says a method that means something else than a command, or nothing.
    pub fn say_as(&mut self, channel: u16, method: &Method<'static>, sent: Option<Sent>) {
        let mut octets = Vec::new();
        encode_method(&mut octets, channel, method);
        self.enqueue(channel, octets, sent);
    }

    /// Says a frame.
    pub fn enqueue(&mut self, channel: u16, octets: Vec<u8>, sent: Option<Sent>) {
        let frame = Frame { octets, sent };
        self.queues.entry(channel).or_default().push_back(frame);
    }

    /// Says a message, the body in pieces as the dice say.
    pub fn say_message(
        &mut self,
        dice: &mut Dice,
        channel: u16,
        method: &Method<'static>,
        (id, published): (u64, &Published),
        sent: Sent,
    ) {
        let mut octets = Vec::new();
        encode_method(&mut octets, channel, method);
        self.enqueue(channel, octets, None);
        let (flags, raw) = &published.sent;
        let body = body(id, published.body_len);
        let mut octets = Vec::new();
        encode_header(&mut octets, channel, body.len() as u64, *flags, raw);
        let mut sent = Some(sent);
        let whole = body.is_empty() || matches!(sent, Some(Sent::Oversize(_)));
        self.enqueue(channel, octets, sent.take_if(|_| whole));
        if whole && body.is_empty() {
            return;
        }
        let max = self.frame_max as usize - FRAME_OVERHEAD;
        let mut rest = body.as_slice();
        while !rest.is_empty() {
            let piece = match dice.below(10) {
                0 => 0,
                1 | 2 => dice.below(rest.len().min(max) + 1),
                _ => rest.len().min(max),
            };
            let (now, later) = rest.split_at(piece);
            rest = later;
            let mut octets = Vec::new();
            encode_body(&mut octets, channel, now);
            let last = rest.is_empty();
            self.enqueue(channel, octets, sent.take_if(|_| last));
        }
    }

    /// Says that it is alive.
    pub fn say_heartbeat(&mut self) {
        let mut octets = Vec::new();
        encode_heartbeat(&mut octets);
        self.enqueue(0, octets, None);
    }

    /// Puts everything on its way that is in the queues, channel 0 last.
    pub fn finish_talking(&mut self, dice: &mut Dice, link: &mut Link) {
        while self.next_frame(dice, link) {}
    }

    /// Puts frames on their way as long as there is room. Returns the octets that were.
    pub fn write(&mut self, dice: &mut Dice, link: &mut Link) -> usize {
        while self.out.len() < link.up.room() && self.next_frame(dice, link) {}
        let (front, _) = self.out.as_slices();
        let written = link.up.write(front);
        self.out.drain(..written);
        written
    }

    fn next_frame(&mut self, dice: &mut Dice, link: &mut Link) -> bool {
        self.queues.retain(|_, frames| !frames.is_empty());
        let numbers: Vec<u16> = self.queues.keys().copied().filter(|&n| n != 0).collect();
        let number = dice.pick(&numbers).copied().unwrap_or(0);
        let Some(frame) = self.queues.get_mut(&number).and_then(VecDeque::pop_front) else {
            return false;
        };
        self.out.extend(&frame.octets);
        link.sent.extend(frame.sent);
        true
    }

    // ---- hearing ----

    /// Takes octets, and compares what they say with what was spoken.
    ///
    /// # Errors
    /// If that is not the same.
    pub fn read(&mut self, octets: &[u8], link: &mut Link, history: &mut History) -> Checked {
        self.inbox.extend(octets);
        loop {
            let max = self.frame_max;
            let frame = split_frame(&self.inbox, max)
                .map_err(|error| violation!("the client hears no frame: {error}"))?;
            let Some((frame, used)) = frame else {
                return Ok(());
            };
            if used > max as usize {
                return Err(violation!("a frame of {used} octets, {max} at most"));
            }
            let (kind, number, payload) = (frame.kind, frame.channel, frame.payload.to_vec());
            self.inbox.drain(..used);
            if let Some(heard) = self.assemble(kind, number, &payload)? {
                self.compare(&heard, link)?;
                self.understand(heard, history);
            }
        }
    }

    fn assemble(
        &mut self,
        kind: u8,
        number: u16,
        payload: &[u8],
    ) -> Result<Option<Heard>, Violation> {
        match kind {
            FRAME_METHOD => {
                let method = Method::parse(payload)
                    .map_err(|error| violation!("the client hears no method: {error}"))?
                    .into_owned();
                if self.contents.contains_key(&number) {
                    return Err(violation!("{} within a content", method.name()));
                }
                if !method.carries_content() {
                    return Ok(Some(Heard::Method(number, method)));
                }
                let content = Content {
                    method,
                    header: None,
                    body: Vec::new(),
                };
                self.contents.insert(number, content);
            }
            FRAME_HEADER => {
                let header = parse_content_header(payload)
                    .map_err(|error| violation!("the client hears no header: {error}"))?;
                let content = self.contents.get_mut(&number);
                let content = content.ok_or_else(|| violation!("a header without a method"))?;
                let size = usize::try_from(header.body_size).unwrap_or(usize::MAX);
                content.header = Some((header.flags, header.raw.to_vec(), size));
            }
            FRAME_BODY => {
                let content = self.contents.get_mut(&number);
                let content = content.ok_or_else(|| violation!("a body without a method"))?;
                content.body.extend(payload);
            }
            FRAME_HEARTBEAT => return Ok(Some(Heard::Heartbeat)),
            other => return Err(violation!("the client hears a frame of type {other}")),
        }
        let whole = |content: &Content| {
            let size = content.header.as_ref().map(|(_, _, size)| *size);
            size.is_some_and(|size| content.body.len() >= size)
        };
        if !self.contents.get(&number).is_some_and(whole) {
            return Ok(None);
        }
        Ok(self.contents.remove(&number).and_then(|content| {
            let (flags, raw, _) = content.header?;
            Some(Heard::Content(
                number,
                content.method,
                flags,
                raw,
                content.body,
            ))
        }))
    }

    /// What was heard has to be what was spoken next.
    fn compare(&mut self, heard: &Heard, link: &mut Link) -> Checked {
        let spoken = loop {
            match link.spoken.pop_front() {
                Some(Outbound::Consumer { number, tag }) => {
                    self.tags.insert(number, tag.to_string());
                }
                Some(spoken) => break spoken,
                None => return Err(violation!("the client hears what nobody said: {heard:?}")),
            }
        };
        if self.is_same(&spoken, heard) {
            Ok(())
        } else {
            Err(violation!("{spoken:?} was said, {heard:?} is heard"))
        }
    }

    fn is_same(&self, spoken: &Outbound, heard: &Heard) -> bool {
        let (number, method) = match heard {
            Heard::Heartbeat => return matches!(spoken, Outbound::Heartbeat),
            Heard::Method(number, method) => (*number, method),
            Heard::Content(number, method, flags, raw, body) => {
                let (Outbound::Deliver { message, .. }
                | Outbound::GetOk { message, .. }
                | Outbound::Return { message, .. }) = spoken
                else {
                    return false;
                };
                let same = message.property_flags() == *flags
                    && message.raw_properties() == raw
                    && message.body() == body;
                if !same {
                    return false;
                }
                (*number, method)
            }
        };
        match (spoken, method) {
            (
                Outbound::Deliver {
                    channel,
                    consumer,
                    redelivered,
                    delivery_tag,
                    message,
                },
                Method::BasicDeliver(m),
            ) => {
                *channel == number
                    && self
                        .tags
                        .get(consumer)
                        .is_some_and(|tag| **tag == *m.consumer_tag)
                    && (*redelivered, *delivery_tag) == (m.redelivered, m.delivery_tag)
                    && (message.exchange(), message.routing_key())
                        == (&*m.exchange, &*m.routing_key)
            }
            (
                Outbound::GetOk {
                    channel,
                    redelivered,
                    delivery_tag,
                    message_count,
                    message,
                },
                Method::BasicGetOk(m),
            ) => {
                *channel == number
                    && (*redelivered, *delivery_tag) == (m.redelivered, m.delivery_tag)
                    && *message_count == m.message_count
                    && (message.exchange(), message.routing_key())
                        == (&*m.exchange, &*m.routing_key)
            }
            (
                Outbound::Return {
                    channel,
                    code,
                    message,
                },
                Method::BasicReturn(m),
            ) => {
                *channel == number
                    && code.value() == m.reply_code
                    && (message.exchange(), message.routing_key())
                        == (&*m.exchange, &*m.routing_key)
            }
            (
                Outbound::Confirm {
                    channel,
                    delivery_tag,
                    multiple,
                },
                Method::BasicAck(m),
            ) => *channel == number && (*delivery_tag, *multiple) == (m.delivery_tag, m.multiple),
            (Outbound::CloseChannel { channel, error }, Method::ChannelClose(m)) => {
                *channel == number && error.code.value() == m.reply_code
            }
            (Outbound::CloseConnection { error }, Method::ConnectionClose(m)) => {
                number == 0 && error.code.value() == m.reply_code
            }
            (
                Outbound::Method {
                    channel,
                    method: said,
                },
                method,
            ) => *channel == number && **said == *method,
            _ => false,
        }
    }

    /// Remembers what was heard, and answers what needs an answer.
    fn understand(&mut self, heard: Heard, history: &mut History) {
        match heard {
            Heard::Heartbeat => {}
            Heard::Method(number, method) => self.understand_method(number, method, history),
            Heard::Content(number, method, flags, raw, content) => {
                let id = content.first_chunk().map(|id| u64::from_be_bytes(*id));
                let properties = Properties::parse(flags, &raw).unwrap_or_default();
                let past = past_of(properties.headers.as_ref());
                self.understand_content(number, &method, (id, past), history);
            }
        }
    }

    fn understand_method(&mut self, number: u16, method: Method<'static>, history: &mut History) {
        match method {
            Method::ConnectionStart(_) => self.log_in(),
            Method::ConnectionTune(tune) => {
                self.frame_max = self.frame_max.min(tune.frame_max);
                let ok = ConnectionTuneOk {
                    channel_max: tune.channel_max,
                    frame_max: self.frame_max,
                    heartbeat: self.heartbeat_s,
                };
                self.say_as(0, &ok.into(), None);
                let open = ConnectionOpen {
                    virtual_host: ShortStr::from_static("/"),
                    ..ConnectionOpen::default()
                };
                self.say_as(0, &open.into(), None);
            }
            Method::ConnectionOpenOk(_) => self.phase = Phase::Open,
            Method::ConnectionClose(_) => {
                self.queues.clear();
                self.phase = Phase::Refused;
                self.say_as(0, &ConnectionCloseOk {}.into(), None);
            }
            Method::ChannelClose(_) => self.channel_closed(number),
            Method::ChannelCloseOk(_) => {
                self.channels.remove(&number);
            }
            other => {
                let Some(channel) = self.channels.get_mut(&number) else {
                    return;
                };
                match other {
                    Method::BasicAck(m) => {
                        let id = channel.id;
                        history.note(history::Event::Confirmed(id, m.delivery_tag, m.multiple));
                    }
                    Method::BasicNack(m) => {
                        history.note(history::Event::Refused(channel.id, m.delivery_tag));
                    }
                    Method::BasicConsumeOk(m) => {
                        if m.consumer_tag.starts_with("amq.ctag-")
                            && let Some(consumer) = channel.starting.pop_front()
                        {
                            channel.consuming.insert(m.consumer_tag.to_string());
                            channel
                                .consumers
                                .insert(m.consumer_tag.to_string(), consumer);
                        }
                    }
                    Method::BasicCancel(m) => {
                        channel.consuming.remove(m.consumer_tag.as_str());
                    }
                    Method::BasicGetEmpty(_) => {
                        channel.getting.pop_front();
                    }
                    Method::BasicRecoverOk(_) => {
                        channel.recovering = channel.recovering.saturating_sub(1);
                    }
                    Method::QueueDeclareOk(m) if m.queue.starts_with("amq.gen-") => {
                        channel.queues.push(m.queue.to_string());
                    }
                    _ => {}
                }
            }
        }
    }

    fn understand_content(
        &mut self,
        number: u16,
        method: &Method<'static>,
        (id, past): (Option<u64>, String),
        history: &mut History,
    ) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        let (tag, redelivered, consumer) = match method {
            Method::BasicReturn(_) => {
                history.note(history::Event::Returned(channel.id, id));
                return;
            }
            Method::BasicDeliver(m) => {
                let consumer = channel.consumers.get(m.consumer_tag.as_str()).cloned();
                (m.delivery_tag, m.redelivered, consumer)
            }
            Method::BasicGetOk(m) => (m.delivery_tag, m.redelivered, channel.getting.pop_front()),
            _ => return,
        };
        let Some((queue, no_ack)) = consumer else {
            return;
        };
        // No name means the last queue declared, whichever that was.
        if !queue.is_empty() {
            history.note(history::Event::Delivered {
                channel: channel.id,
                queue,
                id,
                past,
                redelivered,
            });
        }
        if !no_ack && channel.recovering == 0 {
            channel.unsettled.push(tag);
        }
    }

    fn log_in(&mut self) {
        let mut capabilities = FieldTable::default();
        for capability in ["consumer_cancel_notify", "connection.blocked"] {
            capabilities.insert(capability, FieldValue::Bool(self.understands));
        }
        let mut properties = FieldTable::default();
        properties.insert("capabilities", FieldValue::Table(capabilities));
        let start_ok = ConnectionStartOk {
            client_properties: RawTable::from_table(&properties),
            mechanism: ShortStr::from_static("PLAIN"),
            response: LongStr::from(&b"\0guest\0guest"[..]).into_owned(),
            locale: ShortStr::from_static("en_US"),
        };
        self.say_as(0, &start_ok.into(), None);
    }

    /// The server has closed a channel: what it had not said yet is not said.
    fn channel_closed(&mut self, number: u16) {
        let unsaid = self
            .queues
            .remove(&number)
            .is_some_and(|frames| !frames.is_empty());
        if let Some(channel) = self.channels.get(&number)
            && (!channel.closing || unsaid)
        {
            self.channels.remove(&number);
        }
        self.say(number, ChannelCloseOk {});
    }
}

fn settle(channel: u16, tag: u64, multiple: bool, outcome: leveret_core::Outcome) -> Said {
    Said::Settle {
        channel,
        tag,
        multiple,
        outcome,
    }
}
