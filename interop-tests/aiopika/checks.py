"""Behaviour checks through aio-pika. Arguments select checks by the start of their names."""

import asyncio
import logging
import pathlib
import sys

import aio_pika
import aiormq.channel
import aiormq.connection
from aio_pika import DeliveryMode, ExchangeType, Message
from aiormq.exceptions import AMQPError, ChannelClosed, ConnectionClosed, PublishError

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "common"))
sys.argv[0] = "aiopika"  # names the queues of this run
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
# The client has a class for most reply codes and keeps the code itself only for the others.
CODES = {error: code for module in (aiormq.channel, aiormq.connection)
         for code, error in module.EXCEPTION_MAPPING.items()}


async def connect(url=URL):
    return await aio_pika.connect(url, timeout=PATIENCE_S)


def reply_from(error):
    level = "channel" if isinstance(error, ChannelClosed) else "connection"
    code = CODES.get(type(error)) or error.args[0]
    return Reply(level, code, error.args[-1])


async def reply_of(awaitable):
    """The reply to something that makes the broker close the channel or the connection."""
    try:
        await asyncio.wait_for(awaitable, PATIENCE_S)
    except (ChannelClosed, ConnectionClosed) as error:
        return reply_from(error)
    raise Wrong("expected an error got none")


async def queue(ch, short="", **kwargs):
    """Declares an exclusive queue, server-named without `short`."""
    kwargs.setdefault("exclusive", True)
    return await ch.declare_queue(name(short) if short else "", **kwargs)


async def exchange(ch, short, kind, **kwargs):
    kwargs.setdefault("auto_delete", True)
    return await ch.declare_exchange(name(short), kind, **kwargs)


async def publish(ch, key, *bodies, to="", mandatory=False, immediate=False, **properties):
    """Publishes and, on the channels of this client, waits for the confirms."""
    x = await ch.get_exchange(to, ensure=False)
    for body in bodies:
        await x.publish(Message(body.encode(), **properties), key, mandatory=mandatory, immediate=immediate)


async def ready(ch, q):
    return (await ch.declare_queue(q.name, passive=True)).declaration_result.message_count


def see(message):
    return message.body.decode() + (" redelivered" if message.redelivered else "")


async def bodies(q):
    """Gets what is ready, without acks."""
    found = []
    while message := await q.get(no_ack=True, fail=False):
        found.append(see(message))
    return found


async def within(awaitable):
    return await asyncio.wait_for(awaitable, PATIENCE_S)


class Inbox:
    """A consumer that keeps its deliveries."""

    @classmethod
    async def on(cls, q, **kwargs):
        self = cls()
        self.messages = asyncio.Queue()
        self.tag = await q.consume(self.messages.put, **kwargs)
        return self

    async def take(self, count):
        return [await within(self.messages.get()) for _ in range(count)]

    async def seen(self, count):
        return [see(message) for message in await self.take(count)]


def numbers(count):
    return [str(n) for n in range(count)]


# --- connection

@check("connection.open")
async def _(conn, ch):
    announced = conn.transport.connection.server_properties["capabilities"]
    expect([], [c for c in CAPABILITIES if not announced.get(c)], "missing capabilities")


@check("connection.auth_refused")
async def _(conn, ch):
    try:
        await connect(URL.replace("guest:guest@", "guest:wrong@"))
    except aio_pika.exceptions.ProbableAuthenticationError as error:
        return Reply("connection", 403, error.args[-1])
    raise Wrong("expected an error got none")


@check("connection.vhost_missing")
async def _(conn, ch):
    try:
        await connect(f"{URL.rpartition('/')[0]}/missing")
    except aio_pika.exceptions.InvalidFrameError as error:
        # The client does not read the reply; that the broker sent connection.close is all it tells.
        expect(True, "got <Connection.Close" in str(error))
    else:
        raise Wrong("expected an error got none")


# --- exchanges

