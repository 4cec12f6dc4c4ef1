// Command reminder: a reminder, 3 seconds from now.
package main

import (
	"cmp"
	"fmt"
	"log"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func main() {
	conn, err := amqp.Dial(cmp.Or(os.Getenv("AMQP_URL"), "amqp://guest:guest@localhost:5672/"))
	failOnError(err)
	defer conn.Close()
	ch, err := conn.Channel()
	failOnError(err)
	failOnError(ch.Confirm(false))
	q, err := ch.QueueDeclare("reminders", true, false, false, false, nil)
	failOnError(err)

	start := time.Now()
	confirm, err := ch.PublishWithDeferredConfirm("", q.Name, false, false, amqp.Publishing{
		DeliveryMode: amqp.Persistent,
		MessageId:    "tea-1",
		Headers:      amqp.Table{"x-deliver-after": 3000},
		Body:         []byte("the tea is ready"),
	})
	failOnError(err)
	confirm.Wait() // on disk

	deliveries, err := ch.Consume(q.Name, "", false, false, false, false, nil)
	failOnError(err)
	d := <-deliveries
	fmt.Printf("%s, after %s\n", d.Body, time.Since(start).Round(time.Millisecond))
	failOnError(d.Ack(false))
}

func failOnError(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
