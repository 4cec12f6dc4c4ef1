// Command cron_in_broker is a job every second by the broker: it goes on whether or not this program runs,
// and there is one of it however often this program is started. Beside it, ../cron_in_program.
package main

import (
	"cmp"
	"fmt"
	"log"
	"os"

	"github.com/streadway/amqp"
)

func main() {
	conn, err := amqp.Dial(cmp.Or(os.Getenv("AMQP_URL"), "amqp://guest:guest@localhost:5672/"))
	failOnError(err)
	defer conn.Close()
	ch, err := conn.Channel()
	failOnError(err)
	q, err := ch.QueueDeclare("ticks", true, false, false, false, nil)
	failOnError(err)

	order := func(headers amqp.Table) {
		message := amqp.Publishing{DeliveryMode: amqp.Persistent, Headers: headers, Body: []byte("tick")}
		failOnError(ch.Publish("amq.schedule", "", false, false, message))
	}
	order(amqp.Table{
		"x-schedule-name":        "ticks",
		"x-schedule-cron":        "@every 1s",
		"x-schedule-routing-key": q.Name,
	})

	deliveries, err := ch.Consume(q.Name, "", false, false, false, false, nil)
	failOnError(err)
	for range 3 {
		d := <-deliveries
		fmt.Printf("%s of %s\n", d.Body, d.Headers["x-schedule-nominal-time"])
		failOnError(d.Ack(false))
	}
	order(amqp.Table{"x-schedule-name": "ticks", "x-schedule-action": "delete"})
	// Whatever is asked next is answered once the schedule has gone.
	_, err = ch.QueueInspect(q.Name)
	failOnError(err)
}

func failOnError(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