@check("exchange.declare")
async def _(conn, ch):
    for kind in (ExchangeType.DIRECT, ExchangeType.FANOUT, ExchangeType.TOPIC, ExchangeType.HEADERS):
        await (await exchange(ch, "x-any", kind)).delete()
        for _ in range(2):
            durable = await exchange(ch, "x-any-durable", kind, durable=True, auto_delete=False)
        await durable.delete()


@check("exchange.passive")
async def _(conn, ch):
    await exchange(ch, "x-passive", "topic", durable=True, auto_delete=False)
    await ch.get_exchange(name("x-passive"))
    await ch.get_exchange("amq.direct")


@check("exchange.passive_missing")
async def _(conn, ch):
    return await reply_of(ch.get_exchange(name("missing")))


@check("exchange.inequivalent_type")
async def _(conn, ch):
    await exchange(ch, "x-type", "direct")
    return await reply_of(exchange(ch, "x-type", "fanout"))


@check("exchange.inequivalent_durable")
async def _(conn, ch):
    await exchange(ch, "x-durability", "direct")
    return await reply_of(exchange(ch, "x-durability", "direct", durable=True))


@check("exchange.unknown_type")
async def _(conn, ch):
    return await reply_of(exchange(ch, "x-unknown", "no-such-type"))


@check("exchange.reserved_name")
async def _(conn, ch):
    underlay = await ch.get_underlay_channel()
    return await reply_of(underlay.exchange_declare("amq.interop"))


@check("exchange.default_declare")
async def _(conn, ch):
    underlay = await ch.get_underlay_channel()
    return await reply_of(underlay.exchange_declare(""))


@check("exchange.delete_in_use")
async def _(conn, ch):
    x = await exchange(ch, "x-used", "fanout")
    await (await queue(ch)).bind(x)
    return await reply_of(x.delete(if_unused=True))


@check("exchange.delete_missing")
async def _(conn, ch):
    await ch.exchange_delete(name("missing"))


@check("exchange.internal_publish")
async def _(conn, ch):
    await exchange(ch, "x-internal", "fanout", internal=True)
    return await reply_of(publish(ch, "", "m", to=name("x-internal")))


# --- queues

@check("queue.server_named")
async def _(conn, ch):
    q = await queue(ch)
    if not q.name.startswith("amq.gen-") or q.name == (await queue(ch)).name:
        raise Wrong(f"expected amq.gen-... and another one each time got {q.name}")


@check("queue.last_declared")
async def _(conn, ch):
    x, q = await exchange(ch, "x-last", "direct"), await queue(ch)
    last = await ch.get_queue("", ensure=False)
    await last.bind(x, routing_key="")  # with the queue's name as routing key too
    await publish(ch, q.name, "m", to=x.name)
    expect(["m"], await (await Inbox.on(last, no_ack=True)).seen(1))


@check("queue.passive")
async def _(conn, ch):
    q = await queue(ch)
    await publish(ch, q.name, "a", "b", "c")
    await q.get()
    found = (await (await conn.channel()).get_queue(q.name)).declaration_result
    expect((q.name, 2, 0), (found.queue, found.message_count, found.consumer_count), "name, ready, consumers")
    await Inbox.on(q)
    expect(1, (await ch.get_queue(q.name)).declaration_result.consumer_count, "consumers")


@check("queue.passive_missing")
async def _(conn, ch):
    return await reply_of(ch.get_queue(name("missing")))


@check("queue.inequivalent_durable")
async def _(conn, ch):
    await queue(ch, "q-durability", exclusive=False, auto_delete=True)
    return await reply_of(queue(ch, "q-durability", exclusive=False, auto_delete=True, durable=True))


@check("queue.inequivalent_argument")
async def _(conn, ch):
    await queue(ch, "q-arguments", arguments={"x-max-length": 10})
    return await reply_of(queue(ch, "q-arguments", arguments={"x-max-length": 20}))


@check("queue.invalid_argument")
async def _(conn, ch):
    return await reply_of(queue(ch, "q-invalid", arguments={"x-message-ttl": -1}))


