//! What clients do wrong on purpose.

use leveret_codec::{
    BasicAck, BasicConsume, BasicGet, BasicPublish, BasicQos, BasicRecover, ChannelFlow,
    ChannelOpen, ConfirmSelect, ExchangeDeclare, ExchangeDelete, Method, QueueBind, QueueDeclare,
    TxCommit, TxSelect,
};

use crate::client::{Client, Mode, Phase, Sent};
use crate::workload::{World, short};

impl Client {
    /// Something the core closes the channel for.
    pub(crate) fn channel_error(&mut self, number: u16, world: &mut World<'_>) {
        let mode = self.channels.get(&number).map(|channel| channel.mode);
        let method: Method<'static> = match world.dice.below(9) {
            0 => BasicAck {
                delivery_tag: 1 << 40,
                multiple: world.dice.chance(50),
            }
            .into(),
            1 => BasicConsume {
                queue: short("no such queue"),
                consumer_tag: short("lost"),
                ..BasicConsume::default()
            }
            .into(),
            2 => BasicGet {
                queue: short("no such queue"),
                ..BasicGet::default()
            }
            .into(),
            3 => QueueDeclare {
                queue: short("amq.mine"),
                ..QueueDeclare::default()
            }
            .into(),
            4 => ExchangeDeclare {
                exchange: short("x9"),
                kind: short("x-strange"),
                ..ExchangeDeclare::default()
            }
            .into(),
            5 => ExchangeDelete {
                exchange: short("amq.topic"),
                ..ExchangeDelete::default()
            }
            .into(),
            6 => QueueBind {
                queue: short(&world.plan.queue(world.dice).name),
                exchange: short(""),
                ..QueueBind::default()
            }
            .into(),
            7 if mode == Some(Mode::Confirm) => TxSelect {}.into(),
            7 if mode == Some(Mode::Tx) => ConfirmSelect { no_wait: false }.into(),
            _ if mode != Some(Mode::Tx) => TxCommit {}.into(),
            _ => return,
        };
        self.say(number, method);
    }

    /// Something the core or the session closes the connection for.
    pub(crate) fn connection_error(&mut self, world: &mut World<'_>) {
        let open = self.channels.iter().find(|(_, channel)| !channel.closing);
        let Some((&number, _)) = open else {
            return;
        };
        match world.dice.below(7) {
            0 => self.say(
                number,
                BasicQos {
                    prefetch_size: 1,
                    ..BasicQos::default()
                },
            ),
            1 => self.say(number, BasicRecover { requeue: false }),
            2 => self.say(number, ChannelOpen::default()),
            3 => self.say(number, ChannelFlow { active: false }),
            4 => {
                let method = BasicPublish {
                    immediate: true,
                    ..BasicPublish::default()
                };
                self.say_as(number, &method.into(), Some(Sent::Fatal(number, 540)));
            }
            5 => {
                let method = BasicGet::default().into();
                self.say_as(77, &method, Some(Sent::Fatal(77, 504)));
            }
            _ => {
                let octets = b"\x01\x00\x00\x00\x00\x00\x00?".to_vec();
                self.enqueue(0, octets, Some(Sent::Fatal(0, 501)));
            }
        }
        self.phase = Phase::Leaving;
    }
}
