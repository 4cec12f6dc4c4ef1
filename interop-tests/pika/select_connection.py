"""Behaviour checks through pika.SelectConnection. Arguments select checks by the start of their names.

The client calls back; checks are coroutines that wait for those callbacks, run by a few lines on the
client's own I/O loop.
"""

import pathlib
import sys

import pika
from pika import BasicProperties, spec
from pika.adapters.select_connection import IOLoop
from pika.exceptions import ChannelClosedByBroker

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "common"))
from interop import (  # noqa: E402
    BY_PRIORITY,
    CAPABILITIES,
    LATER,
    PATIENCE_S,
    PRIORITIES,
    REPLY_TO,
    TOPIC_KEYS,
    TOPICS,
    URL,
    Checks,
    Reply,
    Skip,
    Wrong,
    expect,
    name,
    names_used,
)

check = Checks()
loop = IOLoop()


# --- coroutines on the client's loop

class Event:
    """Something that happens once; `await` gives its value or raises its error."""

    def __init__(self):
        self.outcome, self.waiting = None, []

    def set(self, value=None, error=None):
        if self.outcome is None:
            self.outcome = (value, error)
            for wake in self.waiting:
                wake()

    def fail(self, error):
        self.set(error=error)

    def __await__(self):
        if self.outcome is None:
            yield self
        value, error = self.outcome
        if error:
            raise error
        return value


def run(coroutine):
    """Runs the loop until the coroutine ends, at most PATIENCE_S between two events it waits for."""
    result = Event()

    def step(late=False):
        nonlocal timer
        loop.remove_timeout(timer)
        timer = loop.call_later(PATIENCE_S, lambda: step(late=True))
        try:
            if late:
                event = coroutine.throw(Wrong(f"expected an event within {PATIENCE_S} s got none"))
            else:
                event = coroutine.send(None)
        except StopIteration as end:
            result.set(end.value)
        except Exception as error:  # handed to the caller of run()
            result.fail(error)
        else:
            event.waiting.append(lambda: loop.add_callback_threadsafe(step))
            return
        loop.remove_timeout(timer)
        loop.stop()

    timer = loop.call_later(PATIENCE_S, lambda: step(late=True))
    step_first = loop.call_later(0, step)
    loop.start()
    loop.remove_timeout(step_first)
    value, error = result.outcome
    if error:
        raise error
    return value


# --- the client, with events for callbacks

class Connection:
    def __init__(self, **overrides):
        parameters = pika.URLParameters(URL)
        for key, value in overrides.items():
            setattr(parameters, key, value)
        self.opened, self.closed = Event(), Event()
        self.pika = pika.SelectConnection(
            parameters, custom_ioloop=loop, on_open_callback=self.opened.set,
            on_open_error_callback=lambda _, error: self.opened.fail(error),
            on_close_callback=lambda _, reason: self.closed.set(reason))

    async def channel(self):
        await self.opened
        channel = Channel(self)
        await channel.opened
        return channel

    async def close(self):
        if self.pika.is_open:
            self.pika.close()
        if self.opened.outcome and not self.opened.outcome[1]:
            await self.closed