@check("queue.reserved_name")
async def _(conn, ch):
    return await reply_of(ch.declare_queue("amq.interop", exclusive=True))


@check("queue.exclusive_locked")
async def _(conn, ch):
    await queue(ch, "q-exclusive")
    async with await connect() as other:
        q = await (await other.channel()).get_queue(name("q-exclusive"), ensure=False)
        return await reply_of(Inbox.on(q))


@check("queue.exclusive_gone")
async def _(conn, ch):
    async with await connect() as other:
        q = await queue(await other.channel())
    expect(404, (await reply_of(ch.get_queue(q.name))).code)


@check("queue.auto_delete")
async def _(conn, ch):
    q = await queue(ch, "q-auto", exclusive=False, auto_delete=True)
    first, second = await Inbox.on(q), await Inbox.on(q)
    await q.cancel(first.tag)
    expect(0, await ready(ch, q), "ready with one consumer left")
    await q.cancel(second.tag)
    expect(404, (await reply_of(ch.get_queue(q.name))).code)


@check("queue.delete_not_empty")
async def _(conn, ch):
    q = await queue(ch, "q-full")
    await publish(ch, q.name, "m")
    return await reply_of(q.delete(if_unused=False, if_empty=True))


@check("queue.delete_in_use")
async def _(conn, ch):
    q = await queue(ch, "q-used")
    await Inbox.on(q)
    return await reply_of(q.delete(if_unused=True, if_empty=False))


@check("queue.delete_missing")
async def _(conn, ch):
    expect(0, (await ch.queue_delete(name("missing"))).message_count, "messages")


@check("queue.purge")
async def _(conn, ch):
    q = await queue(ch)
    await publish(ch, q.name, "a", "b", "c")
    first = await q.get()
    expect(2, (await q.purge()).message_count, "purged")
    await first.nack()
    expect(["a redelivered"], await bodies(q), "left")


@check("queue.priority")
async def _(conn, ch):
    q = await queue(ch, arguments={"x-max-priority": 5})
    for body, priority in PRIORITIES:
        await publish(ch, q.name, body, priority=priority)
    expect(BY_PRIORITY, await bodies(q))


@check("queue.bind_missing")
async def _(conn, ch):
    return await reply_of((await queue(ch)).bind(name("missing"), "key"))


@check("queue.default_bind")
async def _(conn, ch):
    return await reply_of((await queue(ch)).bind("", "key"))


# --- publishing

@check("publish.confirm_one")
async def _(conn, ch):
    q = await queue(ch)
    ack = await ch.default_exchange.publish(Message(b"m"), q.name)
    expect((aiormq.spec.Basic.Ack, 1), (type(ack), ack.delivery_tag))
    expect(1, await ready(ch, q), "ready")


@check("publish.confirm_many")
async def _(conn, ch):
    q = await queue(ch)
    publishes = [ch.default_exchange.publish(Message(body.encode()), q.name) for body in numbers(500)]
    acks = await within(asyncio.gather(*publishes))
    expect({aiormq.spec.Basic.Ack}, {type(ack) for ack in acks})
    expect(numbers(500), await bodies(q))


@check("publish.mandatory")
async def _(conn, ch):
    raising = await conn.channel(on_return_raises=True)
    await publish(raising, (await queue(ch)).name, "routed", mandatory=True)
    try:
        await publish(raising, name("nowhere"), "m", mandatory=True)
    except PublishError as error:  # the client raises it when the ack comes after the return
        returned = error.message.delivery
        expect((312, "NO_ROUTE", "", name("nowhere"), b"m"),
               (returned.reply_code, returned.reply_text, returned.exchange, returned.routing_key, error.message.body))
    else:
        raise Wrong("expected a return got none")


@check("publish.missing_exchange")
async def _(conn, ch):
    return await reply_of(publish(ch, "key", "m", to=name("missing")))


