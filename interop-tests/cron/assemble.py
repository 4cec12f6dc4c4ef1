"""Puts cases and answers together, with what is known to differ.

    assemble.py CASES ANSWERS... < differences.tsv

The answers are those of robfig/cron for the first cases and of Quartz for the others, in order.
"""

import sys

HEAD = """\
# What robfig/cron 3.0.1 and Quartz 2.3.2 themselves say; made by interop-tests/cron/generate.
# The next times after the start, or `error`, or `never`. In the column `ours` is what this crate says
# where it differs, and why in the last one.
# dialect\tzone\tstart\texpression\tnext\tours\twhy
"""


def lines(path):
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()


def main():
    cases, answers = lines(sys.argv[1]), [a for path in sys.argv[2:] for a in lines(path)]
    assert len(cases) == len(answers), (len(cases), len(answers))
    known = {}
    for line in sys.stdin.read().splitlines():
        if line and not line.startswith("#"):
            *case, ours, why = line.split("\t")
            known["\t".join(case)] = (ours, why)
    sys.stdout.write(HEAD)
    for case, answer in zip(cases, answers):
        ours, why = known.pop(case, ("", ""))
        print(f"{case}\t{answer}\t{ours}\t{why}")
    assert not known, known


if __name__ == "__main__":
    main()
