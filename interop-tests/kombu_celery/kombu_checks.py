"""Behaviour checks through kombu as applications use it. Arguments select checks by the start of their names.

kombu hides most of AMQP, so that only some of the checks of ../checks.txt have a meaning here.
"""

import pathlib
import socket
import sys
import time

import amqp.exceptions
import kombu
from kombu.mixins import ConsumerProducerMixin
from kombu.pools import producers
from kombu.utils.limits import TokenBucket

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "common"))
sys.argv[0] = "kombu"  # names the queues of this run
from interop import PATIENCE_S, URL, Checks, Reply, Wrong, expect, name, names_used  # noqa: E402

check = Checks()


def connect(url=URL, **kwargs):
    return kombu.Connection(url, transport_options={"confirm_publish": True}, connect_timeout=PATIENCE_S, **kwargs)


def reply_of(function, *args, **kwargs):
    """Calls `function`, which must make the broker close the channel or the connection."""
    try:
        function(*args, **kwargs)
    except amqp.exceptions.AMQPError as error:
        # A refused login has the class of a channel error.
        channel_only = isinstance(error, amqp.exceptions.ChannelError) and error.method_sig != (0, 0)
        level = "channel" if channel_only else "connection"
        return Reply(level, error.reply_code, error.reply_text)
    raise Wrong("expected an error got none")


def queue(conn, short, exchange=None, **kwargs):
    kwargs.setdefault("exclusive", True)
    kwargs.setdefault("durable", False)
    bound = kombu.Queue(name(short), exchange, channel=conn, **kwargs)
    bound.declare()
    return bound


def publish(conn, q, *bodies, **kwargs):
    producer = conn.Producer()
    for body in bodies:
        producer.publish(body, routing_key=q.name, **kwargs)


class Inbox:
    """A consumer that keeps its messages."""

    def __init__(self, conn, q, prefetch=None, **kwargs):
        self.conn, self.messages = conn, []
        self.consumer = conn.Consumer(q, on_message=self.messages.append, prefetch_count=prefetch, **kwargs)
        self.consumer.consume()

    def wait(self, count):
        deadline = time.monotonic() + PATIENCE_S
        while len(self.messages) < count:
            try:
                self.conn.drain_events(timeout=max(deadline - time.monotonic(), 0.01))
            except socket.timeout:
                raise Wrong(f"expected {count} messages within {PATIENCE_S} s got {len(self.messages)}") from None
        return self.messages[:count]

    def nothing_more(self, count):
        """A round trip would have brought further deliveries along."""
        self.consumer.channel.queue_declare(self.consumer.queues[0].name, passive=True)
        try:
            while True:
                self.conn.drain_events(timeout=0.05)
        except socket.timeout:
            expect(count, len(self.messages), "messages")


@check("connection.open")
def _(conn):
    capabilities = conn.connection.server_properties["capabilities"]
    expect((True, True), (capabilities["consumer_cancel_notify"], capabilities["connection.blocked"]))
    expect(True, conn.connected)


@check("connection.auth_refused")
def _(conn):
    return reply_of(connect(URL.replace("guest:guest@", "guest:wrong@")).connect)


@check("connection.vhost_missing")
def _(conn):
    return reply_of(connect(virtual_host="missing").connect)


@check("connection.heartbeat")
def _(conn):
    # With heartbeats of 1 s the broker ends a connection that is silent for 2 s; this one is not.
    with connect(heartbeat=1) as beating:
        beating.connect()
        end = time.monotonic() + 3.5
        while time.monotonic() < end:
            beating.heartbeat_check(rate=2)
            try:
                beating.drain_events(timeout=0.25)
            except socket.timeout:
                pass  # nothing to do but to beat
        queue(beating, "q-heartbeat")


@check("exchange.declare")
def _(conn):
    for kind in ("direct", "fanout", "topic", "headers"):
        x = kombu.Exchange(name(f"x-{kind}"), kind, durable=False, auto_delete=True, channel=conn)
        x.declare()
        x.declare()
        x.delete()


@check("exchange.passive_missing")
def _(conn):
    return reply_of(kombu.Exchange(name("missing"), channel=conn, passive=True).declare)