@check("publish.immediate")
async def _(conn, ch):
    return await reply_of(publish(ch, (await queue(ch)).name, "m", immediate=True))


@check("publish.user_id")
async def _(conn, ch):
    q = await queue(ch)
    await publish(ch, q.name, "m", user_id="guest")
    return await reply_of(publish(ch, q.name, "m", user_id="someone"))


@check("publish.expiration")
async def _(conn, ch):
    # Message takes numbers only.
    underlay, q = await ch.get_underlay_channel(), await queue(ch)
    properties = aiormq.spec.Basic.Properties(expiration="soon")
    return await reply_of(underlay.basic_publish(b"m", routing_key=q.name, properties=properties))


@check("publish.properties")
async def _(conn, ch):
    q = await queue(ch)
    sent = Message(
        b"m", content_type="text/plain", content_encoding="utf-8", delivery_mode=DeliveryMode.PERSISTENT, priority=9,
        correlation_id="c", reply_to="r", expiration=60, message_id="id", timestamp=1_700_000_000, type="t",
        user_id="guest", app_id="app",
        headers={"string": "ü", "int": -5, "big": 2**40, "float": 0.25, "true": True, "none": None,
                 "bytes": bytearray(b"\xff\0"), "table": {"nested": {"deep": 1}}, "list": [1, "two", [3]]})
    await ch.default_exchange.publish(sent, q.name)
    expect(dict(sent.properties), dict((await q.get()).properties))


@check("publish.sizes")
async def _(conn, ch):
    q = await queue(ch)
    one_frame = conn.transport.connection.connection_tune.frame_max - 8
    for size in (0, 1, one_frame - 1, one_frame, one_frame + 1, 1 << 20):
        body = bytes(n % 251 for n in range(size))
        await ch.default_exchange.publish(Message(body), q.name)
        if (await q.get()).body != body:
            raise Wrong(f"expected {size} bytes unchanged got others")


# --- consuming

@check("consume.ack")
async def _(conn, ch):
    q = await queue(ch)
    await publish(ch, q.name, "a", "b", "c")
    found = []
    async with q.iterator(timeout=PATIENCE_S) as messages:
        async for message in messages:
            async with message.process():  # acks at the end
                expect(("", q.name), (message.exchange, message.routing_key))
                found.append(see(message))
            if len(found) == 3:
                break
    expect(["a", "b", "c"], found)
    expect(0, (await q.delete(if_unused=False, if_empty=False)).message_count, "left")


@check("consume.prefetch")
async def _(conn, ch):
    q = await queue(ch)
    await publish(ch, q.name, *numbers(20))
    await ch.set_qos(prefetch_count=5)
    inbox = await Inbox.on(q)
    held = await inbox.take(5)
    expect((15, 0), (await ready(ch, q), inbox.messages.qsize()), "ready, delivered beyond")
    for n in range(20):
        expect(str(n), see(held[n]))
        await held[n].ack()
        if n + 5 < 20:
            held += await inbox.take(1)
        expect((max(14 - n, 0), 0), (await ready(ch, q), inbox.messages.qsize()), "ready, delivered beyond")


@check("consume.prefetch_channel")
async def _(conn, ch):
    q = await queue(ch)
    await publish(ch, q.name, *numbers(20))
    await ch.set_qos(prefetch_count=5, global_=True)
    inbox = await Inbox.on(q)
    await q.consume(inbox.messages.put)
    for left in (15, 10):
        held = await inbox.take(5)
        expect((left, 0), (await ready(ch, q), inbox.messages.qsize()), "ready, delivered beyond")
        await held[-1].ack(multiple=True)
    await ch.set_qos(prefetch_count=8, global_=True)
    await inbox.take(8)
    expect((2, 0), (await ready(ch, q), inbox.messages.qsize()), "ready, delivered beyond")


async def returns_to_its_place(ch, settle):
    q = await queue(ch)
    await publish(ch, q.name, "a", "b", "c")
    first, second = await q.get(), await q.get()
    await settle(second)
    await settle(first)
    expect(["a redelivered", "b redelivered", "c"], await bodies(q))