class Channel:
    def __init__(self, connection):
        self.connection, self.opened, self.closed, self.pending = connection, Event(), Event(), []
        self.pika = connection.pika.channel(on_open_callback=self.opened.set)
        self.pika.add_on_close_callback(self._on_close)
        self.returned, self.confirmed, self.cancelled = Inbox(), Inbox(), Inbox()
        self.pika.add_on_return_callback(lambda _, method, properties, body: self.returned.add((method, body)))
        self.pika.add_on_cancel_callback(lambda frame: self.cancelled.add(frame.method.consumer_tag))
        self.pika.add_callback(lambda _: self.pending.pop(0).set(None), [spec.Basic.GetEmpty], one_shot=False)

    def _on_close(self, _, reason):
        self.closed.set(reason)
        for event in self.pending:
            event.fail(reason)

    async def call(self, method, *args, **kwargs):
        """A method with an answer; fails when the channel closes instead."""
        event = Event()
        self.pending.append(event)
        getattr(self.pika, method)(*args, callback=event.set, **kwargs)
        frame = await event
        self.pending.remove(event)
        return frame.method

    async def get(self, q, auto_ack=False):
        """The next message as (method, properties, body), or None."""
        event = Event()
        self.pending.append(event)

        def got(_, method, properties, body):
            self.pending.remove(event)
            event.set((method, properties, body))

        self.pika.basic_get(q, got, auto_ack)
        return await event

    async def must_get(self, q):
        return await self.get(q) or await wrong(f"expected a message in {q} got none")

    async def bodies(self, q):
        """Gets what is ready, without acks."""
        found = []
        while got := await self.get(q, auto_ack=True):
            found.append(see(got[0], got[2]))
        return found

    async def queue(self, short="", **kwargs):
        """Declares an exclusive queue, server-named without `short`."""
        kwargs.setdefault("exclusive", True)
        return (await self.call("queue_declare", name(short) if short else "", **kwargs)).queue

    async def exchange(self, short, kind, **kwargs):
        kwargs.setdefault("auto_delete", True)
        await self.call("exchange_declare", name(short), kind, **kwargs)
        return name(short)

    async def bind(self, q, x, key="", **kwargs):
        await self.call("queue_bind", q, x, key, **kwargs)

    def publish(self, routing_key, *bodies, exchange="", mandatory=False, **properties):
        for body in bodies:
            self.pika.basic_publish(exchange, routing_key, body, BasicProperties(**properties), mandatory)

    async def confirms(self):
        await self.call("confirm_delivery", lambda frame: self.confirmed.add(frame.method))

    async def publish_confirmed(self, q, body):
        """For what another channel is to see: only the confirm says that the queue has it."""
        await self.confirms()
        self.publish(q, body)
        await self.confirmed.next()

    async def ready(self, q):
        return (await self.call("queue_declare", q, passive=True)).message_count

    async def consume(self, q, **kwargs):
        inbox = Inbox()
        ok = await self.call("basic_consume", q, lambda *delivery: inbox.add(delivery[1:]), **kwargs)
        inbox.tag = ok.consumer_tag
        return inbox

    async def reply(self):
        """How the broker closed the channel, or the connection with it."""
        reason = await self.closed
        level = "channel" if isinstance(reason, ChannelClosedByBroker) else "connection"
        return Reply(level, reason.reply_code, reason.reply_text)

    async def reply_of(self, coroutine):
        """The reply to what the coroutine does."""
        try:
            await coroutine
        except pika.exceptions.AMQPError:
            pass  # what closed it is the reply
        return await self.reply()

    async def expect_gone(self, q):
        expect(404, (await self.reply_of(self.ready(q))).code)


class Inbox:
    """Things that arrive, in order."""

    def __init__(self):
        self.items, self.arrived = [], Event()

    def add(self, item):
        self.items.append(item)
        self.arrived.set()
        self.arrived = Event()

    async def next(self):
        while not self.items:
            await self.arrived
        return self.items.pop(0)

    async def take(self, count):
        return [await self.next() for _ in range(count)]

    async def seen(self, count):
        return [see(method, body) for method, _, body in await self.take(count)]


async def wrong(what):
    raise Wrong(what)


def see(method, body):
    return body.decode() + (" redelivered" if method.redelivered else "")


def numbers(count):
    return [str(n) for n in range(count)]


# --- connection

@check("connection.open")
async def _(conn, ch):
    announced = conn.pika.server_capabilities
    expect([], [c for c in CAPABILITIES if not announced.get(c)], "missing capabilities")


async def refused(**overrides):
    try:
        await Connection(**overrides).opened
    except pika.exceptions.AMQPConnectionError as error:
        # The reply is what the workflow's last attempt failed of.
        text = str(error)
        code, text = text.split("(", 1)[1].split(") ", 1) if "(" in text else (0, text)
        return Reply("connection", int(code), text.rstrip("')\",;").strip("'\""))
    raise Wrong("expected an error got none")


