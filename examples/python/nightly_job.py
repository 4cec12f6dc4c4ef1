"""A job every night at three o'clock in Berlin, winter and summer. The broker keeps the schedule, not this program."""

import json
import os

import pika

REPLY_TO = "amq.rabbitmq.reply-to"

connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")))
channel = connection.channel()
channel.queue_declare("jobs", durable=True)


def order(body=b"", **headers):
    """Publishes an order to the scheduler and returns its answer."""
    headers = {f"x-schedule-{name.replace('_', '-')}": value for name, value in headers.items()}
    answers = channel.consume(REPLY_TO, auto_ack=True)
    next_answer = channel.consume(REPLY_TO, auto_ack=True, inactivity_timeout=0)
    next(next_answer)  # the consumer is there before the order
    properties = pika.BasicProperties(delivery_mode=2, reply_to=REPLY_TO, headers=headers)
    channel.basic_publish("amq.schedule", "", body, properties)
    _, _, answer = next(answers)
    channel.cancel()
    return json.loads(answer)


made = order(b"rebuild the report", name="nightly-report", cron="0 3 * * *", timezone="Europe/Berlin", routing_key="jobs")
print("the next nights:", *made["next"], sep="\n  ")

order(name="nightly-report", action="run-now")  # nobody wants to wait until three
for method, properties, body in channel.consume("jobs"):
    print(f"{body.decode()}: {properties.message_id}")
    channel.basic_ack(method.delivery_tag)
    break
channel.cancel()
order(name="nightly-report", action="delete")
connection.close()