@check("exchange.inequivalent_type")
def _(conn):
    kombu.Exchange(name("x-type"), "direct", durable=False, auto_delete=True, channel=conn).declare()
    return reply_of(kombu.Exchange(name("x-type"), "fanout", durable=False, auto_delete=True, channel=conn).declare)


@check("exchange.unknown_type")
def _(conn):
    return reply_of(kombu.Exchange(name("x-unknown"), "no-such-type", channel=conn).declare)


@check("queue.passive_missing")
def _(conn):
    return reply_of(kombu.Queue(name("missing"), channel=conn).queue_declare, passive=True)


@check("queue.inequivalent_argument")
def _(conn):
    queue(conn, "q-arguments", max_length=10)
    return reply_of(queue, conn, "q-arguments", max_length=20)


@check("queue.exclusive_locked")
def _(conn):
    q = queue(conn, "q-exclusive")
    with connect() as other:
        return reply_of(q(other.channel()).consume)


@check("queue.delete_missing")
def _(conn):
    expect(0, kombu.Queue(name("missing"), channel=conn).delete(), "messages")


@check("queue.purge")
def _(conn):
    q = queue(conn, "q-purge")
    publish(conn, q, 1, 2)
    expect(2, q.purge(), "purged")


@check("publish.confirm_many")
def _(conn):
    q = queue(conn, "q-confirmed")
    with producers[conn].acquire(block=True) as producer:
        for n in range(200):
            producer.publish({"n": n}, routing_key=q.name, retry=True)
    inbox = Inbox(conn, q, no_ack=True)
    expect([{"n": n} for n in range(200)], [m.payload for m in inbox.wait(200)])


@check("publish.mandatory")
def _(conn):
    returned = []
    producer = conn.Producer(on_return=lambda error, x, key, message: returned.append((error.reply_code, key)))
    producer.publish("m", routing_key=name("nowhere"), mandatory=True)  # returns at the confirm
    expect([(312, name("nowhere"))], returned)


@check("publish.missing_exchange")
def _(conn):
    x = kombu.Exchange(name("missing"), no_declare=True)
    return reply_of(conn.Producer(exchange=x, auto_declare=False).publish, "m", routing_key="key")


@check("publish.properties")
def _(conn):
    q = queue(conn, "q-properties")
    headers = {"id": "1", "retries": 0, "timelimit": [None, 2.5], "nested": {"a": [1, {"b": True}]}}
    publish(conn, q, {"ü": 1}, serializer="json", compression="zlib", headers={**headers}, priority=3, correlation_id="c",
            reply_to="r", expiration=60, delivery_mode="transient")
    message = q.get()
    expect({"ü": 1}, message.payload)
    expect((3, "c", "r", "60000", 1), tuple(message.properties[p] for p in (
        "priority", "correlation_id", "reply_to", "expiration", "delivery_mode")))
    expect(headers, {k: v for k, v in message.headers.items() if k != "compression"})
    message.ack()


@check("consume.ack")
def _(conn):
    q = queue(conn, "q-ack")
    publish(conn, q, "a", "b", "c")
    inbox = Inbox(conn, q)
    expect(["a", "b", "c"], [m.payload for m in inbox.wait(3)])
    for message in inbox.messages:
        message.ack()
    inbox.consumer.cancel()
    expect(0, q.delete(), "left")


@check("consume.prefetch")
def _(conn):
    q = queue(conn, "q-prefetch")
    publish(conn, q, *range(12))
    inbox = Inbox(conn, q, prefetch=5)
    inbox.wait(5)
    inbox.nothing_more(5)
    for n in range(7):
        inbox.messages[n].ack()
        inbox.wait(6 + n)
    inbox.nothing_more(12)
    expect(list(range(12)), [m.payload for m in inbox.messages])


@check("consume.nack_requeue")
def _(conn):
    q = queue(conn, "q-requeue")
    publish(conn, q, "a", "b")
    q.get().requeue()
    got = [q.get(no_ack=True) for _ in range(2)]
    expect([("a", True), ("b", False)], [(m.payload, m.delivery_info["redelivered"]) for m in got])


@check("consume.reject_drop")
def _(conn):
    q = queue(conn, "q-reject")
    publish(conn, q, "a", "b")
    q.get().reject()
    expect(("b", None), (q.get(no_ack=True).payload, q.get()))