@check("connection.auth_refused")
async def _(conn, ch):
    return await refused(credentials=pika.PlainCredentials("guest", "wrong"))


@check("connection.vhost_missing")
async def _(conn, ch):
    return await refused(virtual_host="missing")


# --- exchanges

@check("exchange.declare")
async def _(conn, ch):
    for kind in ("direct", "fanout", "topic", "headers"):
        await ch.exchange(kind, kind)
        await ch.exchange(f"{kind}-durable", kind, durable=True, auto_delete=False)
        await ch.exchange(f"{kind}-durable", kind, durable=True, auto_delete=False)
        await ch.call("exchange_delete", name(kind))
        await ch.call("exchange_delete", name(f"{kind}-durable"))


@check("exchange.passive")
async def _(conn, ch):
    await ch.exchange("x-passive", "topic", durable=True, auto_delete=False)
    await ch.call("exchange_declare", name("x-passive"), "direct", passive=True)
    await ch.call("exchange_declare", "amq.direct", passive=True)


@check("exchange.passive_missing")
async def _(conn, ch):
    return await ch.reply_of(ch.exchange("missing", "direct", passive=True))


@check("exchange.inequivalent_type")
async def _(conn, ch):
    await ch.exchange("x-type", "direct")
    return await ch.reply_of(ch.exchange("x-type", "fanout"))


@check("exchange.inequivalent_durable")
async def _(conn, ch):
    await ch.exchange("x-durability", "direct")
    return await ch.reply_of(ch.exchange("x-durability", "direct", durable=True))


@check("exchange.unknown_type")
async def _(conn, ch):
    return await ch.reply_of(ch.exchange("x-unknown", "no-such-type"))


@check("exchange.reserved_name")
async def _(conn, ch):
    return await ch.reply_of(ch.call("exchange_declare", "amq.interop", "direct"))


@check("exchange.default_declare")
async def _(conn, ch):
    return await ch.reply_of(ch.call("exchange_declare", "", "direct"))


@check("exchange.delete_in_use")
async def _(conn, ch):
    await ch.bind(await ch.queue(), await ch.exchange("x-used", "fanout"))
    return await ch.reply_of(ch.call("exchange_delete", name("x-used"), if_unused=True))


@check("exchange.delete_missing")
async def _(conn, ch):
    await ch.call("exchange_delete", name("missing"))


@check("exchange.internal_publish")
async def _(conn, ch):
    ch.publish("", "m", exchange=await ch.exchange("x-internal", "fanout", internal=True))
    return await ch.reply()


# --- queues

@check("queue.server_named")
async def _(conn, ch):
    q = await ch.queue()
    if not q.startswith("amq.gen-") or q == await ch.queue():
        raise Wrong(f"expected amq.gen-... and another one each time got {q}")


@check("queue.last_declared")
async def _(conn, ch):
    x, q = await ch.exchange("x-last", "direct"), await ch.queue()
    await ch.bind("", x)  # with the queue's name as routing key too
    ch.publish(q, "m", exchange=x)
    expect(["m"], await (await ch.consume("", auto_ack=True)).seen(1))


@check("queue.passive")
async def _(conn, ch):
    q = await ch.queue()
    ch.publish(q, "a", "b", "c")
    await ch.must_get(q)
    found = await (await conn.channel()).call("queue_declare", q, passive=True)
    expect((q, 2, 0), (found.queue, found.message_count, found.consumer_count), "name, ready, consumers")
    await ch.consume(q)
    expect(1, (await ch.call("queue_declare", q, passive=True)).consumer_count, "consumers")


@check("queue.passive_missing")
async def _(conn, ch):
    return await ch.reply_of(ch.ready(name("missing")))


