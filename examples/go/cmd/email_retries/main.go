// Command email_retries sends e-mails. What could not be sent the queue delivers again after 1, 2 and
// 4 seconds, and then gives up.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"log"
	"os"

	amqp "github.com/rabbitmq/amqp091-go"
)

var arguments = amqp.Table{
	"x-retry-delay":             1000, // and twice as long each time
	"x-delivery-limit":          3,    // 4 attempts
	"x-dead-letter-exchange":    "",
	"x-dead-letter-routing-key": "emails.failed",
}

// send stands for a mail server that is down for a while.
func send(email string, attempt int64) error {
	if email == "to nobody" || attempt < 3 {
		return errors.New("connection refused")
	}
	return nil
}

func main() {
	conn, err := amqp.Dial(cmp.Or(os.Getenv("AMQP_URL"), "amqp://guest:guest@localhost:5672/"))
	failOnError(err)
	defer conn.Close()
	ch, err := conn.Channel()
	failOnError(err)
	_, err = ch.QueueDeclare("emails", true, false, false, false, arguments)
	failOnError(err)
	_, err = ch.QueueDeclare("emails.failed", true, false, false, false, nil)
	failOnError(err)
	for _, email := range []string{"to ada", "to nobody"} {
		message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(email)}
		failOnError(ch.Publish("", "emails", false, false, message))
	}

	failOnError(ch.Qos(10, 0, false))
	emails, err := ch.Consume("emails", "", false, false, false, false, nil)
	failOnError(err)
	failed, err := ch.Consume("emails.failed", "", false, false, false, false, nil)
	failOnError(err)
	for {
		select {
		case d := <-emails:
			failures, _ := d.Headers["x-delivery-count"].(int64)
			attempt := failures + 1
			if err := send(string(d.Body), attempt); err != nil {
				fmt.Printf("%s: attempt %d: %s\n", d.Body, attempt, err)
				failOnError(d.Reject(true))
			} else {
				fmt.Printf("%s: sent at attempt %d\n", d.Body, attempt)
				failOnError(d.Ack(false))
			}
		case d := <-failed:
			fmt.Printf("%s: given up\n", d.Body)
			failOnError(d.Ack(false))
			return // the last one of this example
		}
	}
}

func failOnError(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