@check("consume.nack_requeue")
async def _(conn, ch):
    await returns_to_its_place(ch, lambda message: message.nack(requeue=True))


@check("consume.reject_requeue")
async def _(conn, ch):
    await returns_to_its_place(ch, lambda message: message.reject(requeue=True))


@check("consume.reject_drop")
async def _(conn, ch):
    q = await queue(ch)
    await publish(ch, q.name, "a", "b")
    await (await q.get()).reject()
    expect(["b"], await bodies(q))


@check("consume.nack_multiple")
async def _(conn, ch):
    q = await queue(ch)
    await publish(ch, q.name, "a", "b", "c", "d")
    held = [await q.get() for _ in range(3)]
    await held[1].nack(multiple=True)
    expect(["a redelivered", "b redelivered", "d"], await bodies(q))


@check("consume.channel_close_requeues")
async def _(conn, ch):
    q, other = await queue(ch), await conn.channel()
    await publish(ch, q.name, "a", "b")
    await (await Inbox.on(await other.get_queue(q.name))).take(2)
    await other.close()
    expect(["a redelivered", "b redelivered"], await bodies(q))


@check("consume.recover")
async def _(conn, ch):
    q = await queue(ch)
    await publish(ch, q.name, "a", "b")
    inbox = await Inbox.on(q)
    expect(["a", "b"], await inbox.seen(2))
    await (await ch.get_underlay_channel()).basic_recover(requeue=True)
    expect(["a redelivered", "b redelivered"], await inbox.seen(2))


@check("consume.unknown_tag")
async def _(conn, ch):
    underlay = await ch.get_underlay_channel()
    await underlay.basic_ack(99)
    return await reply_of(underlay.closing)


@check("consume.duplicate_tag")
async def _(conn, ch):
    raise Skip("aio-pika refuses it itself")


@check("consume.exclusive")
async def _(conn, ch):
    await Inbox.on(await queue(ch, "q-exclusive-consumer"), exclusive=True)
    same = await (await conn.channel()).get_queue(name("q-exclusive-consumer"))
    return await reply_of(Inbox.on(same))


@check("consume.missing_queue")
async def _(conn, ch):
    return await reply_of(Inbox.on(await ch.get_queue(name("missing"), ensure=False)))


@check("consume.cancel")
async def _(conn, ch):
    q = await queue(ch)
    await publish(ch, q.name, "a", "b", "c")
    await ch.set_qos(prefetch_count=1)
    inbox = await Inbox.on(q)
    (first,) = await inbox.take(1)
    await q.cancel(inbox.tag)
    await first.ack()
    expect((2, 0), (await ready(ch, q), inbox.messages.qsize()), "ready, delivered beyond")


@check("consume.cancel_notify")
async def _(conn, ch):
    q = await queue(ch)
    cancelled = asyncio.Queue()
    (await ch.get_underlay_channel()).on_consumer_cancel_callbacks.add(cancelled.put_nowait)
    inbox = await Inbox.on(q)
    await (await conn.channel()).queue_delete(q.name)
    expect(inbox.tag, (await within(cancelled.get())).consumer_tag)


@check("consume.priority")
async def _(conn, ch):
    q = await queue(ch)
    low = await Inbox.on(q, no_ack=True)
    high = await Inbox.on(q, no_ack=True, arguments={"x-priority": 10})
    await publish(ch, q.name, "a", "b", "c")
    expect(["a", "b", "c"], await high.seen(3))
    expect(0, low.messages.qsize(), "with the lower priority")


@check("qos.prefetch_size")
async def _(conn, ch):
    return await reply_of(ch.set_qos(prefetch_size=1024))


@check("get.message")
async def _(conn, ch):
    q = await queue(ch)
    await publish(ch, q.name, "a", "b", "c")
    message = await q.get()
    expect(("a", 2, "", q.name), (see(message), message.message_count, message.exchange, message.routing_key))