@check("queue.inequivalent_durable")
async def _(conn, ch):
    await ch.queue("q-durability", exclusive=False, auto_delete=True)
    return await ch.reply_of(ch.queue("q-durability", exclusive=False, auto_delete=True, durable=True))


@check("queue.inequivalent_argument")
async def _(conn, ch):
    await ch.queue("q-arguments", arguments={"x-max-length": 10})
    return await ch.reply_of(ch.queue("q-arguments", arguments={"x-max-length": 20}))


@check("queue.invalid_argument")
async def _(conn, ch):
    return await ch.reply_of(ch.queue("q-invalid", arguments={"x-message-ttl": -1}))


@check("queue.reserved_name")
async def _(conn, ch):
    return await ch.reply_of(ch.call("queue_declare", "amq.interop", exclusive=True))


@check("queue.exclusive_locked")
async def _(conn, ch):
    q = await ch.queue("q-exclusive")
    other = await Connection().channel()
    reply = await other.reply_of(other.consume(q))
    await other.connection.close()
    return reply


@check("queue.exclusive_gone")
async def _(conn, ch):
    other = await Connection().channel()
    q = await other.queue()
    await other.connection.close()
    await ch.expect_gone(q)


@check("queue.auto_delete")
async def _(conn, ch):
    q = await ch.queue("q-auto", exclusive=False, auto_delete=True)
    first, second = await ch.consume(q), await ch.consume(q)
    await ch.call("basic_cancel", first.tag)
    expect(0, await ch.ready(q), "ready with one consumer left")
    await ch.call("basic_cancel", second.tag)
    await ch.expect_gone(q)


@check("queue.delete_not_empty")
async def _(conn, ch):
    q = await ch.queue("q-full")
    ch.publish(q, "m")
    return await ch.reply_of(ch.call("queue_delete", q, if_empty=True))


@check("queue.delete_in_use")
async def _(conn, ch):
    q = await ch.queue("q-used")
    await ch.consume(q)
    return await ch.reply_of(ch.call("queue_delete", q, if_unused=True))


@check("queue.delete_missing")
async def _(conn, ch):
    expect(0, (await ch.call("queue_delete", name("missing"))).message_count, "messages")


@check("queue.purge")
async def _(conn, ch):
    q = await ch.queue()
    ch.publish(q, "a", "b", "c")
    tag = (await ch.must_get(q))[0].delivery_tag
    expect(2, (await ch.call("queue_purge", q)).message_count, "purged")
    ch.pika.basic_nack(tag)
    expect(["a redelivered"], await ch.bodies(q), "left")


@check("queue.priority")
async def _(conn, ch):
    q = await ch.queue(arguments={"x-max-priority": 5})
    for body, priority in PRIORITIES:
        ch.publish(q, body, priority=priority)
    expect(BY_PRIORITY, await ch.bodies(q))


@check("queue.bind_missing")
async def _(conn, ch):
    return await ch.reply_of(ch.bind(await ch.queue(), name("missing"), "key"))


@check("queue.default_bind")
async def _(conn, ch):
    return await ch.reply_of(ch.bind(await ch.queue(), "", "key"))


# --- publishing

@check("publish.confirm_one")
async def _(conn, ch):
    q = await ch.queue()
    await ch.confirms()
    ch.publish(q, "m")
    ack = await ch.confirmed.next()
    expect((spec.Basic.Ack, 1), (type(ack), ack.delivery_tag))
    expect(1, await ch.ready(q), "ready")


@check("publish.confirm_many")
async def _(conn, ch):
    q = await ch.queue()
    await ch.confirms()
    ch.publish(q, *numbers(500))
    waiting = set(range(1, 501))
    while waiting:
        ack = await ch.confirmed.next()
        confirmed = {t for t in waiting if t <= ack.delivery_tag} if ack.multiple else {ack.delivery_tag}
        expect((spec.Basic.Ack, True), (type(ack), bool(confirmed) and confirmed <= waiting), "an ack of waiting tags")
        waiting -= confirmed
    expect(numbers(500), await ch.bodies(q))


