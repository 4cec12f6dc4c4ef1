// Command email_retries sends e-mails, and tries again later and later what could not be sent: after
// 1, 2 and 4 seconds here.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"log"
	"os"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	attempts     = 4
	firstDelayMS = 1000
)

// send stands for a mail server that is down for a while.
func send(email string, attempt int32) error {
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
	failOnError(ch.Confirm(false))
	for _, name := range []string{"emails", "emails.failed"} {
		_, err = ch.QueueDeclare(name, true, false, false, false, nil)
		failOnError(err)
	}
	// publish returns once the message is on disk.
	publish := func(queue, email string, headers amqp.Table) {
		message := amqp.Publishing{DeliveryMode: amqp.Persistent, Headers: headers, Body: []byte(email)}
		confirm, err := ch.PublishWithDeferredConfirm("", queue, false, false, message)
		failOnError(err)
		confirm.Wait()
	}
	publish("emails", "to ada", nil)
	publish("emails", "to nobody", nil)

	failOnError(ch.Qos(10, 0, false))
	deliveries, err := ch.Consume("emails", "", false, false, false, false, nil)
	failOnError(err)
	for d := range deliveries {
		email := string(d.Body)
		attempt, _ := d.Headers["attempt"].(int32)
		attempt = max(attempt, 1)
		err := send(email, attempt)
		switch {
		case err == nil:
			fmt.Printf("%s: sent at attempt %d\n", email, attempt)
		case attempt < attempts:
			fmt.Printf("%s: attempt %d: %s\n", email, attempt, err)
			delay := firstDelayMS << (attempt - 1)
			publish("emails", email, amqp.Table{"attempt": attempt + 1, "x-deliver-after": delay})
		default:
			fmt.Printf("%s: attempt %d: %s; that was the last\n", email, attempt, err)
			publish("emails.failed", email, nil)
		}
		failOnError(d.Ack(false))
		if attempt == attempts {
			return // the last one of this example
		}
	}
}

func failOnError(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