@check("get.empty")
async def _(conn, ch):
    expect(None, await (await queue(ch)).get(fail=False))


# --- transactions

@check("tx.commit")
async def _(conn, ch):
    q, transacted = await queue(ch), await conn.channel(publisher_confirms=False)
    async with transacted.transaction():
        await publish(transacted, q.name, "a", "b")
        expect(0, await ready(ch, q), "ready before commit")
    expect(["a", "b"], await bodies(q))


@check("tx.rollback")
async def _(conn, ch):
    q, transacted = await queue(ch), await conn.channel(publisher_confirms=False)
    await publish(ch, q.name, "kept")
    tx = transacted.transaction()
    await tx.select()
    await publish(transacted, q.name, "dropped")
    await (await (await transacted.get_queue(q.name)).get()).ack()
    await tx.rollback()
    expect(0, await ready(ch, q), "ready after rollback")
    await transacted.close()
    expect(["kept redelivered"], await bodies(q))


@check("tx.not_selected")
async def _(conn, ch):
    return await reply_of((await ch.get_underlay_channel()).tx_commit())


@check("tx.on_confirm_channel")
async def _(conn, ch):
    return await reply_of((await ch.get_underlay_channel()).tx_select())


# --- routing

@check("route.default")
async def _(conn, ch):
    q = await queue(ch, "q-routed")
    await publish(ch, q.name, "m")
    expect(["m"], await bodies(q))


@check("route.direct")
async def _(conn, ch):
    x, one, two = await exchange(ch, "x-direct", "direct"), await queue(ch), await queue(ch)
    for q, key in ((one, "red"), (one, "green"), (two, "green")):
        await q.bind(x, key)
    for key in ("red", "green", "blue"):
        await publish(ch, key, key, to=x.name)
    expect((["red", "green"], ["green"]), (await bodies(one), await bodies(two)))
    await one.unbind(x, "red")
    await publish(ch, "red", "red", to=x.name)
    expect([], await bodies(one), "after unbind")


@check("route.fanout")
async def _(conn, ch):
    x, queues = await exchange(ch, "x-fanout", "fanout"), [await queue(ch) for _ in range(3)]
    for q in queues:
        await q.bind(x, "ignored")
    await publish(ch, "any", "m", to=x.name)
    expect([["m"]] * 3, [await bodies(q) for q in queues])


@check("route.topic")
async def _(conn, ch):
    x = await exchange(ch, "x-topic", "topic")
    queues = {pattern: await queue(ch) for pattern in TOPICS}
    for pattern, q in queues.items():
        await q.bind(x, pattern)
    for key in TOPIC_KEYS:
        await publish(ch, key, key, to=x.name)
    expect(TOPICS, {pattern: await bodies(q) for pattern, q in queues.items()})


@check("route.headers")
async def _(conn, ch):
    x, every, some = await exchange(ch, "x-headers", "headers"), await queue(ch), await queue(ch)
    await every.bind(x, arguments={"x-match": "all", "format": "pdf", "pages": 1})
    await some.bind(x, arguments={"x-match": "any", "format": "pdf", "pages": 1})
    for body, headers in (("both", {"format": "pdf", "pages": 1}), ("one", {"format": "pdf", "pages": 2}),
                          ("none", {"format": "ps"})):
        await publish(ch, "", body, to=x.name, headers=headers)
    expect((["both"], ["both", "one"]), (await bodies(every), await bodies(some)))


@check("route.e2e")
async def _(conn, ch):
    source, target, q = await exchange(ch, "x-source", "topic"), await exchange(ch, "x-target", "fanout"), await queue(ch)
    await q.bind(target)
    await target.bind(source, "a.*")
    await publish(ch, "a.b", "through", to=source.name)
    await publish(ch, "b.b", "past", to=source.name)
    expect(["through"], await bodies(q))
    await target.unbind(source, "a.*")