@check("consume.cancel_notify")
def _(conn):
    # kombu raises when the broker cancels a consumer; Celery starts over when it sees that.
    q = queue(conn, "q-cancelled", exclusive=False, auto_delete=True)
    inbox = Inbox(conn, q)
    try:
        kombu.Queue(q.name, channel=conn.channel()).delete()
        conn.drain_events(timeout=PATIENCE_S)
    except amqp.exceptions.ConsumerCancelled as error:
        expect(inbox.consumer._active_tags[q.name], error.reply_text)
    else:
        raise Wrong("expected ConsumerCancelled got none")


@check("queue.delete_with_consumer")
def _(conn):
    # delete-ok comes before the basic.cancel for this channel's own consumer: kombu fails at the cancel.
    q = queue(conn, "q-consumed")
    Inbox(conn, q)
    expect(0, q.delete(), "left")


@check("route.fanout")
def _(conn):
    x = kombu.Exchange(name("x-fanout"), "fanout", durable=False, auto_delete=True)
    queues = [queue(conn, f"q-fanout-{n}", x) for n in range(3)]
    conn.Producer().publish("m", exchange=x, declare=[x])
    expect(["m"] * 3, [q.get(no_ack=True).payload for q in queues])


@check("route.topic")
def _(conn):
    x = kombu.Exchange(name("x-topic"), "topic", durable=False, auto_delete=True)
    q = queue(conn, "q-topic", x, routing_key="celeryev.task.*")
    for key in ("celeryev.task.sent", "celeryev.worker.online"):
        conn.Producer().publish(key, exchange=x, routing_key=key)
    expect(("celeryev.task.sent", None), (q.get(no_ack=True).payload, q.get()))


@check("simple_queue")
def _(conn):
    with conn.SimpleQueue(name("q-simple"), accept=["pickle"]) as simple:
        simple.put({"hello": "world"}, serializer="pickle", compression="bzip2")
        message = simple.get(timeout=PATIENCE_S)
        expect({"hello": "world"}, message.payload)
        message.ack()
        expect(0, simple.qsize(), "left")


@check("reconnect.channel")
def _(conn):
    q = queue(conn, "q-lives", exclusive=False, auto_delete=False)
    expect(404, reply_of(kombu.Queue(name("missing"), channel=conn.channel()).queue_declare, passive=True).code)
    publish(conn, q, "m")
    expect("m", q(conn.channel()).get(no_ack=True).payload)


class Upper(ConsumerProducerMixin):
    """A worker as in kombu's documentation: answers requests, survives the loss of its connection."""

    restart_limit = TokenBucket(100)

    def __init__(self, conn, q):
        self.connection, self.q, self.served, self.connections = conn, q, 0, 0

    def on_connection_revived(self):
        self.connections += 1

    def get_consumers(self, Consumer, channel):  # noqa: N803, the mixin's name
        return [Consumer(self.q, callbacks=[self.on_request], prefetch_count=1)]

    def on_request(self, body, message):
        if body == "lose the connection" and not message.delivery_info["redelivered"]:
            self.connection.default_channel.basic_qos(1024, 0, False)  # 540 at connection level
        self.producer.publish(body.upper(), routing_key=message.properties["reply_to"],
                              correlation_id=message.properties["correlation_id"], retry=True)
        message.ack()
        self.served += 1
        self.should_stop = self.served == 3


@check("reconnect.connection")
def _(conn):
    requests = queue(conn, "q-requests", exclusive=False, auto_delete=False)
    answers = queue(conn, "q-answers")
    for body in ("first", "lose the connection", "last"):
        publish(conn, requests, body, reply_to=answers.name, correlation_id="1")
    worker = Upper(connect(), requests)
    worker.run(timeout=PATIENCE_S)
    expect(["FIRST", "LOSE THE CONNECTION", "LAST"], [m.payload for m in Inbox(conn, answers, no_ack=True).wait(3)])
    expect(True, worker.connections > 0, "a reconnect")


def main():
    for check_name, function in check.selected():
        with connect() as conn:
            try:
                conn.connect()
                check.verdict(check_name, reply=function(conn))
            except Exception as error:  # every error is a verdict
                check.verdict(check_name, error=error)
    with connect() as conn:
        for left in names_used:  # deleting what is not there succeeds
            conn.default_channel.queue_delete(left)
            conn.default_channel.exchange_delete(left)
    check.finish()


main()
