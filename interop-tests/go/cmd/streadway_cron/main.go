// Command streadway_cron is the program a Go user of github.com/streadway/amqp has: a server-named
// queue, a consumer with acks, and a robfig/cron job that publishes every second.
//
// It dials localhost:5672, or AMQP_URL when set, and ends after three messages.
package main

import (
	"fmt"
	"log"
	"os"
	"time"

	"github.com/robfig/cron/v3"
	"github.com/streadway/amqp"
)

const (
	messages = 3
	patience = 30 * time.Second
)

func main() {
	url := os.Getenv("AMQP_URL")
	if url == "" {
		url = "amqp://guest:guest@localhost:5672/"
	}
	conn, err := amqp.Dial(url)
	failOnError(err, "dial")
	defer conn.Close()

	ch, err := conn.Channel()
	failOnError(err, "open a channel")
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	failOnError(err, "declare a queue")
	log.Printf("declared %s", q.Name)

	deliveries, err := ch.Consume(q.Name, "", false, false, false, false, nil)
	failOnError(err, "consume")

	// Channels are not shared between goroutines: the job has its own.
	producer, err := conn.Channel()
	failOnError(err, "open the producer's channel")
	sent := 0
	c := cron.New()
	_, err = c.AddFunc("@every 1s", func() {
		sent++
		err := producer.Publish("", q.Name, false, false, amqp.Publishing{
			ContentType: "text/plain",
			Timestamp:   time.Now(),
			Body:        fmt.Appendf(nil, "tick %d", sent),
		})
		failOnError(err, "publish")
	})
	failOnError(err, "add the job")
	c.Start()

	timeout := time.After(patience)
	for n := 1; n <= messages; n++ {
		select {
		case d, open := <-deliveries:
			if want := fmt.Sprintf("tick %d", n); !open || string(d.Body) != want {
				log.Fatalf("expected %q, got %q (channel open: %t)", want, d.Body, open)
			}
			failOnError(d.Ack(false), "ack")
			log.Printf("received %s", d.Body)
		case <-timeout:
			log.Fatalf("expected %d messages in %s, got %d", messages, patience, n-1)
		}
	}
	<-c.Stop().Done()
	fmt.Println("ok streadway_cron")
}

func failOnError(err error, what string) {
	if err != nil {
		log.Fatalf("%s: %s", what, err)
	}
}