@check("route.alternate")
async def _(conn, ch):
    alternate, q, bound = await exchange(ch, "x-alternate", "fanout"), await queue(ch), await queue(ch)
    x = await exchange(ch, "x-with-alternate", "direct", arguments={"alternate-exchange": alternate.name})
    await q.bind(alternate)
    await bound.bind(x, "bound")
    await publish(ch, "bound", "bound", to=x.name)
    await publish(ch, "other", "other", to=x.name)
    expect((["bound"], ["other"]), (await bodies(bound), await bodies(q)))


@check("route.cc_bcc")
async def _(conn, ch):
    one, two, three = await queue(ch), await queue(ch), await queue(ch)
    await publish(ch, one.name, "m", headers={"CC": [two.name], "BCC": [three.name, one.name]})
    for q in (one, two, three):
        expect({"CC": [two.name]}, (await q.get()).headers)
    expect(0, await ready(ch, one), "second copies")


# --- request and reply

@check("rpc.direct_reply_to")
async def _(conn, ch):
    q, server = await queue(ch), await conn.channel()
    requests = await Inbox.on(await server.get_queue(q.name), no_ack=True)
    answers = await Inbox.on(await ch.get_queue(REPLY_TO, ensure=False), no_ack=True)
    await publish(ch, q.name, "ping", reply_to=REPLY_TO, correlation_id="1")
    (request,) = await requests.take(1)
    await publish(server, request.reply_to, request.body.decode().upper(), correlation_id=request.correlation_id)
    (answer,) = await answers.take(1)
    expect(("PING", "1"), (see(answer), answer.correlation_id))


@check("rpc.no_consumer")
async def _(conn, ch):
    return await reply_of(publish(ch, (await queue(ch)).name, "m", reply_to=REPLY_TO))


@check("rpc.needs_no_ack")
async def _(conn, ch):
    return await reply_of(Inbox.on(await ch.get_queue(REPLY_TO, ensure=False)))


# --- delayed messages and schedules: headers alone, which this client carries as others do

for later in LATER:
    @check(later)
    async def _(conn, ch):
        raise Skip("made through pika.BlockingConnection")


# --- going on after errors

@check("reconnect.channel")
async def _(conn, ch):
    q, broken = await queue(ch), await conn.channel()
    expect(404, (await reply_of(broken.get_queue(name("missing")))).code)
    await publish(ch, q.name, "the other channel lives")
    expect(["the other channel lives"], await bodies(await (await conn.channel()).get_queue(q.name)))


@check("reconnect.connection")
async def _(conn, ch):
    # By the client's own recovery: connection, channel, queue and consumer come back by themselves.
    robust = await aio_pika.connect_robust(URL, reconnect_interval=0.1)
    async with robust:
        recovered = asyncio.Event()
        robust.reconnect_callbacks.add(lambda *_: recovered.set())
        ch = await robust.channel()
        q = await queue(ch, "q-recovered")
        inbox = await Inbox.on(q, no_ack=True)
        reply = await reply_of(publish(await robust.channel(), "key", "m", immediate=True))
        expect("connection", reply.level)
        await within(recovered.wait())
        await publish(ch, q.name, "m")
        expect(["m"], await inbox.seen(1))


async def run_check(function):
    conn = await connect()
    try:
        async with asyncio.timeout(2 * PATIENCE_S):
            return await function(conn, await conn.channel())
    finally:
        await conn.close()


async def clean_up():
    """Deletes what checks left behind; deleting what is not there succeeds."""
    async with await connect() as conn:
        ch = await conn.channel()
        for left in names_used:
            await ch.queue_delete(left)
            await ch.exchange_delete(left)


async def main():
    logging.getLogger("aio_pika").setLevel(logging.CRITICAL)  # it logs the errors that the checks provoke
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    for check_name, function in check.selected():
        try:
            check.verdict(check_name, reply=await run_check(function))
        except (Exception, AMQPError) as error:  # every error is a verdict
            check.verdict(check_name, error=error)
    await clean_up()


asyncio.run(main())
check.finish()
