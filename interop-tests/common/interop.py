"""What the Python programs share: running checks, printing a line for each, comparing replies.

A check is a function that raises `Wrong` (or anything else) when it fails; one that provokes an error
returns the `Reply` it got, which must be in replies.tsv. Object names get a prefix of their own, so
that programs can run beside each other against one broker; it is taken out of reply texts again.
"""

import collections
import faulthandler
import os
import pathlib
import sys
import traceback

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
PROGRAM = pathlib.Path(sys.argv[0]).stem
PREFIX = f"interop.{PROGRAM.split('_')[0]}.{os.getpid()}."  # short: reply texts end at 255 bytes
PATIENCE_S = 10
PROGRAM_PATIENCE_S = 120

# What clients look for in the server's capabilities.
CAPABILITIES = ["publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify",
                "connection.blocked", "consumer_priorities", "authentication_failure_close", "per_consumer_qos",
                "direct_reply_to"]
# Messages with their priorities, for a queue whose highest is 5, and how it orders them.
PRIORITIES = [("a", None), ("b", 3), ("c", 9), ("d", 5), ("e", 3)]
BY_PRIORITY = ["c", "d", "b", "e", "a"]
# Checks that need nothing of a client but headers: one program for each language makes them.
LATER = ["later.deliver_after", "later.deliver_at", "later.delayed_exchange", "later.retry", "later.schedule",
         "later.list", "later.bad_cron"]
# Topic patterns and the keys they match. The empty key has no words: "#" matches it and "*" does not.
TOPIC_KEYS = ["a.b.c", "x.b.c", "a", "a.b.c.d", ""]
TOPICS = {
    "a.b.c": ["a.b.c"], "*.b.*": ["a.b.c", "x.b.c"], "a.#": ["a.b.c", "a", "a.b.c.d"], "#.c": ["a.b.c", "x.b.c"],
    "#": TOPIC_KEYS, "*": ["a"], "a.*.#.d": ["a.b.c.d"],
}
REPLY_TO = "amq.rabbitmq.reply-to"

Reply = collections.namedtuple("Reply", "level code text")
names_used = set()


class Wrong(Exception):
    """A check that did not see what it expected."""


class Skip(Exception):
    """A check the client's API does not reach; says why."""


def name(short):
    """The name of a queue or exchange of this run."""
    names_used.add(PREFIX + short)
    return PREFIX + short


def expect(expected, got, what=""):
    if expected != got:
        raise Wrong(f"expected {what} {expected!r} got {got!r}".replace("  ", " "))


def accepted_replies():
    """Rows of replies.tsv by check; INTEROP_REPLIES (3.x or 4.x) leaves out those of the other version."""
    version = os.environ.get("INTEROP_REPLIES")
    rows = collections.defaultdict(list)
    path = pathlib.Path(__file__).parent.parent / "replies.tsv"
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            check, which, level, code, text = line.split("\t")
            if version in (None, which) or which == "any":
                rows[check].append(Reply(level, int(code), text))
    return rows


class Checks:
    """Collects the verdicts of a program."""

    def __init__(self):
        self.replies = accepted_replies()
        self.failed = 0
        self.checks = []
        faulthandler.dump_traceback_later(PROGRAM_PATIENCE_S, exit=True)

    def __call__(self, check_name):
        """Decorator: registers a function as the check of that name."""

        def register(function):
            self.checks.append((check_name, function))
            return function

        return register

    def verdict(self, check_name, reply=None, error=None):
        """Prints the line of a check that ended with `reply` or `error`."""
        if isinstance(error, Skip):
            print(f"skip {check_name}: {error}", flush=True)
        elif error is not None:
            self.failed += 1
            what = str(error) if isinstance(error, Wrong) else f"expected no error got {error!r}"
            print(f"FAIL {check_name}: {what}", flush=True)
            if not isinstance(error, Wrong):
                traceback.print_exception(error, limit=-4)
        elif reply is None:
            print(f"ok {check_name}", flush=True)
        else:
            reply = Reply(reply.level, reply.code, reply.text.replace(PREFIX, ""))
            seen = f"{reply.level} {reply.code} {reply.text}"
            if reply in self.replies[check_name]:
                print(f"ok {check_name}: {seen}", flush=True)
            else:
                self.failed += 1
                wanted = " or ".join(f"{r.level} {r.code} {r.text}" for r in self.replies[check_name])
                print(f"FAIL {check_name}: expected {wanted or 'a row in replies.tsv'} got {seen}", flush=True)

    def selected(self):
        """The checks to run: those whose names start with an argument of the command line, or all."""
        return [c for c in self.checks if len(sys.argv) == 1 or c[0].startswith(tuple(sys.argv[1:]))]

    def finish(self):
        sys.exit(1 if self.failed else 0)
