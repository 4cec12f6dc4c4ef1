"""A reminder, 3 seconds from now."""

import os
import time

import pika

connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")))
channel = connection.channel()
channel.confirm_delivery()
channel.queue_declare("reminders", durable=True)

start = time.monotonic()
properties = pika.BasicProperties(delivery_mode=2, message_id="tea-1", headers={"x-deliver-after": 3_000})
channel.basic_publish("", "reminders", "the tea is ready", properties)  # on disk when this returns

for method, _, body in channel.consume("reminders"):
    print(f"{body.decode()}, after {time.monotonic() - start:.3f} s")
    channel.basic_ack(method.delivery_tag)
    break
connection.close()
