"""A Celery application with real worker processes: tasks, retries, ETA, events, remote control, a killed worker."""

import datetime
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "common")]
sys.argv[0] = "celery"  # names the queues of this run
from interop import PATIENCE_S, PREFIX, URL, Checks, Wrong, expect, name, names_used  # noqa: E402

os.environ["AMQP_URL"] = URL
os.environ["INTEROP_QUEUE"] = name("tasks")

import kombu  # noqa: E402
from celery import group  # noqa: E402
from tasks import add, app, broken, clock, flaky, survive  # noqa: E402

START_PATIENCE_S = 30
check = Checks()


class Worker:
    """A worker process. One process without a pool, so that SIGKILL leaves nothing behind."""

    def __init__(self, number):
        self.node = f"{PREFIX}{number}@localhost"
        self.log = tempfile.NamedTemporaryFile("w+", prefix="interop-celery-", suffix=".log")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool", "solo", "--loglevel", "INFO",
             "--hostname", self.node], cwd=HERE, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_PATIENCE_S
        while not app.control.ping(destination=[self.node], timeout=1):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise Wrong(f"expected a worker got\n{pathlib.Path(self.log.name).read_text()[-3000:]}")

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        try:
            return self.process.wait(2 * PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Wrong(f"expected the worker to stop within {2 * PATIENCE_S} s got none") from None


@check("celery.result")
def _(worker):
    expect(5, add.delay(2, 3).get(timeout=PATIENCE_S))


@check("celery.group")
def _(worker):
    expect([n + n for n in range(100)], group(add.s(n, n) for n in range(100))().get(timeout=PATIENCE_S))


@check("celery.chain")
def _(worker):
    expect(10, (add.s(1, 2) | add.s(3) | add.s(4)).apply_async().get(timeout=PATIENCE_S))


@check("celery.retry")
def _(worker):
    expect(2, flaky.delay(2).get(timeout=PATIENCE_S))


@check("celery.failure")
def _(worker):
    try:
        broken.delay("as wanted").get(timeout=PATIENCE_S)
    except ValueError as error:
        expect("as wanted", str(error))
    else:
        raise Wrong("expected ValueError got none")


@check("celery.countdown")
def _(worker):
    # The worker holds tasks with an ETA unacknowledged. On RabbitMQ 3.x it raises its global prefetch count
    # (4 here) for each of them; to 4.x, and to products of other names, it sends a count per consumer instead,
    # which does not reach the running one, so that ETA tasks beyond the prefetch count hold up others.
    waiting = 12 if os.environ.get("INTEROP_REPLIES") == "3.x" else 3
    start = time.time()
    later = [clock.apply_async(countdown=1.5) for _ in range(waiting)]
    expect(3, add.delay(1, 2).get(timeout=PATIENCE_S))
    if time.time() - start > 1.4:
        raise Wrong(f"expected the task without countdown at once got it after {time.time() - start:.1f} s")
    expect([], [t for t in (t.get(timeout=PATIENCE_S) for t in later) if t - start < 1.5], "tasks that ran early")


@check("celery.eta")
def _(worker):
    eta = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
    ran = clock.apply_async(eta=eta).get(timeout=PATIENCE_S)
    if ran < eta.timestamp():
        raise Wrong(f"expected at {eta.timestamp()} or later got {ran}")


@check("celery.expires")
def _(worker):
    late = add.apply_async((1, 1), countdown=1, expires=0.5)
    try:
        late.get(timeout=PATIENCE_S)
    except Exception as error:
        expect("TaskRevokedError", type(error).__name__)
    else:
        raise Wrong("expected a revoked task got a result")


@check("celery.remote_control")
def _(worker):
    # Over a fanout exchange and a reply queue of its own.
    inspect = app.control.inspect(destination=[worker.node], timeout=PATIENCE_S, limit=1)
    expect(True, "tasks.add" in inspect.registered()[worker.node])
    expect([name("tasks")], [q["name"] for q in inspect.active_queues()[worker.node]])


@check("celery.events")
def _(worker):
    seen = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"task-succeeded": lambda event: stop(event)})

        def stop(event):
            seen.append(event["uuid"])
            receiver.should_stop = True

        task = []
        consuming = threading.Event()
        receiver.on_consume_ready = lambda *_, **__: consuming.set()
        sender = threading.Thread(target=lambda: (consuming.wait(PATIENCE_S), task.append(add.delay(1, 1).id)))
        sender.start()
        receiver.capture(limit=None, timeout=PATIENCE_S, wakeup=False)
        sender.join()
    expect(True, bool(seen), "a task-succeeded event")


@check("celery.worker_killed")
def _(worker):
    """A task with acks_late goes to the next worker when the first one dies."""
    with tempfile.TemporaryDirectory() as directory:
        marker = pathlib.Path(directory, "started")
        result = survive.delay(str(marker))
        deadline = time.monotonic() + PATIENCE_S
        while not marker.exists():
            if time.monotonic() > deadline:
                raise Wrong("expected the task to start got nothing")
            time.sleep(0.02)
        worker.stop(signal.SIGKILL)
        second = Worker(2)
        try:
            expect("redelivered", result.get(timeout=PATIENCE_S))
        finally:
            expect(0, second.stop(), "exit code after SIGTERM")


def main():
    worker = Worker(1)
    try:
        for check_name, function in check.selected():
            try:
                check.verdict(check_name, reply=function(worker))
            except Exception as error:  # every error is a verdict
                check.verdict(check_name, error=error)
    finally:
        if worker.process.poll() is None:
            worker.process.kill()
    with kombu.Connection(URL) as connection:
        for left in names_used:
            connection.default_channel.queue_delete(left)
            connection.default_channel.exchange_delete(left)
    check.finish()


main()