@check("publish.mandatory")
async def _(conn, ch):
    events = ch.returned = ch.confirmed
    await ch.confirms()
    ch.publish(await ch.queue(), "routed", mandatory=True)
    routed = await events.next()
    ch.publish(name("nowhere"), "m", mandatory=True)
    (returned, body), ack = await events.take(2)
    expect((spec.Basic.Ack, 1, spec.Basic.Ack, 2), (type(routed), routed.delivery_tag, type(ack), ack.delivery_tag))
    expect((312, "NO_ROUTE", "", name("nowhere"), b"m"),
           (returned.reply_code, returned.reply_text, returned.exchange, returned.routing_key, body))


@check("publish.missing_exchange")
async def _(conn, ch):
    ch.publish("key", "m", exchange=name("missing"))
    return await ch.reply()


@check("publish.immediate")
async def _(conn, ch):
    raise Skip("pika has no immediate")


@check("publish.user_id")
async def _(conn, ch):
    q = await ch.queue()
    await ch.confirms()
    ch.publish(q, "m", user_id="guest")
    await ch.confirmed.next()
    ch.publish(q, "m", user_id="someone")
    return await ch.reply()


@check("publish.expiration")
async def _(conn, ch):
    ch.publish(await ch.queue(), "m", expiration="soon")
    return await ch.reply()


@check("publish.properties")
async def _(conn, ch):
    q = await ch.queue()
    sent = {"content_type": "text/plain", "headers": {"n": 1, "list": ["a", {"b": None}]}, "delivery_mode": 2,
            "priority": 9, "correlation_id": "c", "reply_to": "r", "expiration": "60000", "message_id": "id",
            "timestamp": 1_700_000_000, "type": "t", "user_id": "guest", "app_id": "app", "cluster_id": "cluster"}
    ch.publish(q, "m", **sent)
    ch.publish(q, "bare")
    expect(vars(BasicProperties(**sent)), vars((await ch.must_get(q))[1]))
    expect(vars(BasicProperties()), vars((await ch.must_get(q))[1]))


@check("publish.sizes")
async def _(conn, ch):
    q = await ch.queue()
    one_frame = conn.pika.params.frame_max - 8
    for size in (0, 1, one_frame - 1, one_frame, one_frame + 1, 1 << 20):
        body = bytes(n % 251 for n in range(size))
        ch.publish(q, body)
        if (await ch.must_get(q))[2] != body:
            raise Wrong(f"expected {size} bytes unchanged got others")


# --- consuming

@check("consume.ack")
async def _(conn, ch):
    q = await ch.queue()
    ch.publish(q, "a", "b", "c")
    inbox = await ch.consume(q)
    for body in ("a", "b", "c"):
        method, _, got = await inbox.next()
        expect((inbox.tag, body, "", q), (method.consumer_tag, see(method, got), method.exchange, method.routing_key))
        ch.pika.basic_ack(method.delivery_tag)
    expect(0, (await ch.call("queue_delete", q)).message_count, "left")


@check("consume.prefetch")
async def _(conn, ch):
    q = await ch.queue()
    ch.publish(q, *numbers(20))
    await ch.call("basic_qos", prefetch_count=5)
    inbox = await ch.consume(q)
    held = await inbox.take(5)
    expect((15, 0), (await ch.ready(q), len(inbox.items)), "ready, delivered beyond")
    for n in range(20):
        expect(str(n), held[n][2].decode())
        ch.pika.basic_ack(held[n][0].delivery_tag)
        if n + 5 < 20:
            held.append(await inbox.next())
        expect((max(14 - n, 0), 0), (await ch.ready(q), len(inbox.items)), "ready, delivered beyond")


