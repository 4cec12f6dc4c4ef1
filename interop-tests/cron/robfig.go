// Says what robfig/cron does with the expressions of its dialect: a line in, a line out.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"
	_ "time/tzdata"

	"github.com/robfig/cron/v3"
)

func next(zone, start, text string) (answer string) {
	defer func() {
		if recover() != nil {
			answer = "error" // without a space after the zone it panics
		}
	}()
	place, err := time.LoadLocation(zone)
	if err != nil {
		panic(err)
	}
	at, err := time.Parse(time.RFC3339, start)
	if err != nil {
		panic(err)
	}
	parser := cron.NewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom |
		cron.Month | cron.Dow | cron.Descriptor)
	schedule, err := parser.Parse(text)
	if err != nil {
		return "error"
	}
	at = at.In(place)
	var times []string
	for len(times) < 4 {
		at = schedule.Next(at)
		if at.IsZero() {
			break
		}
		times = append(times, at.UTC().Format(time.RFC3339))
	}
	if len(times) == 0 {
		return "never"
	}
	return strings.Join(times, ",")
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		cell := strings.Split(lines.Text(), "\t")
		fmt.Println(next(cell[1], cell[2], cell[3]))
	}
}
