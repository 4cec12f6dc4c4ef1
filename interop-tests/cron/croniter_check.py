"""Holds the table against croniter, which knows Vixie's cron: where both can read an expression, do
they mean the same? Needs croniter; run by hand. Says what differs, and fails if that is more than
what is explained here.
"""

import datetime
import pathlib
import sys

from croniter import croniter

TABLE = pathlib.Path(__file__).parent / "../../crates/scheduler/tests/cron.tsv"

EXPLAINED = {
    "0 0 */1 * 1": "a step of 1 is a star to robfig/cron, and a restriction to croniter",
    "0 0 13 * */1": "a step of 1 is a star to robfig/cron, and a restriction to croniter",
    "0 0 * * 6/2": "croniter goes on with Sunday, robfig/cron ends on Saturday",
    "1-1 * * * *": "croniter takes it for a range that goes all around",
    "0 0 */10 * *": "croniter misses the first of March",
}


def main():
    compared, odd = 0, 0
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        dialect, zone, start, text, times, _, _ = line.split("\t")
        plain = dialect == "robfig" and zone == "UTC" and len(text.split()) == 5 and "=" not in text
        if not plain or not times.startswith("20"):
            continue
        start = datetime.datetime.fromisoformat(start.replace("Z", "+00:00"))
        try:
            found = croniter(text.replace("?", "*"), start)
            theirs = [found.get_next(datetime.datetime) for _ in times.split(",")]
        except (ValueError, KeyError):
            continue
        theirs = ",".join(at.strftime("%Y-%m-%dT%H:%M:%SZ") for at in theirs)
        compared += 1
        if theirs != times:
            why = EXPLAINED.get(text)
            odd += why is None
            print(f"{text}\t{start}\n  table    {times}\n  croniter {theirs}\n  {why or 'NOT EXPLAINED'}")
    print(f"{compared} compared, {odd} not explained")
    return odd > 0 or compared < 100


if __name__ == "__main__":
    sys.exit(main())
