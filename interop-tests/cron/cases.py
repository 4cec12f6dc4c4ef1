"""The cron expressions of the table, each with a zone and a moment to start from.

Written to standard output: dialect, zone, start and expression, with tabs in between.
"""

ROBFIG = """
* * * * *|*/5 * * * *|0 * * * *|5/15 * * * *|59 23 * * *|0 0 * * *|30 8-10 * * *|0 9-17/2 * * *
1,2,3 4,5 * * *|10-20/5 * * * *|0 0 1 * *|0 0 31 * *|0 0 29 2 *|0 0 30 2 *|0 0 31 4,6,9,11 *
0 0 15 * 1|0 0 */2 * 1|0 0 */1 * 1|0 0 1-31 * 1|0 0 ? * 1|0 0 13 * ?|0 0 13 * */2|0 0 13 * */1
0 0 13 * FRI|0 0 * * 0|0 0 * * SUN|0 0 * * sat|0 0 * * MON-FRI|0 0 * * mon,wed,fri|0 0 * * 1-5/2
0 0 1 JAN *|0 0 1 jan-mar *|0 0 1 */3 *|0 0 1 2/4 *|0 12 1,15 * *|0 12 1,15 * 3|0 12 * 6 *|15 14 1 * *
0 22 * * 1-5|23 0-20/2 * * *|5 4 * * sun|0 0,12 1 */2 *|0 4 8-14 * *|0 4 8-14 * 1|45 4 1,15 * 6
0 0 1,31 2 *|0 0 31 12 *|0 0 */10 * *|0 0 */31 * *|*/59 * * * *|*/60 * * * *|0 */23 * * *|0 */24 * * *
0 0 * * 6/2|0 0 * * 4/2|? ? ? ? ?|? * * * *|*/1 * * * *|0/20 * * * *|0 0 28-31 * *|59 23 31 12 *
0 0 1 1 1|0 0 29 2 1|*/7 */7 */7 */7 */7|0 0 30 1,2 *|7 7 7 7 *|30 23 * * 0,6|0-5,55-59 * * * *
0 0 2-30/7 * *|0 0 25-31 * 5|1-1 * * * *|10/100 * * * *|0 0 5/100 * *|*/40 * * * *|0 13/5 * * *
""".replace("\n", "|")

SECONDS = """
* * * * * *|*/10 * * * * *|30 * * * * *|0 0 12 * * *|59 59 23 31 12 *|15,45 */2 * * * *|5/25 0 0 * * *
0 30 9 ? * MON-FRI|0-4 0 * * * *|10 20 3-5 1 * *|*/7 */11 */5 * * *|0 0 0 29 2 *
""".replace("\n", "|")

DESCRIPTORS = """
@yearly|@annually|@monthly|@weekly|@daily|@midnight|@hourly|@every 1h30m10s|@every 250ms|@every 1m1.9s
@every 36h|@every 1s
""".replace("\n", "|")

BAD = """
61 * * * *|* 24 * * *|* * 0 * *|* * 32 * *|* * * 0 *|* * * 13 *|* * * * 7|* * * * -1|-1 * * * *
5-1 * * * *|* * * * FRI-MON|* * * * FRIDAY|* * * JANUARY *|*/0 * * * *|*/x * * * *|1/2/3 * * * *
1-2-3 * * * *|a * * * *|* * * *|* * * * * * *|@never|@every|@every 1d|@every x|@every -|L * * * *|* * L * *
* * * * 5#2|* * 15W * *|CRON_TZ=Mars/Olympus * * * * *|@reboot|1.5 * * * *|* * * * MON-|mon * * * *
""".replace("\n", "|")

ZONED = """
30 2 * * *|0 0 * * *|30 0 * * *|*/30 * * * *|0 * * * *|15 1 * * *|0 3 * * *|30 1,2,3 * * *|0 12 * * 0
0 0 1 * *|45 1 * * *|@daily|@hourly
""".replace("\n", "|")

# Zone, and moments before the clocks are changed (or would have been).
ZONES = [
    ("Europe/Berlin", ["2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z"]),
    ("America/New_York", ["2026-03-07T12:00:00Z", "2026-10-31T12:00:00Z"]),
    ("America/Sao_Paulo", ["2018-11-03T12:00:00Z", "2018-02-17T12:00:00Z"]),
    ("Australia/Lord_Howe", ["2026-10-03T00:00:00Z", "2026-04-04T00:00:00Z"]),
    ("Asia/Kolkata", ["2026-03-28T12:00:00Z"]),
]