@check("consume.prefetch_channel")
async def _(conn, ch):
    q = await ch.queue()
    ch.publish(q, *numbers(20))
    await ch.call("basic_qos", prefetch_count=5, global_qos=True)
    inbox = Inbox()
    for _ in range(2):
        await ch.call("basic_consume", q, lambda *delivery: inbox.add(delivery[1:]))
    for left in (15, 10):
        held = await inbox.take(5)
        expect((left, 0), (await ch.ready(q), len(inbox.items)), "ready, delivered beyond")
        ch.pika.basic_ack(held[-1][0].delivery_tag, multiple=True)
    await ch.call("basic_qos", prefetch_count=8, global_qos=True)
    await inbox.take(8)
    expect((2, 0), (await ch.ready(q), len(inbox.items)), "ready, delivered beyond")


async def returns_to_its_place(ch, settle):
    q = await ch.queue()
    ch.publish(q, "a", "b", "c")
    first, second = await ch.must_get(q), await ch.must_get(q)
    settle(second[0].delivery_tag, requeue=True)
    settle(first[0].delivery_tag, requeue=True)
    expect(["a redelivered", "b redelivered", "c"], await ch.bodies(q))


@check("consume.nack_requeue")
async def _(conn, ch):
    await returns_to_its_place(ch, ch.pika.basic_nack)


@check("consume.reject_requeue")
async def _(conn, ch):
    await returns_to_its_place(ch, ch.pika.basic_reject)


@check("consume.reject_drop")
async def _(conn, ch):
    q = await ch.queue()
    ch.publish(q, "a", "b")
    ch.pika.basic_reject((await ch.must_get(q))[0].delivery_tag, requeue=False)
    expect(["b"], await ch.bodies(q))


@check("consume.nack_multiple")
async def _(conn, ch):
    q = await ch.queue()
    ch.publish(q, "a", "b", "c", "d")
    tags = [(await ch.must_get(q))[0].delivery_tag for _ in range(3)]
    ch.pika.basic_nack(tags[1], multiple=True, requeue=True)
    expect(["a redelivered", "b redelivered", "d"], await ch.bodies(q))


@check("consume.channel_close_requeues")
async def _(conn, ch):
    q, other = await ch.queue(), await conn.channel()
    ch.publish(q, "a", "b")
    await (await other.consume(q)).take(2)
    other.pika.close()
    await other.closed
    expect(["a redelivered", "b redelivered"], await ch.bodies(q))


@check("consume.recover")
async def _(conn, ch):
    q = await ch.queue()
    ch.publish(q, "a", "b")
    inbox = await ch.consume(q)
    expect(["a", "b"], await inbox.seen(2))
    await ch.call("basic_recover", requeue=True)
    expect(["a redelivered", "b redelivered"], await inbox.seen(2))


@check("consume.unknown_tag")
async def _(conn, ch):
    ch.pika.basic_ack(99)
    return await ch.reply()


@check("consume.duplicate_tag")
async def _(conn, ch):
    raise Skip("pika refuses it itself")


@check("consume.exclusive")
async def _(conn, ch):
    q, other = await ch.queue("q-exclusive-consumer"), await conn.channel()
    await ch.consume(q, exclusive=True)
    return await other.reply_of(other.consume(q))


@check("consume.missing_queue")
async def _(conn, ch):
    return await ch.reply_of(ch.consume(name("missing")))


@check("consume.cancel")
async def _(conn, ch):
    q = await ch.queue()
    ch.publish(q, "a", "b", "c")
    await ch.call("basic_qos", prefetch_count=1)
    inbox = await ch.consume(q)
    first = await inbox.next()
    await ch.call("basic_cancel", inbox.tag)
    ch.pika.basic_ack(first[0].delivery_tag)
    expect((2, 0), (await ch.ready(q), len(inbox.items)), "ready, delivered beyond")


@check("consume.cancel_notify")
async def _(conn, ch):
    q = await ch.queue()
    inbox = await ch.consume(q)
    await (await conn.channel()).call("queue_delete", q)
    expect(inbox.tag, await ch.cancelled.next())


