// Command nightly_job: a job every night at three o'clock in Berlin, winter and summer. The broker keeps
// the schedule, not this program.
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log"
	"os"

	amqp "github.com/rabbitmq/amqp091-go"
)

const replyTo = "amq.rabbitmq.reply-to"

func main() {
	conn, err := amqp.Dial(cmp.Or(os.Getenv("AMQP_URL"), "amqp://guest:guest@localhost:5672/"))
	failOnError(err)
	defer conn.Close()
	ch, err := conn.Channel()
	failOnError(err)
	q, err := ch.QueueDeclare("jobs", true, false, false, false, nil)
	failOnError(err)
	answers, err := ch.Consume(replyTo, "", true, false, false, false, nil)
	failOnError(err)

	// order publishes an order to the scheduler and returns its answer.
	order := func(body string, headers amqp.Table) (answer struct{ Next []string }) {
		failOnError(ch.Publish("amq.schedule", "", false, false, amqp.Publishing{
			DeliveryMode: amqp.Persistent, ReplyTo: replyTo, Headers: headers, Body: []byte(body),
		}))
		failOnError(json.Unmarshal((<-answers).Body, &answer))
		return answer
	}
	made := order("rebuild the report", amqp.Table{
		"x-schedule-name":        "nightly-report",
		"x-schedule-cron":        "0 3 * * *",
		"x-schedule-timezone":    "Europe/Berlin",
		"x-schedule-routing-key": q.Name,
	})
	fmt.Println("the next nights:", made.Next)

	// Nobody wants to wait until three.
	order("", amqp.Table{"x-schedule-name": "nightly-report", "x-schedule-action": "run-now"})
	deliveries, err := ch.Consume(q.Name, "", false, false, false, false, nil)
	failOnError(err)
	d := <-deliveries
	fmt.Printf("%s: %s\n", d.Body, d.MessageId)
	failOnError(d.Ack(false))
	order("", amqp.Table{"x-schedule-name": "nightly-report", "x-schedule-action": "delete"})
}

func failOnError(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
