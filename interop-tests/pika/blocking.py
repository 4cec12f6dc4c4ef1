"""Behaviour checks through pika.BlockingConnection. Arguments select checks by the start of their names."""

import json
import pathlib
import re
import sys
import time
from datetime import UTC, datetime

import pika
from pika import BasicProperties
from pika.exceptions import (
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    NackError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    UnroutableError,
)

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "common"))
from interop import (  # noqa: E402
    BY_PRIORITY,
    CAPABILITIES,
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


def connect(**overrides):
    parameters = pika.URLParameters(URL)
    for key, value in overrides.items():
        setattr(parameters, key, value)
    return pika.BlockingConnection(parameters)


def reply_of(function, *args, **kwargs):
    """Calls `function`, which must make the broker close the channel or the connection."""
    try:
        function(*args, **kwargs)
    except ChannelClosedByBroker as e:
        return Reply("channel", e.reply_code, e.reply_text)
    except ConnectionClosedByBroker as e:
        return Reply("connection", e.reply_code, e.reply_text)
    except (ProbableAccessDeniedError, ProbableAuthenticationError) as e:
        # Keep the reply only as "ConnectionClosedByBroker: (403) 'ACCESS_REFUSED - ...'".
        code, text = re.fullmatch(r".*\((\d+)\) ['\"](.*)['\"]", e.args[0]).groups()
        return Reply("connection", int(code), text)
    raise Wrong("expected an error got none")


def until(connection, happened, what):
    """Serves the connection until `happened()`, at most PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        if time.monotonic() > deadline:
            raise Wrong(f"expected {what} within {PATIENCE_S} s got nothing")
        connection.process_data_events(time_limit=0.1)


def queue(ch, short="", **kwargs):
    """Declares an exclusive queue, server-named without `short`."""
    kwargs.setdefault("exclusive", True)
    return ch.queue_declare(name(short) if short else "", **kwargs).method.queue


def exchange(ch, short, kind, **kwargs):
    kwargs.setdefault("auto_delete", True)
    ch.exchange_declare(name(short), kind, **kwargs)
    return name(short)


def publish(ch, routing_key, *bodies, exchange="", **properties):
    for body in bodies:
        ch.basic_publish(exchange, routing_key, body, BasicProperties(**properties))


def ready(ch, q):
    return ch.queue_declare(q, passive=True).method.message_count


def bodies(ch, q):
    """Gets and acknowledges what is ready."""
    found = []
    while (got := ch.basic_get(q, auto_ack=True))[0]:
        found.append(got[2].decode())
    return found


class Consumer:
    """A consumer that keeps its deliveries."""

    def __init__(self, ch, q, **kwargs):
        self.ch, self.deliveries = ch, []
        self.tag = ch.basic_consume(q, lambda *delivery: self.deliveries.append(delivery), **kwargs)

    def wait(self, count):
        until(self.ch.connection, lambda: len(self.deliveries) >= count, f"{count} deliveries")
        return self.deliveries[:count]

    def bodies(self):
        return [body.decode() for _, _, _, body in self.deliveries]


# --- connection

@check("connection.open")
def _(conn, ch):
    announced = conn._impl.server_capabilities
    expect([], [c for c in CAPABILITIES if not announced.get(c)], "missing capabilities")


@check("connection.auth_refused")
def _(conn, ch):
    return reply_of(connect, credentials=pika.PlainCredentials("guest", "wrong"))


@check("connection.vhost_missing")
def _(conn, ch):
    return reply_of(connect, virtual_host="missing")


# --- exchanges

@check("exchange.declare")
def _(conn, ch):
    for kind in ("direct", "fanout", "topic", "headers"):
        exchange(ch, f"{kind}", kind)
        exchange(ch, f"{kind}-durable", kind, durable=True, auto_delete=False)
        exchange(ch, f"{kind}-durable", kind, durable=True, auto_delete=False)
        ch.exchange_delete(name(kind))
        ch.exchange_delete(name(f"{kind}-durable"))


@check("exchange.passive")
def _(conn, ch):
    exchange(ch, "x", "topic", durable=True, auto_delete=False)
    ch.exchange_declare(name("x"), "direct", passive=True)
    ch.exchange_declare("amq.direct", passive=True)
    ch.exchange_delete(name("x"))


@check("exchange.passive_missing")
def _(conn, ch):
    return reply_of(ch.exchange_declare, name("missing"), passive=True)


@check("exchange.inequivalent_type")
def _(conn, ch):
    exchange(ch, "x-type", "direct")
    return reply_of(exchange, ch, "x-type", "fanout")


@check("exchange.inequivalent_durable")
def _(conn, ch):
    exchange(ch, "x-durability", "direct")
    return reply_of(exchange, ch, "x-durability", "direct", durable=True)


@check("exchange.unknown_type")
def _(conn, ch):
    return reply_of(exchange, ch, "x-unknown", "no-such-type")


@check("exchange.reserved_name")
def _(conn, ch):
    return reply_of(ch.exchange_declare, "amq.interop", "direct")


@check("exchange.default_declare")
def _(conn, ch):
    return reply_of(ch.exchange_declare, "", "direct")


@check("exchange.delete_in_use")
def _(conn, ch):
    x, q = exchange(ch, "x-used", "fanout"), queue(ch)
    ch.queue_bind(q, x)
    return reply_of(ch.exchange_delete, x, if_unused=True)


@check("exchange.delete_missing")
def _(conn, ch):
    ch.exchange_delete(name("missing"))


@check("exchange.internal_publish")
def _(conn, ch):
    x = exchange(ch, "x-internal", "fanout", internal=True)
    ch.confirm_delivery()
    return reply_of(publish, ch, "", "m", exchange=x)


# --- queues

@check("queue.server_named")
def _(conn, ch):
    q = queue(ch)
    if not q.startswith("amq.gen-") or q == queue(ch):
        raise Wrong(f"expected amq.gen-... and another one each time got {q}")


@check("queue.last_declared")
def _(conn, ch):
    x, q = exchange(ch, "x-last", "direct"), queue(ch)
    ch.queue_bind("", x)  # with the queue's name as routing key too
    publish(ch, q, "m", exchange=x)
    consumer = Consumer(ch, "", auto_ack=True)
    consumer.wait(1)
    expect(["m"], consumer.bodies())


@check("queue.passive")
def _(conn, ch):
    q = queue(ch)
    publish(ch, q, "a", "b", "c")
    ch.basic_get(q)
    other = conn.channel()
    Consumer(ch, queue(ch, "q-consumed"))
    found = other.queue_declare(q, passive=True).method
    expect((q, 2, 0), (found.queue, found.message_count, found.consumer_count), "name, ready, consumers")
    expect(1, other.queue_declare(name("q-consumed"), passive=True).method.consumer_count, "consumers")


@check("queue.passive_missing")
def _(conn, ch):
    return reply_of(ch.queue_declare, name("missing"), passive=True)


@check("queue.inequivalent_durable")
def _(conn, ch):
    ch.queue_declare(name("q-durability"), auto_delete=True)
    return reply_of(ch.queue_declare, name("q-durability"), auto_delete=True, durable=True)


@check("queue.inequivalent_argument")
def _(conn, ch):
    queue(ch, "q-arguments", arguments={"x-max-length": 10})
    return reply_of(queue, ch, "q-arguments", arguments={"x-max-length": 20})


@check("queue.invalid_argument")
def _(conn, ch):
    return reply_of(queue, ch, "q-invalid", arguments={"x-message-ttl": -1})


@check("queue.reserved_name")
def _(conn, ch):
    return reply_of(ch.queue_declare, "amq.interop")


@check("queue.exclusive_locked")
def _(conn, ch):
    q = queue(ch, "q-exclusive")
    other = connect()
    try:
        return reply_of(other.channel().basic_consume, q, lambda *_: None)
    finally:
        other.close()


@check("queue.exclusive_gone")
def _(conn, ch):
    other = connect()
    q = queue(other.channel())
    other.close()
    expect(404, reply_of(ch.queue_declare, q, passive=True).code)


@check("queue.auto_delete")
def _(conn, ch):
    q = queue(ch, "q-auto", exclusive=False, auto_delete=True)
    expect(0, ready(ch, q), "ready before any consumer")
    first, second = Consumer(ch, q), Consumer(ch, q)
    ch.basic_cancel(first.tag)
    expect(0, ready(ch, q), "ready with one consumer left")
    ch.basic_cancel(second.tag)
    expect(404, reply_of(ch.queue_declare, q, passive=True).code)


@check("queue.delete_not_empty")
def _(conn, ch):
    q = queue(ch, "q-full")
    publish(ch, q, "m")
    return reply_of(ch.queue_delete, q, if_empty=True)


@check("queue.delete_in_use")
def _(conn, ch):
    q = queue(ch, "q-used")
    Consumer(ch, q)
    return reply_of(ch.queue_delete, q, if_unused=True)


@check("queue.delete_missing")
def _(conn, ch):
    expect(0, ch.queue_delete(name("missing")).method.message_count, "messages")


@check("queue.purge")
def _(conn, ch):
    q = queue(ch)
    publish(ch, q, "a", "b", "c")
    tag = ch.basic_get(q)[0].delivery_tag
    expect(2, ch.queue_purge(q).method.message_count, "purged")
    ch.basic_nack(tag)
    expect(["a"], bodies(ch, q), "left")


@check("queue.priority")
def _(conn, ch):
    q = queue(ch, arguments={"x-max-priority": 5})
    for body, priority in PRIORITIES:
        publish(ch, q, body, priority=priority)
    expect(BY_PRIORITY, bodies(ch, q))


@check("queue.bind_missing")
def _(conn, ch):
    return reply_of(ch.queue_bind, queue(ch), name("missing"), "key")


@check("queue.default_bind")
def _(conn, ch):
    return reply_of(ch.queue_bind, queue(ch), "", "key")


# --- publishing

@check("publish.confirm_one")
def _(conn, ch):
    q = queue(ch)
    ch.confirm_delivery()
    publish(ch, q, "m")  # returns at the ack
    expect(1, ready(ch, q), "ready")


@check("publish.confirm_many")
def _(conn, ch):
    q = queue(ch)
    ch.confirm_delivery()
    publish(ch, q, *[str(n) for n in range(500)])
    expect([str(n) for n in range(500)], bodies(ch, q))


@check("publish.mandatory")
def _(conn, ch):
    ch.confirm_delivery()
    ch.basic_publish("", queue(ch), b"routed", mandatory=True)
    try:
        ch.basic_publish("", name("nowhere"), b"m", mandatory=True)
    except NackError:
        raise Wrong("expected an ack after the return got a nack") from None
    except UnroutableError as e:  # only raised when return and ack came, in this order
        found = e.messages[0]
        expect((312, "NO_ROUTE", "", name("nowhere"), b"m"),
               (found.method.reply_code, found.method.reply_text, found.method.exchange,
                found.method.routing_key, found.body))
    else:
        raise Wrong("expected a return got none")


@check("publish.missing_exchange")
def _(conn, ch):
    ch.confirm_delivery()
    return reply_of(publish, ch, "key", "m", exchange=name("missing"))


@check("publish.immediate")
def _(conn, ch):
    raise Skip("pika has no immediate")


@check("publish.user_id")
def _(conn, ch):
    ch.confirm_delivery()
    publish(ch, queue(ch), "m", user_id="guest")
    return reply_of(publish, ch, queue(ch), "m", user_id="someone")


@check("publish.expiration")
def _(conn, ch):
    ch.confirm_delivery()
    return reply_of(publish, ch, queue(ch), "m", expiration="soon")


@check("publish.properties")
def _(conn, ch):
    q = queue(ch)
    sent = BasicProperties(
        content_type="text/plain", content_encoding="utf-8", delivery_mode=2, priority=9, correlation_id="c",
        reply_to="r", expiration="60000", message_id="id", timestamp=1_700_000_000, type="t", user_id="guest",
        app_id="app", cluster_id="cluster",
        headers={"string": "ü", "int": -5, "big": 2**40, "true": True, "none": None, "bytes": b"\xff\0",
                 "time": datetime(2024, 2, 29, 12, tzinfo=UTC), "table": {"nested": {"deep": 1}}, "list": [1, "two", [3]]})
    ch.basic_publish("", q, b"m", sent)
    ch.basic_publish("", q, b"bare")
    expect(vars(sent), vars(ch.basic_get(q)[1]))
    expect(vars(BasicProperties()), vars(ch.basic_get(q)[1]))


@check("publish.sizes")
def _(conn, ch):
    q = queue(ch)
    one_frame = conn._impl.params.frame_max - 8
    for size in (0, 1, one_frame - 1, one_frame, one_frame + 1, 1 << 20):
        body = bytes(n % 251 for n in range(size))
        ch.basic_publish("", q, body)
        if ch.basic_get(q, auto_ack=True)[2] != body:
            raise Wrong(f"expected {size} bytes unchanged got others")


# --- consuming

@check("consume.ack")
def _(conn, ch):
    q = queue(ch)
    publish(ch, q, "a", "b", "c")
    consumer = Consumer(ch, q)
    for method in [d[1] for d in consumer.wait(3)]:
        expect((consumer.tag, False, "", q), (method.consumer_tag, method.redelivered, method.exchange,
                                              method.routing_key))
        ch.basic_ack(method.delivery_tag)
    expect(["a", "b", "c"], consumer.bodies())
    expect(0, ch.queue_delete(q).method.message_count, "left")


@check("consume.prefetch")
def _(conn, ch):
    q = queue(ch)
    publish(ch, q, *[str(n) for n in range(20)])
    ch.basic_qos(prefetch_count=5)
    consumer = Consumer(ch, q)
    consumer.wait(5)
    expect((15, 5), (ready(ch, q), len(consumer.deliveries)), "ready, delivered")
    for n in range(20):
        ch.basic_ack(consumer.wait(n + 1)[n][1].delivery_tag)
        consumer.wait(min(n + 6, 20))
        expect((max(14 - n, 0), min(n + 6, 20)), (ready(ch, q), len(consumer.deliveries)), "ready, delivered")
    expect([str(n) for n in range(20)], consumer.bodies())


@check("consume.prefetch_channel")
def _(conn, ch):
    q = queue(ch)
    publish(ch, q, *[str(n) for n in range(20)])
    ch.basic_qos(prefetch_count=5, global_qos=True)
    consumers = Consumer(ch, q), Consumer(ch, q)

    def delivered():
        return sum(len(c.deliveries) for c in consumers)

    until(conn, lambda: delivered() >= 5, "5 deliveries")
    expect((15, 5), (ready(ch, q), delivered()), "ready, delivered")
    ch.basic_ack(5, multiple=True)
    until(conn, lambda: delivered() >= 10, "10 deliveries")
    expect((10, 10), (ready(ch, q), delivered()), "ready, delivered")
    ch.basic_qos(prefetch_count=8, global_qos=True)
    until(conn, lambda: delivered() >= 13, "13 deliveries")
    expect((7, 13), (ready(ch, q), delivered()), "ready, delivered")


def returns_to_its_place(ch, settle):
    q = queue(ch)
    publish(ch, q, "a", "b", "c")
    first, second = ch.basic_get(q)[0], ch.basic_get(q)[0]
    settle(second.delivery_tag)
    settle(first.delivery_tag)
    got = [ch.basic_get(q, auto_ack=True) for _ in range(3)]
    expect([(b"a", True), (b"b", True), (b"c", False)], [(body, m.redelivered) for m, _, body in got])


@check("consume.nack_requeue")
def _(conn, ch):
    returns_to_its_place(ch, lambda tag: ch.basic_nack(tag, requeue=True))


@check("consume.reject_requeue")
def _(conn, ch):
    returns_to_its_place(ch, lambda tag: ch.basic_reject(tag, requeue=True))


@check("consume.reject_drop")
def _(conn, ch):
    q = queue(ch)
    publish(ch, q, "a", "b")
    ch.basic_reject(ch.basic_get(q)[0].delivery_tag, requeue=False)
    expect(["b"], bodies(ch, q))


@check("consume.nack_multiple")
def _(conn, ch):
    q = queue(ch)
    publish(ch, q, "a", "b", "c", "d")
    tags = [ch.basic_get(q)[0].delivery_tag for _ in range(3)]
    ch.basic_nack(tags[1], multiple=True, requeue=True)
    expect(["a", "b", "d"], bodies(ch, q))


@check("consume.channel_close_requeues")
def _(conn, ch):
    q = queue(ch)
    publish(ch, q, "a", "b")
    other = conn.channel()
    Consumer(other, q).wait(2)
    other.close()
    got = [ch.basic_get(q, auto_ack=True) for _ in range(2)]
    expect([(b"a", True), (b"b", True)], [(body, m.redelivered) for m, _, body in got])


@check("consume.recover")
def _(conn, ch):
    q = queue(ch)
    publish(ch, q, "a", "b")
    consumer = Consumer(ch, q)
    consumer.wait(2)
    ch.basic_recover(requeue=True)
    redelivered = [(body, m.redelivered) for _, m, _, body in consumer.wait(4)[2:]]
    expect([(b"a", True), (b"b", True)], redelivered)


@check("consume.unknown_tag")
def _(conn, ch):
    ch.basic_ack(99)
    return reply_of(queue, ch)


@check("consume.duplicate_tag")
def _(conn, ch):
    raise Skip("pika refuses it itself")


@check("consume.exclusive")
def _(conn, ch):
    q = queue(ch, "q-exclusive-consumer")
    Consumer(ch, q, exclusive=True)
    return reply_of(Consumer, conn.channel(), q)


@check("consume.missing_queue")
def _(conn, ch):
    return reply_of(Consumer, ch, name("missing"))


@check("consume.cancel")
def _(conn, ch):
    q = queue(ch)
    publish(ch, q, "a", "b", "c")
    ch.basic_qos(prefetch_count=1)
    consumer = Consumer(ch, q)
    tag = consumer.wait(1)[0][1].delivery_tag
    # BlockingChannel.basic_cancel rejects what it has not dispatched; "a" has been.
    ch.basic_cancel(consumer.tag)
    ch.basic_ack(tag)
    expect((2, 1), (ready(ch, q), len(consumer.deliveries)), "ready, delivered")


@check("consume.cancel_notify")
def _(conn, ch):
    q = queue(ch)
    cancelled = []
    ch.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    consumer = Consumer(ch, q)
    conn.channel().queue_delete(q)
    until(conn, lambda: cancelled, "basic.cancel")
    expect([consumer.tag], cancelled)


@check("consume.priority")
def _(conn, ch):
    q = queue(ch)
    low = Consumer(ch, q)
    high = Consumer(ch, q, arguments={"x-priority": 10})
    publish(ch, q, "a", "b", "c")
    high.wait(3)
    expect([], low.bodies(), "with the lower priority")


@check("qos.prefetch_size")
def _(conn, ch):
    return reply_of(ch.basic_qos, prefetch_size=1024)


@check("get.message")
def _(conn, ch):
    q = queue(ch)
    publish(ch, q, "a", "b", "c")
    method, _, body = ch.basic_get(q)
    expect((b"a", 2, False, "", q), (body, method.message_count, method.redelivered, method.exchange,
                                     method.routing_key))


@check("get.empty")
def _(conn, ch):
    expect((None, None, None), ch.basic_get(queue(ch)))


# --- transactions

@check("tx.commit")
def _(conn, ch):
    q = queue(ch)
    other = conn.channel()
    ch.tx_select()
    publish(ch, q, "a", "b")
    expect(0, ready(other, q), "ready before commit")
    ch.tx_commit()
    expect(["a", "b"], bodies(other, q))


@check("tx.rollback")
def _(conn, ch):
    q = queue(ch)
    other = conn.channel()
    other.confirm_delivery()  # only the confirm says that other channels see it
    publish(other, q, "kept")
    ch.tx_select()
    publish(ch, q, "dropped")
    ch.basic_ack(ch.basic_get(q)[0].delivery_tag)
    ch.tx_rollback()
    expect(0, ready(other, q), "ready after rollback")
    ch.close()
    expect(["kept"], bodies(other, q))


@check("tx.not_selected")
def _(conn, ch):
    return reply_of(ch.tx_commit)


@check("tx.on_confirm_channel")
def _(conn, ch):
    ch.confirm_delivery()
    return reply_of(ch.tx_select)


# --- routing

@check("route.default")
def _(conn, ch):
    q = queue(ch, "q-routed")
    publish(ch, q, "m")
    expect(["m"], bodies(ch, q))


@check("route.direct")
def _(conn, ch):
    x, one, two = exchange(ch, "x-direct", "direct"), queue(ch), queue(ch)
    for q, key in ((one, "red"), (one, "green"), (two, "green")):
        ch.queue_bind(q, x, key)
    for key in ("red", "green", "blue"):
        publish(ch, key, key, exchange=x)
    expect((["red", "green"], ["green"]), (bodies(ch, one), bodies(ch, two)))
    ch.queue_unbind(one, x, "red")
    publish(ch, "red", "red", exchange=x)
    expect([], bodies(ch, one), "after unbind")


@check("route.fanout")
def _(conn, ch):
    x, queues = exchange(ch, "x-fanout", "fanout"), [queue(ch) for _ in range(3)]
    for q in queues:
        ch.queue_bind(q, x, "ignored")
    publish(ch, "any", "m", exchange=x)
    expect([["m"]] * 3, [bodies(ch, q) for q in queues])


@check("route.topic")
def _(conn, ch):
    x = exchange(ch, "x-topic", "topic")
    queues = {pattern: queue(ch) for pattern in TOPICS}
    for pattern, q in queues.items():
        ch.queue_bind(q, x, pattern)
    for key in TOPIC_KEYS:
        publish(ch, key, key, exchange=x)
    expect(TOPICS, {pattern: bodies(ch, q) for pattern, q in queues.items()})


@check("route.headers")
def _(conn, ch):
    x, every, some = exchange(ch, "x-headers", "headers"), queue(ch), queue(ch)
    ch.queue_bind(every, x, arguments={"x-match": "all", "format": "pdf", "pages": 1})
    ch.queue_bind(some, x, arguments={"x-match": "any", "format": "pdf", "pages": 1})
    for body, headers in (("both", {"format": "pdf", "pages": 1}), ("one", {"format": "pdf", "pages": 2}),
                          ("none", {"format": "ps"})):
        publish(ch, "", body, exchange=x, headers=headers)
    expect((["both"], ["both", "one"]), (bodies(ch, every), bodies(ch, some)))


@check("route.e2e")
def _(conn, ch):
    source, target, q = exchange(ch, "x-source", "topic"), exchange(ch, "x-target", "fanout"), queue(ch)
    ch.queue_bind(q, target)
    ch.exchange_bind(target, source, "a.*")
    publish(ch, "a.b", "through", exchange=source)
    publish(ch, "b.b", "past", exchange=source)
    expect(["through"], bodies(ch, q))
    ch.exchange_unbind(target, source, "a.*")


@check("route.alternate")
def _(conn, ch):
    alternate, q, bound = exchange(ch, "x-alternate", "fanout"), queue(ch), queue(ch)
    x = exchange(ch, "x-with-alternate", "direct", arguments={"alternate-exchange": alternate})
    ch.queue_bind(q, alternate)
    ch.queue_bind(bound, x, "bound")
    publish(ch, "bound", "bound", exchange=x)
    publish(ch, "other", "other", exchange=x)
    expect((["bound"], ["other"]), (bodies(ch, bound), bodies(ch, q)))


@check("route.cc_bcc")
def _(conn, ch):
    one, two, three = queue(ch), queue(ch), queue(ch)
    publish(ch, one, "m", headers={"CC": [two], "BCC": [three, one]})
    got = [ch.basic_get(q, auto_ack=True) for q in (one, two, three)]
    expect([(b"m", {"CC": [two]})] * 3, [(body, p.headers) for _, p, body in got])
    expect(0, ready(ch, one), "second copies")


# --- request and reply

@check("rpc.direct_reply_to")
def _(conn, ch):
    q = queue(ch)
    server = conn.channel()

    def serve(ch, method, properties, body):
        publish(ch, properties.reply_to, body.upper(), correlation_id=properties.correlation_id)

    server.basic_consume(q, serve, auto_ack=True)
    answers = Consumer(ch, REPLY_TO, auto_ack=True)
    publish(ch, q, "ping", reply_to=REPLY_TO, correlation_id="1")
    _, _, properties, body = answers.wait(1)[0]
    expect((b"PING", "1"), (body, properties.correlation_id))


@check("rpc.no_consumer")
def _(conn, ch):
    ch.confirm_delivery()
    return reply_of(publish, ch, queue(ch), "m", reply_to=REPLY_TO)


@check("rpc.needs_no_ack")
def _(conn, ch):
    return reply_of(Consumer, ch, REPLY_TO)


# --- delayed messages and schedules

def leveret_only(conn):
    product = conn._impl.server_properties["product"]
    if product != "Leveret":
        raise Skip(f"{product} has none")


def order(ch, body="", **properties):
    """An order to the scheduler; the keywords are headers without their x-schedule-."""
    headers = {f"x-schedule-{key.replace('_', '-')}": value for key, value in properties.items()}
    ch.basic_publish("amq.schedule", "", body, BasicProperties(headers=headers, reply_to=REPLY_TO))


@check("later.deliver_after")
def _(conn, ch):
    leveret_only(conn)
    q = queue(ch)
    start = time.monotonic()
    for body, delay_ms in [("third", 400), ("second", 200), ("first", 0)]:
        publish(ch, q, body, headers={"x-deliver-after": delay_ms})
    consumer = Consumer(ch, q, auto_ack=True)
    consumer.wait(3)
    expect(True, time.monotonic() - start >= 0.399, "400 ms gone by")
    expect(["first", "second", "third"], consumer.bodies())


@check("later.deliver_at")
def _(conn, ch):
    leveret_only(conn)
    q = queue(ch)
    now_ms = int(time.time() * 1000)
    text = datetime.fromtimestamp((now_ms + 200) / 1000, UTC).isoformat(timespec="milliseconds")
    publish(ch, q, "second", headers={"x-deliver-at": now_ms + 400})
    publish(ch, q, "first", headers={"x-deliver-at": text})
    consumer = Consumer(ch, q, auto_ack=True)
    consumer.wait(2)
    expect(True, time.time() * 1000 >= now_ms + 400, "400 ms gone by")
    expect(["first", "second"], consumer.bodies())


@check("later.delayed_exchange")
def _(conn, ch):
    leveret_only(conn)
    q = queue(ch)
    x = exchange(ch, "later", "x-delayed-message", arguments={"x-delayed-type": "topic"})
    ch.queue_bind(q, x, "a.*")
    for body, delay_ms in [("second", 200), ("first", 100)]:
        publish(ch, "a.b", body, exchange=x, headers={"x-delay": delay_ms})
    consumer = Consumer(ch, q, auto_ack=True)
    consumer.wait(2)
    seen = [(body.decode(), properties.headers["x-delay"]) for _, _, properties, body in consumer.deliveries]
    expect([("first", -100), ("second", -200)], seen)


@check("later.retry")
def _(conn, ch):
    leveret_only(conn)
    failed = queue(ch)
    q = queue(ch, arguments={"x-retry-delay": 100, "x-delivery-limit": 2, "x-dead-letter-exchange": "",
                             "x-dead-letter-routing-key": failed})
    start, seen = time.monotonic(), []
    publish(ch, q, "m")

    def on_message(channel, method, properties, _):
        seen.append((properties.headers or {}).get("x-delivery-count", 0))
        channel.basic_reject(method.delivery_tag, requeue=True)

    ch.basic_consume(q, on_message)
    dead = Consumer(ch, failed, auto_ack=True)
    dead.wait(1)
    expect(True, time.monotonic() - start >= 0.299, "100 and 200 ms gone by")
    expect(([0, 1, 2], ["m"]), (seen, dead.bodies()))


@check("later.schedule")
def _(conn, ch):
    leveret_only(conn)
    q, tick = queue(ch), name("tick")
    answers = Consumer(ch, REPLY_TO, auto_ack=True)
    order(ch, "tick", name=tick, cron="@every 1s", routing_key=q)
    consumer = Consumer(ch, q, auto_ack=True)
    found = [properties.headers for _, _, properties, _ in consumer.wait(2)]
    expect(["tick", "tick"], consumer.bodies()[:2])
    expect([tick, tick], [headers["x-schedule-name"] for headers in found])
    first, second = (datetime.fromisoformat(headers["x-schedule-nominal-time"]) for headers in found)
    expect(1, (second - first).total_seconds(), "seconds")
    order(ch, name=tick, action="delete")
    order(ch, action="list")
    *_, body = answers.wait(3)[-1]
    expect([], [s for s in json.loads(body)["schedules"] if s["name"] == tick], "schedules")


@check("later.list")
def _(conn, ch):
    leveret_only(conn)
    nightly = name("nightly")
    answers = Consumer(ch, REPLY_TO, auto_ack=True)
    order(ch, name=nightly, cron="0 3 * * *", timezone="Europe/Berlin", routing_key="jobs")
    order(ch, action="list")
    order(ch, name=nightly, action="delete")
    *_, body = answers.wait(3)[1]
    (found,) = (s for s in json.loads(body)["schedules"] if s["name"] == nightly)
    expect(("Europe/Berlin", "jobs"), (found["timezone"], found["routing_key"]))


@check("later.bad_cron")
def _(conn, ch):
    leveret_only(conn)
    ch.confirm_delivery()
    headers = {"x-schedule-name": name("bad"), "x-schedule-cron": "61 * * * *"}
    return reply_of(ch.basic_publish, "amq.schedule", "", b"", BasicProperties(headers=headers))


# --- going on after errors

@check("reconnect.channel")
def _(conn, ch):
    q = queue(ch)
    expect(404, reply_of(conn.channel().queue_declare, name("missing"), passive=True).code)
    ch.confirm_delivery()
    publish(ch, q, "the other channel lives")
    expect(["the other channel lives"], bodies(conn.channel(), q))


@check("reconnect.connection")
def _(conn, ch):
    expect("connection", reply_of(ch.basic_qos, prefetch_size=1).level)
    again = connect()
    ch = again.channel()
    q = queue(ch)
    publish(ch, q, "m")
    expect(["m"], bodies(ch, q))
    again.close()


def main():
    for check_name, function in check.selected():
        conn = connect()
        try:
            check.verdict(check_name, reply=function(conn, conn.channel()))
        except Exception as error:  # every error is a verdict
            check.verdict(check_name, error=error)
        finally:
            if conn.is_open:
                conn.close()
    clean_up()
    check.finish()


def clean_up():
    """Deletes what checks left behind; deleting what is not there succeeds."""
    conn = connect()
    ch = conn.channel()
    for left in names_used:
        ch.queue_delete(left)
        ch.exchange_delete(left)
    conn.close()


main()
