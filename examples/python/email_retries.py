"""Sends e-mails, and tries again later and later what could not be sent: after 1, 2 and 4 seconds here."""

import os

import pika

ATTEMPTS = 4
FIRST_DELAY_MS = 1_000

connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")))
channel = connection.channel()
channel.confirm_delivery()  # what is put off is on disk before the delivery is acknowledged
channel.queue_declare("emails", durable=True)
channel.queue_declare("emails.failed", durable=True)


def send(email, attempt):
    """Stands for a mail server that is down for a while."""
    if email == b"to nobody" or attempt < 3:
        raise OSError("connection refused")


def on_email(channel, method, properties, email):
    attempt = (properties.headers or {}).get("attempt", 1)
    try:
        send(email, attempt)
        print(f"{email.decode()}: sent at attempt {attempt}")
    except OSError as error:
        print(f"{email.decode()}: attempt {attempt}: {error}")
        if attempt < ATTEMPTS:
            headers = {"attempt": attempt + 1, "x-deliver-after": FIRST_DELAY_MS * 2 ** (attempt - 1)}
            channel.basic_publish("", "emails", email, pika.BasicProperties(delivery_mode=2, headers=headers))
        else:
            channel.basic_publish("", "emails.failed", email, pika.BasicProperties(delivery_mode=2))
    channel.basic_ack(method.delivery_tag)
    if email == b"to nobody" and attempt == ATTEMPTS:
        channel.stop_consuming()  # the last one of this example


for email in ("to ada", "to nobody"):
    channel.basic_publish("", "emails", email, pika.BasicProperties(delivery_mode=2))
channel.basic_qos(prefetch_count=10)
channel.basic_consume("emails", on_email)
channel.start_consuming()
connection.close()