@check("consume.priority")
async def _(conn, ch):
    q = await ch.queue()
    low = await ch.consume(q, auto_ack=True)
    high = await ch.consume(q, auto_ack=True, arguments={"x-priority": 10})
    ch.publish(q, "a", "b", "c")
    expect(["a", "b", "c"], await high.seen(3))
    expect([], low.items, "with the lower priority")


@check("qos.prefetch_size")
async def _(conn, ch):
    return await ch.reply_of(ch.call("basic_qos", prefetch_size=1024))


@check("get.message")
async def _(conn, ch):
    q = await ch.queue()
    ch.publish(q, "a", "b", "c")
    method, _, body = await ch.must_get(q)
    expect(("a", 2, "", q), (see(method, body), method.message_count, method.exchange, method.routing_key))


@check("get.empty")
async def _(conn, ch):
    expect(None, await ch.get(await ch.queue()))


# --- transactions

@check("tx.commit")
async def _(conn, ch):
    q, other = await ch.queue(), await conn.channel()
    await ch.call("tx_select")
    ch.publish(q, "a", "b")
    expect(0, await other.ready(q), "ready before commit")
    await ch.call("tx_commit")
    expect(["a", "b"], await other.bodies(q))


@check("tx.rollback")
async def _(conn, ch):
    q, other = await ch.queue(), await conn.channel()
    await other.publish_confirmed(q, "kept")
    await ch.call("tx_select")
    ch.publish(q, "dropped")
    ch.pika.basic_ack((await ch.must_get(q))[0].delivery_tag)
    await ch.call("tx_rollback")
    expect(0, await other.ready(q), "ready after rollback")
    ch.pika.close()
    await ch.closed
    expect(["kept redelivered"], await other.bodies(q))


@check("tx.not_selected")
async def _(conn, ch):
    return await ch.reply_of(ch.call("tx_commit"))


@check("tx.on_confirm_channel")
async def _(conn, ch):
    await ch.confirms()
    return await ch.reply_of(ch.call("tx_select"))


# --- routing

@check("route.default")
async def _(conn, ch):
    q = await ch.queue("q-routed")
    ch.publish(q, "m")
    expect(["m"], await ch.bodies(q))


@check("route.direct")
async def _(conn, ch):
    x, one, two = await ch.exchange("x-direct", "direct"), await ch.queue(), await ch.queue()
    for q, key in ((one, "red"), (one, "green"), (two, "green")):
        await ch.bind(q, x, key)
    for key in ("red", "green", "blue"):
        ch.publish(key, key, exchange=x)
    expect((["red", "green"], ["green"]), (await ch.bodies(one), await ch.bodies(two)))
    await ch.call("queue_unbind", one, x, "red")
    ch.publish("red", "red", exchange=x)
    expect([], await ch.bodies(one), "after unbind")


@check("route.fanout")
async def _(conn, ch):
    x, queues = await ch.exchange("x-fanout", "fanout"), [await ch.queue() for _ in range(3)]
    for q in queues:
        await ch.bind(q, x, "ignored")
    ch.publish("any", "m", exchange=x)
    expect([["m"]] * 3, [await ch.bodies(q) for q in queues])


@check("route.topic")
async def _(conn, ch):
    x = await ch.exchange("x-topic", "topic")
    queues = {pattern: await ch.queue() for pattern in TOPICS}
    for pattern, q in queues.items():
        await ch.bind(q, x, pattern)
    for key in TOPIC_KEYS:
        ch.publish(key, key, exchange=x)
    expect(TOPICS, {pattern: await ch.bodies(q) for pattern, q in queues.items()})


@check("route.headers")
async def _(conn, ch):
    x, every, some = await ch.exchange("x-headers", "headers"), await ch.queue(), await ch.queue()
    await ch.bind(every, x, arguments={"x-match": "all", "format": "pdf", "pages": 1})
    await ch.bind(some, x, arguments={"x-match": "any", "format": "pdf", "pages": 1})
    for body, headers in (("both", {"format": "pdf", "pages": 1}), ("one", {"format": "pdf", "pages": 2}),
                          ("none", {"format": "ps"})):
        ch.publish("", body, exchange=x, headers=headers)
    expect((["both"], ["both", "one"]), (await ch.bodies(every), await ch.bodies(some)))