PREFIXED = [
    "CRON_TZ=Europe/Berlin 30 2 * * *",
    "TZ=America/New_York 0 9 * * 1-5",
    "CRON_TZ=Asia/Kolkata   0 0 1 * *",
    "TZ=UTC @daily",
]

QUARTZ = """
0 0 12 * * ?|0 15 10 ? * *|0 15 10 * * ? *|0 15 10 * * ? 2027|0 * 14 * * ?|0 0/5 14 * * ?|0 0/5 14,18 * * ?
0 0-5 14 * * ?|0 10,44 14 ? 3 WED|0 15 10 ? * MON-FRI|0 15 10 15 * ?|0 15 10 L * ?|0 15 10 L-2 * ?
0 15 10 ? * 6L|0 15 10 ? * 6L 2026-2029|0 15 10 ? * 6#3|0 0 12 1/5 * ?|0 11 11 11 11 ?|0 0 0 LW * ?
0 0 0 15W * ?|0 0 0 1W * ?|0 0 0 31W * ?|0 0 0 L-3W * ?|0 0 0 ? * 1|0 0 0 ? * 7|0 0 0 ? * SUN|0 0 0 ? * L
0 0 0 ? * 1L|0 0 0 ? * FRIL|0 0 0 ? * MON#1|0 0 0 ? * 2#5|0 0 0 ? * 1#4|0 0 0 ? * FRI-MON|0 0 0 ? * 6-2
0 0 22-2 * * ?|50-10 0 0 * * ?|0 0 0 1 NOV-FEB ?|0 0 0 29 2 ?|0 0 0 29 2 ? 2027|0 0 0 29 2 ? 2032
0 0 0 1 1 ? 2035|0 0 0 1 1 ? 2020|0 0 0 1 1 ? 2027/2|0 0 0 1 1 ? *|0 0 0 L 2 ?|0 0 0 LW 2 ?|0 0 0 L-30 * ?
0 0 0 ? JAN-MAR 2-6|0 0 0 ? * 2,4,6|30 0/20 8-10 ? * 2-6/2|0 0 0 1,15,31 * ?|0 0 0 10-20/5 * ?|*/20 * * * * ?
0 0 0 L * ? 2026|0 0 0 30W * ?|0 0 0 29W 2 ?|0 0 0 5W 1-6 ?|0 59 23 31 12 ?|0 0 6,18 ? 1/3 MON
""".replace("\n", "|")

QUARTZ_BAD = """
* * * * *|0 0 12 * * *|0 0 12 ? * ?|60 0 0 * * ?|0 60 0 * * ?|0 0 24 * * ?|0 0 0 0 * ?|0 0 0 32 * ?
0 0 0 ? * 8|0 0 0 ? * 0|0 0 0 1 13 ?|0 0 0 ? * 6#6|0 0 0 ? * 6#0|0 0 0 1 FOO ?|0 0 0 ? * FOO|0 0 0 L-31 * ?
0/60 0 0 * * ?|0 0/60 * * * ?|0 0 0/24 * * ?|0 0 0 1/32 * ?|0 0 0 ? 1/13 2|x 0 0 * * ?
""".replace("\n", "|")


def split(text):
    return [case for case in text.split("|") if case]


def rows():
    utc = ["2026-11-21T10:03:07Z", "2028-02-28T23:59:59Z"]
    for start in utc:
        for text in split(ROBFIG):
            yield "robfig", "UTC", start, text
    for text in split(SECONDS) + split(DESCRIPTORS) + split(BAD) + PREFIXED:
        yield "robfig", "UTC", utc[0], text
    for zone, starts in ZONES:
        for start in starts:
            for text in split(ZONED):
                yield "robfig", zone, start, text
    for start in utc:
        for text in split(QUARTZ):
            yield "quartz", "UTC", start, text
    for text in split(QUARTZ_BAD):
        yield "quartz", "UTC", utc[0], text


if __name__ == "__main__":
    for row in rows():
        print("\t".join(row))
