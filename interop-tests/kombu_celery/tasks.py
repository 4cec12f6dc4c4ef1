"""The Celery application of celery_checks.py; the worker imports it."""

import os
import time

import celery

app = celery.Celery("tasks", broker=os.environ["AMQP_URL"], backend="rpc://")
app.conf.update(
    task_default_queue=os.environ.get("INTEROP_QUEUE", "interop.celery"),
    result_expires=60,
    worker_send_task_events=True,
    task_send_sent_event=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True},
)


@app.task
def add(x, y):
    return x + y


@app.task(bind=True, max_retries=3)
def flaky(self, fail_times):
    """Fails so many times, then says how often it was tried."""
    if self.request.retries < fail_times:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task
def broken(text):
    raise ValueError(text)


@app.task
def clock():
    return time.time()


@app.task(bind=True, acks_late=True)
def survive(self, marker):
    """Sleeps until its worker is killed the first time; answers when it is delivered again."""
    if not self.request.delivery_info["redelivered"]:
        open(marker, "w").close()
        time.sleep(60)
    return "redelivered"