@check("route.e2e")
async def _(conn, ch):
    source, target = await ch.exchange("x-source", "topic"), await ch.exchange("x-target", "fanout")
    q = await ch.queue()
    await ch.bind(q, target)
    await ch.call("exchange_bind", target, source, "a.*")
    ch.publish("a.b", "through", exchange=source)
    ch.publish("b.b", "past", exchange=source)
    expect(["through"], await ch.bodies(q))
    await ch.call("exchange_unbind", target, source, "a.*")


@check("route.alternate")
async def _(conn, ch):
    alternate, q, bound = await ch.exchange("x-alternate", "fanout"), await ch.queue(), await ch.queue()
    x = await ch.exchange("x-with-alternate", "direct", arguments={"alternate-exchange": alternate})
    await ch.bind(q, alternate)
    await ch.bind(bound, x, "bound")
    ch.publish("bound", "bound", exchange=x)
    ch.publish("other", "other", exchange=x)
    expect((["bound"], ["other"]), (await ch.bodies(bound), await ch.bodies(q)))


@check("route.cc_bcc")
async def _(conn, ch):
    one, two, three = await ch.queue(), await ch.queue(), await ch.queue()
    ch.publish(one, "m", headers={"CC": [two], "BCC": [three, one]})
    for q in (one, two, three):
        expect({"CC": [two]}, (await ch.must_get(q))[1].headers)
    expect(0, await ch.ready(one), "second copies")


# --- request and reply

@check("rpc.direct_reply_to")
async def _(conn, ch):
    q, server = await ch.queue(), await conn.channel()
    requests = await server.consume(q, auto_ack=True)
    answers = await ch.consume(REPLY_TO, auto_ack=True)
    ch.publish(q, "ping", reply_to=REPLY_TO, correlation_id="1")
    _, asked, body = await requests.next()
    server.publish(asked.reply_to, body.upper(), correlation_id=asked.correlation_id)
    _, answered, body = await answers.next()
    expect((b"PING", "1"), (body, answered.correlation_id))


@check("rpc.no_consumer")
async def _(conn, ch):
    ch.publish(await ch.queue(), "m", reply_to=REPLY_TO)
    return await ch.reply()


@check("rpc.needs_no_ack")
async def _(conn, ch):
    return await ch.reply_of(ch.consume(REPLY_TO))


# --- delayed messages and schedules: headers alone, which this client carries as others do

for later in LATER:
    @check(later)
    async def _(conn, ch):
        raise Skip("made through pika.BlockingConnection")


# --- going on after errors

@check("reconnect.channel")
async def _(conn, ch):
    q, broken = await ch.queue(), await conn.channel()
    await broken.expect_gone(name("missing"))
    await ch.publish_confirmed(q, "the other channel lives")
    expect(["the other channel lives"], await (await conn.channel()).bodies(q))


@check("reconnect.connection")
async def _(conn, ch):
    expect("connection", (await ch.reply_of(ch.call("basic_qos", prefetch_size=1))).level)
    await conn.closed
    again = await Connection().channel()
    q = await again.queue()
    again.publish(q, "m")
    expect(["m"], await again.bodies(q))
    await again.connection.close()


async def run_check(function):
    conn = Connection()
    try:
        return await function(conn, await conn.channel())
    finally:
        await conn.close()


async def clean_up():
    """Deletes what checks left behind; deleting what is not there succeeds."""
    ch = await Connection().channel()
    for left in names_used:
        await ch.call("queue_delete", left)
        await ch.call("exchange_delete", left)
    await ch.connection.close()


def main():
    for check_name, function in check.selected():
        try:
            check.verdict(check_name, reply=run(run_check(function)))
        except Exception as error:  # every error is a verdict
            check.verdict(check_name, error=error)
    run(clean_up())
    check.finish()


main()
