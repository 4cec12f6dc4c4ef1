"""Sends e-mails. What could not be sent the queue delivers again after 1, 2 and 4 seconds, and then gives up."""

import os

import pika

ARGUMENTS = {
    "x-retry-delay": 1_000,  # and twice as long each time
    "x-delivery-limit": 3,  # 4 attempts
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": "emails.failed",
}

connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")))
channel = connection.channel()
channel.queue_declare("emails", durable=True, arguments=ARGUMENTS)
channel.queue_declare("emails.failed", durable=True)


def send(email, attempt):
    """Stands for a mail server that is down for a while."""
    if email == b"to nobody" or attempt < 3:
        raise OSError("connection refused")


def on_email(channel, method, properties, email):
    attempt = 1 + (properties.headers or {}).get("x-delivery-count", 0)
    try:
        send(email, attempt)
    except OSError as error:
        print(f"{email.decode()}: attempt {attempt}: {error}")
        channel.basic_reject(method.delivery_tag, requeue=True)
    else:
        print(f"{email.decode()}: sent at attempt {attempt}")
        channel.basic_ack(method.delivery_tag)


def on_failed(channel, method, properties, email):
    print(f"{email.decode()}: given up")
    channel.basic_ack(method.delivery_tag)
    channel.stop_consuming()  # the last one of this example


for email in ("to ada", "to nobody"):
    channel.basic_publish("", "emails", email, pika.BasicProperties(delivery_mode=2))
channel.basic_qos(prefetch_count=10)
channel.basic_consume("emails", on_email)
channel.basic_consume("emails.failed", on_failed)
channel.start_consuming()
connection.close()
