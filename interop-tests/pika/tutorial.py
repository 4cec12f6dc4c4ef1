"""The work-queue program every pika user has: publish to the default exchange, consume with acks.

Talks to localhost:5672; AMQP_URL, when set, names another broker. Ends after the last message.
"""

import os

import pika

MESSAGES = [f"task {n}{'.' * n}" for n in range(10)]

parameters = pika.ConnectionParameters('localhost')
if "AMQP_URL" in os.environ:
    parameters = pika.URLParameters(os.environ["AMQP_URL"])

connection = pika.BlockingConnection(parameters)
channel = connection.channel()
channel.queue_declare(queue='task_queue', durable=True)

for message in MESSAGES:
    channel.basic_publish(
        exchange='',
        routing_key='task_queue',
        body=message,
        properties=pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent),
    )
    print(f" [x] Sent {message}")

done = []


def callback(ch, method, properties, body):
    print(f" [x] Received {body.decode()}")
    done.append(body.decode())
    ch.basic_ack(delivery_tag=method.delivery_tag)
    if len(done) == len(MESSAGES):
        ch.stop_consuming()


channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue='task_queue', on_message_callback=callback)
connection.call_later(30, lambda: os._exit(1))
channel.start_consuming()

assert done == MESSAGES, f"expected {MESSAGES}, got {done}"
left = channel.queue_delete(queue='task_queue').method.message_count
assert left == 0, f"expected an empty queue, got {left} messages"
connection.close()
print("ok tutorial")
