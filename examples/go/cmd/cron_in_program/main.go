// Command cron_in_program is a job every second by robfig/cron: it runs while this program runs, and twice
// with two of them. Beside it, ../cron_in_broker.
package main

import (
	"cmp"
	"fmt"
	"log"
	"os"

	"github.com/robfig/cron/v3"
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

	producer, err := conn.Channel() // channels are not shared between goroutines
	failOnError(err)
	c := cron.New()
	_, err = c.AddFunc("@every 1s", func() {
		message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte("tick")}
		failOnError(producer.Publish("", q.Name, false, false, message))
	})
	failOnError(err)
	c.Start()

	deliveries, err := ch.Consume(q.Name, "", false, false, false, false, nil)
	failOnError(err)
	for range 3 {
		d := <-deliveries
		fmt.Printf("%s\n", d.Body)
		failOnError(d.Ack(false))
	}
	<-c.Stop().Done()
}

func failOnError(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
