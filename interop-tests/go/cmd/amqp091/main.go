// Command amqp091 makes the checks of ../../../checks.txt through github.com/rabbitmq/amqp091-go.
//
// The two Go clients share most of their API: `go generate` makes ../streadway from ../amqp091.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	. "interop/checks"

	amqp "github.com/rabbitmq/amqp091-go"
)

//go:generate sh -c "sed -e 's,github.com/rabbitmq/amqp091-go,github.com/streadway/amqp,; s,^// Command amqp091,// Command streadway,; /go:generate/d; 1i // Code generated from ../amqp091 by go generate. DO NOT EDIT.\\n' main.go | gofmt > ../streadway/main.go"

// replyTo is the pseudo-queue of direct reply-to.
const replyTo = "amq.rabbitmq.reply-to"

// session is the connection and channel a check begins with.
type session struct {
	conn *amqp.Connection
	*amqp.Channel
}

func dial() session {
	conn := Value(amqp.Dial(URL))
	return session{conn, Value(conn.Channel())}
}

// other is a further channel of the same connection.
func (s session) other() session { return session{s.conn, Value(s.conn.Channel())} }

// queue declares an exclusive queue, server-named when short is "".
func (s session) queue(short string, args amqp.Table) string {
	name := ""
	if short != "" {
		name = Name(short)
	}
	return Value(s.QueueDeclare(name, false, false, true, false, args)).Name
}

func (s session) exchange(short, kind string, args amqp.Table) string {
	Must(s.ExchangeDeclare(Name(short), kind, false, true, false, false, args))
	return Name(short)
}

func (s session) publish(exchange, key string, bodies ...string) {
	for _, body := range bodies {
		Must(s.Publish(exchange, key, false, false, amqp.Publishing{Body: []byte(body)}))
	}
}

// publishConfirmed is for what another channel is to see: only the confirm says that the queue has it.
func (s session) publishConfirmed(exchange, key string, body string) {
	confirms := s.confirms(1)
	s.publish(exchange, key, body)
	Expect(true, Next(confirms, "a confirm").Ack)
}

func (s session) bind(queue, key, exchange string, args amqp.Table) {
	Must(s.QueueBind(queue, key, exchange, false, args))
}

func (s session) ready(queue string) int {
	return Value(s.QueueDeclarePassive(queue, false, false, true, false, nil)).Messages
}

// get fetches the next message, which must be there.
func (s session) get(queue string, autoAck bool) amqp.Delivery {
	d, found, err := s.Get(queue, autoAck)
	Must(err)
	if !found {
		Fail("expected a message in %s got none", queue)
	}
	return d
}

// bodies gets what is ready, with acks.
func (s session) bodies(queue string) []string {
	found := []string{}
	for {
		d, ok, err := s.Get(queue, true)
		Must(err)
		if !ok {
			return found
		}
		found = append(found, string(d.Body))
	}
}

func (s session) consume(queue string, autoAck bool) <-chan amqp.Delivery {
	return Value(s.Consume(queue, "", autoAck, false, false, false, nil))
}

func take(deliveries <-chan amqp.Delivery, count int) (taken []amqp.Delivery) {
	for range count {
		taken = append(taken, Next(deliveries, "a delivery"))
	}
	return taken
}

// seen is what most checks compare of a delivery.
type seen struct {
	body        string
	redelivered bool
}

func see(deliveries ...amqp.Delivery) (all []seen) {
	for _, d := range deliveries {
		all = append(all, seen{string(d.Body), d.Redelivered})
	}
	return all
}

// replyOf waits for the broker to close the channel, or the connection with it, because of what act did.
func (s session) replyOf(act func() error) *Reply {
	closed := s.NotifyClose(make(chan *amqp.Error, 1))
	_ = act() // whether it notices depends on the method; the close comes anyway
	e := Next(closed, "an error")
	level := "channel"
	if s.conn.IsClosed() {
		level = "connection"
	}
	return &Reply{Level: level, Code: e.Code, Text: e.Reason}
}

func numbers(count int) (all []string) {
	for n := range count {
		all = append(all, fmt.Sprint(n))
	}
	return all
}

// confirms puts the channel into confirm mode.
func (s session) confirms(size int) <-chan amqp.Confirmation {
	Must(s.Confirm(false))
	return s.NotifyPublish(make(chan amqp.Confirmation, size))
}

func main() {
	var all []Check
	add := func(name string, run func(s session) *Reply) {
		all = append(all, Check{Name: name, Run: func() *Reply {
			s := dial()
			defer s.conn.Close()
			return run(s)
		}})
	}
	// ok adds a check that expects no error of the broker, fails one that does.
	ok := func(name string, run func(s session)) {
		add(name, func(s session) *Reply { run(s); return nil })
	}
	fails := func(name string, act func(s session) error) {
		add(name, func(s session) *Reply { return s.replyOf(func() error { return act(s) }) })
	}
	connectionChecks(ok, add)
	exchangeChecks(ok, fails)
	queueChecks(ok, fails, add)
	publishChecks(ok, fails)
	consumeChecks(ok, fails, add)
	txChecks(ok, fails)
	routeChecks(ok)
	rpcChecks(ok, fails)
	laterChecks(ok, fails)
	reconnectChecks(ok)
	Main(all, cleanUp)
}

// cleanUp deletes what checks left behind; deleting what is not there succeeds.
func cleanUp() {
	s := dial()
	defer s.conn.Close()
	for name := range maps.Keys(NamesUsed) {
		Value(s.QueueDelete(name, false, false, false))
		Must(s.ExchangeDelete(name, false, false))
	}
}

type (
	adder        func(name string, run func(s session) *Reply)
	okAdder      func(name string, run func(s session))
	failingAdder func(name string, act func(s session) error)
)

func connectionChecks(ok okAdder, add adder) {
	ok("connection.open", func(s session) {
		announced, _ := s.conn.Properties["capabilities"].(amqp.Table)
		missing := []string{}
		for _, wanted := range []string{
			"publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify",
			"connection.blocked", "consumer_priorities", "authentication_failure_close", "per_consumer_qos",
			"direct_reply_to",
		} {
			if announced[wanted] != true {
				missing = append(missing, wanted)
			}
		}
		Expect([]string{}, missing)
	})
	ok("connection.auth_refused", func(session) {
		// The client does not announce authentication_failure_close: the broker only closes the socket.
		_, err := amqp.Dial(strings.Replace(URL, "guest:guest@", "guest:wrong@", 1))
		Expect(error(amqp.ErrCredentials), err)
	})
	add("connection.vhost_missing", func(session) *Reply {
		_, err := amqp.Dial(URL[:strings.LastIndex(URL, "/")] + "/missing")
		var e *amqp.Error
		if !errors.As(err, &e) {
			Fail("expected an error of the broker got %v", err)
		}
		if e == amqp.ErrVhost { // streadway/amqp does not look at the close
			return nil
		}
		return &Reply{Level: "connection", Code: e.Code, Text: e.Reason}
	})
}

func exchangeChecks(ok okAdder, fails failingAdder) {
	ok("exchange.declare", func(s session) {
		for _, kind := range []string{"direct", "fanout", "topic", "headers"} {
			s.exchange("x-"+kind, kind, nil)
			for range 2 {
				Must(s.ExchangeDeclare(Name("x-durable-"+kind), kind, true, false, false, false, nil))
			}
			Must(s.ExchangeDelete(Name("x-"+kind), false, false))
			Must(s.ExchangeDelete(Name("x-durable-"+kind), false, false))
		}
	})
	ok("exchange.passive", func(s session) {
		Must(s.ExchangeDeclare(Name("x-passive"), "topic", true, false, false, false, nil))
		Must(s.ExchangeDeclarePassive(Name("x-passive"), "direct", false, true, false, false, nil))
		Must(s.ExchangeDeclarePassive("amq.direct", "direct", true, false, false, false, nil))
	})
	fails("exchange.passive_missing", func(s session) error {
		return s.ExchangeDeclarePassive(Name("missing"), "direct", false, false, false, false, nil)
	})
	fails("exchange.inequivalent_type", func(s session) error {
		s.exchange("x-type", "direct", nil)
		return s.ExchangeDeclare(Name("x-type"), "fanout", false, true, false, false, nil)
	})
	fails("exchange.inequivalent_durable", func(s session) error {
		s.exchange("x-durability", "direct", nil)
		return s.ExchangeDeclare(Name("x-durability"), "direct", true, true, false, false, nil)
	})
	fails("exchange.unknown_type", func(s session) error {
		return s.ExchangeDeclare(Name("x-unknown"), "no-such-type", false, true, false, false, nil)
	})
	fails("exchange.reserved_name", func(s session) error {
		return s.ExchangeDeclare("amq.interop", "direct", false, false, false, false, nil)
	})
	fails("exchange.default_declare", func(s session) error {
		return s.ExchangeDeclare("", "direct", false, false, false, false, nil)
	})
	fails("exchange.delete_in_use", func(s session) error {
		x := s.exchange("x-used", "fanout", nil)
		s.bind(s.queue("", nil), "", x, nil)
		return s.ExchangeDelete(x, true, false)
	})
	ok("exchange.delete_missing", func(s session) { Must(s.ExchangeDelete(Name("missing"), false, false)) })
	fails("exchange.internal_publish", func(s session) error {
		Must(s.ExchangeDeclare(Name("x-internal"), "fanout", false, true, true, false, nil))
		return s.Publish(Name("x-internal"), "", false, false, amqp.Publishing{})
	})
}

func queueChecks(ok okAdder, fails failingAdder, add adder) {
	ok("queue.server_named", func(s session) {
		if q := s.queue("", nil); !strings.HasPrefix(q, "amq.gen-") || q == s.queue("", nil) {
			Fail("expected amq.gen-... and another one each time got %s", q)
		}
	})
	ok("queue.last_declared", func(s session) {
		x, q := s.exchange("x-last", "direct", nil), s.queue("", nil)
		s.bind("", "", x, nil) // with the queue's name as routing key too
		s.publish(x, q, "m")
		Expect(see(take(s.consume("", true), 1)...), []seen{{"m", false}})
	})
	ok("queue.passive", func(s session) {
		q := s.queue("", nil)
		s.publish("", q, "a", "b", "c")
		s.get(q, false)
		found := Value(s.other().QueueDeclarePassive(q, true, true, false, false, nil))
		Expect(amqp.Queue{Name: q, Messages: 2, Consumers: 0}, found)
		s.consume(q, true)
		Expect(1, Value(s.QueueDeclarePassive(q, false, false, true, false, nil)).Consumers)
	})
	fails("queue.passive_missing", func(s session) error {
		_, err := s.QueueDeclarePassive(Name("missing"), false, false, false, false, nil)
		return err
	})
	fails("queue.inequivalent_durable", func(s session) error {
		Value(s.QueueDeclare(Name("q-durability"), false, true, false, false, nil))
		_, err := s.QueueDeclare(Name("q-durability"), true, true, false, false, nil)
		return err
	})
	fails("queue.inequivalent_argument", func(s session) error {
		s.queue("q-arguments", amqp.Table{"x-max-length": 10})
		_, err := s.QueueDeclare(Name("q-arguments"), false, false, true, false, amqp.Table{"x-max-length": 20})
		return err
	})
	fails("queue.invalid_argument", func(s session) error {
		_, err := s.QueueDeclare(Name("q-invalid"), false, false, true, false, amqp.Table{"x-message-ttl": -1})
		return err
	})
	fails("queue.reserved_name", func(s session) error {
		_, err := s.QueueDeclare("amq.interop", false, false, true, false, nil)
		return err
	})
	add("queue.exclusive_locked", func(s session) *Reply {
		q := s.queue("q-exclusive", nil)
		other := dial()
		defer other.conn.Close()
		return other.replyOf(func() error {
			_, err := other.Consume(q, "", true, false, false, false, nil)
			return err
		})
	})
	ok("queue.exclusive_gone", func(s session) {
		other := dial()
		q := other.queue("", nil)
		Must(other.conn.Close())
		s.expectGone(q)
	})
	ok("queue.auto_delete", func(s session) {
		q := Value(s.QueueDeclare(Name("q-auto"), false, true, false, false, nil)).Name
		for _, tag := range []string{"one", "two"} {
			Value(s.Consume(q, tag, false, false, false, false, nil))
		}
		Must(s.Cancel("one", false))
		Expect(0, s.ready(q))
		Must(s.Cancel("two", false))
		s.expectGone(q)
	})
	fails("queue.delete_not_empty", func(s session) error {
		q := s.queue("q-full", nil)
		s.publish("", q, "m")
		_, err := s.QueueDelete(q, false, true, false)
		return err
	})
	fails("queue.delete_in_use", func(s session) error {
		q := s.queue("q-used", nil)
		s.consume(q, true)
		_, err := s.QueueDelete(q, true, false, false)
		return err
	})
	ok("queue.delete_missing", func(s session) { Expect(0, Value(s.QueueDelete(Name("missing"), false, false, false))) })
	ok("queue.purge", func(s session) {
		q := s.queue("", nil)
		s.publish("", q, "a", "b", "c")
		first := s.get(q, false)
		Expect(2, Value(s.QueuePurge(q, false)))
		Must(first.Nack(false, true))
		Expect([]string{"a"}, s.bodies(q))
	})
	ok("queue.priority", func(s session) {
		q := s.queue("", amqp.Table{"x-max-priority": 5})
		for i, priority := range []uint8{0, 3, 9, 5, 3} {
			body := []byte{"abcde"[i]}
			Must(s.Publish("", q, false, false, amqp.Publishing{Body: body, Priority: priority}))
		}
		Expect([]string{"c", "d", "b", "e", "a"}, s.bodies(q))
	})
	fails("queue.bind_missing", func(s session) error {
		return s.QueueBind(s.queue("", nil), "key", Name("missing"), false, nil)
	})
	fails("queue.default_bind", func(s session) error {
		return s.QueueBind(s.queue("", nil), "key", "", false, nil)
	})
}

func (s session) expectGone(queue string) {
	reply := s.replyOf(func() error {
		_, err := s.QueueDeclarePassive(queue, false, false, false, false, nil)
		return err
	})
	Expect(amqp.NotFound, reply.Code)
}

func publishChecks(ok okAdder, fails failingAdder) {
	ok("publish.confirm_one", func(s session) {
		q := s.queue("", nil)
		confirms := s.confirms(1)
		s.publish("", q, "m")
		Expect(amqp.Confirmation{DeliveryTag: 1, Ack: true}, Next(confirms, "a confirm"))
		Expect(1, s.ready(q))
	})
	ok("publish.confirm_many", func(s session) {
		q := s.queue("", nil)
		confirms := s.confirms(500)
		s.publish("", q, numbers(500)...)
		for tag := range uint64(500) {
			Expect(amqp.Confirmation{DeliveryTag: tag + 1, Ack: true}, Next(confirms, "a confirm"))
		}
		Expect(numbers(500), s.bodies(q))
	})
	ok("publish.mandatory", func(s session) {
		confirms := s.confirms(2)
		returns := s.NotifyReturn(make(chan amqp.Return, 2))
		Must(s.Publish("", s.queue("", nil), true, false, amqp.Publishing{Body: []byte("routed")}))
		Must(s.Publish("", Name("nowhere"), true, false, amqp.Publishing{Body: []byte("m")}))
		Expect(amqp.Confirmation{DeliveryTag: 1, Ack: true}, Next(confirms, "a confirm"))
		Expect(amqp.Confirmation{DeliveryTag: 2, Ack: true}, Next(confirms, "a confirm"))
		if len(returns) != 1 {
			Fail("expected one return before the confirm got %d", len(returns))
		}
		r := <-returns
		Expect([]any{uint16(amqp.NoRoute), "NO_ROUTE", "", Name("nowhere"), "m"},
			[]any{r.ReplyCode, r.ReplyText, r.Exchange, r.RoutingKey, string(r.Body)})
	})
	fails("publish.missing_exchange", func(s session) error {
		return s.Publish(Name("missing"), "key", false, false, amqp.Publishing{})
	})
	fails("publish.immediate", func(s session) error {
		return s.Publish("", s.queue("", nil), false, true, amqp.Publishing{})
	})
	fails("publish.user_id", func(s session) error {
		q := s.queue("", nil)
		confirms := s.confirms(1)
		Must(s.Publish("", q, false, false, amqp.Publishing{UserId: "guest"}))
		Next(confirms, "a confirm")
		return s.Publish("", q, false, false, amqp.Publishing{UserId: "someone"})
	})
	fails("publish.expiration", func(s session) error {
		return s.Publish("", s.queue("", nil), false, false, amqp.Publishing{Expiration: "soon"})
	})
	ok("publish.properties", func(s session) {
		q := s.queue("", nil)
		sent := amqp.Publishing{
			ContentType: "text/plain", ContentEncoding: "utf-8", DeliveryMode: 2, Priority: 9, CorrelationId: "c",
			ReplyTo: "r", Expiration: "60000", MessageId: "id", Timestamp: time.Unix(1_700_000_000, 0), Type: "t",
			UserId: "guest", AppId: "app", Body: []byte("m"),
			Headers: amqp.Table{
				"string": "ü", "byte": byte(200), "int16": int16(-300), "int32": int32(-70_000),
				"int64": int64(1) << 40, "float32": float32(0.5), "float64": 0.25, "true": true, "nil": nil,
				"decimal": amqp.Decimal{Scale: 2, Value: 314}, "bytes": []byte{0, 255},
				"time":  time.Unix(1_600_000_000, 0),
				"table": amqp.Table{"nested": amqp.Table{"deep": int32(1)}}, "list": []any{int32(1), "two", []any{true}},
			},
		}
		Must(s.Publish("", q, false, false, sent))
		s.publish("", q, "bare")
		d := s.get(q, true)
		Expect(sent, amqp.Publishing{
			Headers: d.Headers, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding,
			DeliveryMode: d.DeliveryMode, Priority: d.Priority, CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo,
			Expiration: d.Expiration, MessageId: d.MessageId, Timestamp: d.Timestamp, Type: d.Type, UserId: d.UserId,
			AppId: d.AppId, Body: d.Body,
		})
		d = s.get(q, true)
		Expect([]any{amqp.Table(nil), "", uint8(0), uint8(0), true},
			[]any{d.Headers, d.ContentType, d.DeliveryMode, d.Priority, d.Timestamp.IsZero()})
	})
	ok("publish.sizes", func(s session) {
		q := s.queue("", nil)
		oneFrame := s.conn.Config.FrameSize - 8
		for _, size := range []int{0, 1, oneFrame - 1, oneFrame, oneFrame + 1, 1 << 20} {
			body := bytes.Repeat([]byte("0123456789abcdefg"), size/17+1)[:size]
			Must(s.Publish("", q, false, false, amqp.Publishing{Body: body}))
			if !bytes.Equal(body, s.get(q, true).Body) {
				Fail("expected %d bytes unchanged got others", size)
			}
		}
	})
}

func consumeChecks(ok okAdder, fails failingAdder, add adder) {
	ok("consume.ack", func(s session) {
		q := s.queue("", nil)
		s.publish("", q, "a", "b", "c")
		deliveries := Value(s.Consume(q, "tag", false, false, false, false, nil))
		for n, d := range take(deliveries, 3) {
			Expect([]any{"tag", false, "", q, "abc"[n : n+1], uint64(n + 1)},
				[]any{d.ConsumerTag, d.Redelivered, d.Exchange, d.RoutingKey, string(d.Body), d.DeliveryTag})
			Must(d.Ack(false))
		}
		Expect(0, Value(s.QueueDelete(q, false, false, false)))
	})
	ok("consume.prefetch", func(s session) {
		q := s.queue("", nil)
		s.publish("", q, numbers(20)...)
		Must(s.Qos(5, 0, false))
		deliveries := s.consume(q, false)
		held := take(deliveries, 5)
		Expect([]int{15, 0}, []int{s.ready(q), len(deliveries)})
		for n := range 20 {
			Expect(fmt.Sprint(n), string(held[n].Body))
			Must(held[n].Ack(false))
			if n+5 < 20 {
				held = append(held, take(deliveries, 1)...)
			}
			Expect([]int{max(14-n, 0), 0}, []int{s.ready(q), len(deliveries)})
		}
	})
	ok("consume.prefetch_channel", func(s session) {
		q := s.queue("", nil)
		s.publish("", q, numbers(20)...)
		Must(s.Qos(5, 0, true))
		deliveries := [2]<-chan amqp.Delivery{s.consume(q, false), s.consume(q, false)}
		either := func() (d amqp.Delivery) {
			select {
			case d = <-deliveries[0]:
			case d = <-deliveries[1]:
			case <-time.After(Patience):
				Fail("expected a delivery got none")
			}
			return d
		}
		for _, left := range []int{15, 10} {
			tag := uint64(0)
			for range 5 {
				tag = max(tag, either().DeliveryTag)
			}
			Expect([]int{left, 0}, []int{s.ready(q), len(deliveries[0]) + len(deliveries[1])})
			Must(s.Ack(tag, true))
		}
		Must(s.Qos(8, 0, true))
		for range 8 {
			either()
		}
		Expect([]int{2, 0}, []int{s.ready(q), len(deliveries[0]) + len(deliveries[1])})
	})
	returns := func(settle func(d amqp.Delivery) error) func(session) {
		return func(s session) {
			q := s.queue("", nil)
			s.publish("", q, "a", "b", "c")
			first, second := s.get(q, false), s.get(q, false)
			Must(settle(second))
			Must(settle(first))
			Expect([]seen{{"a", true}, {"b", true}, {"c", false}},
				see(s.get(q, true), s.get(q, true), s.get(q, true)))
		}
	}
	ok("consume.nack_requeue", returns(func(d amqp.Delivery) error { return d.Nack(false, true) }))
	ok("consume.reject_requeue", returns(func(d amqp.Delivery) error { return d.Reject(true) }))
	ok("consume.reject_drop", func(s session) {
		q := s.queue("", nil)
		s.publish("", q, "a", "b")
		Must(s.get(q, false).Reject(false))
		Expect([]string{"b"}, s.bodies(q))
	})
	ok("consume.nack_multiple", func(s session) {
		q := s.queue("", nil)
		s.publish("", q, "a", "b", "c", "d")
		s.get(q, false)
		second := s.get(q, false)
		s.get(q, false)
		Must(second.Nack(true, true))
		Expect([]string{"a", "b", "d"}, s.bodies(q))
	})
	ok("consume.channel_close_requeues", func(s session) {
		q := s.queue("", nil)
		s.publish("", q, "a", "b")
		other := s.other()
		take(other.consume(q, false), 2)
		Must(other.Close())
		Expect([]seen{{"a", true}, {"b", true}}, see(s.get(q, true), s.get(q, true)))
	})
	ok("consume.recover", func(s session) {
		q := s.queue("", nil)
		s.publish("", q, "a", "b")
		deliveries := s.consume(q, false)
		take(deliveries, 2)
		Must(s.Recover(true))
		Expect([]seen{{"a", true}, {"b", true}}, see(take(deliveries, 2)...))
	})
	fails("consume.unknown_tag", func(s session) error { return s.Ack(99, false) })
	fails("consume.duplicate_tag", func(s session) error {
		q := s.queue("", nil)
		Value(s.Consume(q, "twice", true, false, false, false, nil))
		_, err := s.Consume(q, "twice", true, false, false, false, nil)
		return err
	})
	add("consume.exclusive", func(s session) *Reply {
		q := s.queue("q-exclusive-consumer", nil)
		Value(s.Consume(q, "", true, true, false, false, nil))
		other := s.other()
		return other.replyOf(func() error {
			_, err := other.Consume(q, "", true, false, false, false, nil)
			return err
		})
	})
	fails("consume.missing_queue", func(s session) error {
		_, err := s.Consume(Name("missing"), "", true, false, false, false, nil)
		return err
	})
	ok("consume.cancel", func(s session) {
		q := s.queue("", nil)
		s.publish("", q, "a", "b", "c")
		Must(s.Qos(1, 0, false))
		deliveries := Value(s.Consume(q, "tag", false, false, false, false, nil))
		first := take(deliveries, 1)[0]
		Must(s.Cancel("tag", false))
		Must(first.Ack(false))
		_, open := <-deliveries
		Expect([]any{2, false}, []any{s.ready(q), open})
	})
	ok("consume.cancel_notify", func(s session) {
		q := s.queue("", nil)
		cancelled := s.NotifyCancel(make(chan string, 1))
		Value(s.Consume(q, "tag", true, false, false, false, nil))
		Value(s.other().QueueDelete(q, false, false, false))
		Expect("tag", Next(cancelled, "basic.cancel"))
	})
	ok("consume.priority", func(s session) {
		q := s.queue("", nil)
		low := s.consume(q, true)
		high := Value(s.Consume(q, "", true, false, false, false, amqp.Table{"x-priority": 10}))
		s.publish("", q, "a", "b", "c")
		take(high, 3)
		Expect(0, len(low))
	})
	fails("qos.prefetch_size", func(s session) error { return s.Qos(0, 1024, false) })
	ok("get.message", func(s session) {
		q := s.queue("", nil)
		s.publish("", q, "a", "b", "c")
		d := s.get(q, false)
		Expect([]any{"a", uint32(2), false, "", q}, []any{string(d.Body), d.MessageCount, d.Redelivered, d.Exchange,
			d.RoutingKey})
	})
	ok("get.empty", func(s session) {
		_, found, err := s.Get(s.queue("", nil), false)
		Must(err)
		Expect(false, found)
	})
}

func txChecks(ok okAdder, fails failingAdder) {
	ok("tx.commit", func(s session) {
		q, other := s.queue("", nil), s.other()
		Must(s.Tx())
		s.publish("", q, "a", "b")
		Expect(0, other.ready(q))
		Must(s.TxCommit())
		Expect([]string{"a", "b"}, other.bodies(q))
	})
	ok("tx.rollback", func(s session) {
		q, other := s.queue("", nil), s.other()
		other.publishConfirmed("", q, "kept")
		Must(s.Tx())
		s.publish("", q, "dropped")
		Must(s.get(q, false).Ack(false))
		Must(s.TxRollback())
		Expect(0, other.ready(q))
		Must(s.Close())
		Expect([]string{"kept"}, other.bodies(q))
	})
	fails("tx.not_selected", func(s session) error { return s.TxCommit() })
	fails("tx.on_confirm_channel", func(s session) error {
		s.confirms(0)
		return s.Tx()
	})
}

func routeChecks(ok okAdder) {
	ok("route.default", func(s session) {
		q := s.queue("q-routed", nil)
		s.publish("", q, "m")
		Expect([]string{"m"}, s.bodies(q))
	})
	ok("route.direct", func(s session) {
		x, one, two := s.exchange("x-direct", "direct", nil), s.queue("", nil), s.queue("", nil)
		s.bind(one, "red", x, nil)
		s.bind(one, "green", x, nil)
		s.bind(two, "green", x, nil)
		for _, key := range []string{"red", "green", "blue"} {
			s.publish(x, key, key)
		}
		Expect([][]string{{"red", "green"}, {"green"}}, [][]string{s.bodies(one), s.bodies(two)})
		Must(s.QueueUnbind(one, "red", x, nil))
		s.publish(x, "red", "red")
		Expect([]string{}, s.bodies(one))
	})
	ok("route.fanout", func(s session) {
		x, queues := s.exchange("x-fanout", "fanout", nil), []string{s.queue("", nil), s.queue("", nil)}
		for _, q := range queues {
			s.bind(q, "ignored", x, nil)
		}
		s.publish(x, "any", "m")
		for _, q := range queues {
			Expect([]string{"m"}, s.bodies(q))
		}
	})
	ok("route.topic", func(s session) {
		x := s.exchange("x-topic", "topic", nil)
		// The empty key has no words: "#" matches it and "*" does not.
		expected := map[string][]string{
			"a.b.c": {"a.b.c"}, "*.b.*": {"a.b.c", "x.b.c"}, "a.#": {"a.b.c", "a", "a.b.c.d"},
			"#.c": {"a.b.c", "x.b.c"}, "#": {"a.b.c", "x.b.c", "a", "a.b.c.d", ""}, "*": {"a"}, "a.*.#.d": {"a.b.c.d"},
		}
		queues, got := map[string]string{}, map[string][]string{}
		for pattern := range expected {
			queues[pattern] = s.queue("", nil)
			s.bind(queues[pattern], pattern, x, nil)
		}
		for _, key := range []string{"a.b.c", "x.b.c", "a", "a.b.c.d", ""} {
			s.publish(x, key, key)
		}
		for pattern, q := range queues {
			got[pattern] = s.bodies(q)
		}
		Expect(expected, got)
	})
	ok("route.headers", func(s session) {
		x, every, some := s.exchange("x-headers", "headers", nil), s.queue("", nil), s.queue("", nil)
		s.bind(every, "", x, amqp.Table{"x-match": "all", "format": "pdf", "pages": 1})
		s.bind(some, "", x, amqp.Table{"x-match": "any", "format": "pdf", "pages": 1})
		for body, headers := range map[string]amqp.Table{
			"both": {"format": "pdf", "pages": 1}, "one": {"format": "pdf", "pages": 2}, "none": {"format": "ps"},
		} {
			Must(s.Publish(x, "", false, false, amqp.Publishing{Headers: headers, Body: []byte(body)}))
		}
		Expect([]string{"both"}, s.bodies(every))
		Expect(2, s.ready(some))
	})
	ok("route.e2e", func(s session) {
		source, target := s.exchange("x-source", "topic", nil), s.exchange("x-target", "fanout", nil)
		q := s.queue("", nil)
		s.bind(q, "", target, nil)
		Must(s.ExchangeBind(target, "a.*", source, false, nil))
		s.publish(source, "a.b", "through")
		s.publish(source, "b.b", "past")
		Expect([]string{"through"}, s.bodies(q))
		Must(s.ExchangeUnbind(target, "a.*", source, false, nil))
	})
	ok("route.alternate", func(s session) {
		alternate, q, bound := s.exchange("x-alternate", "fanout", nil), s.queue("", nil), s.queue("", nil)
		x := s.exchange("x-with-alternate", "direct", amqp.Table{"alternate-exchange": alternate})
		s.bind(q, "", alternate, nil)
		s.bind(bound, "bound", x, nil)
		s.publish(x, "bound", "bound")
		s.publish(x, "other", "other")
		Expect([][]string{{"bound"}, {"other"}}, [][]string{s.bodies(bound), s.bodies(q)})
	})
	ok("route.cc_bcc", func(s session) {
		one, two, three := s.queue("", nil), s.queue("", nil), s.queue("", nil)
		headers := amqp.Table{"CC": []any{two}, "BCC": []any{three, one}}
		Must(s.Publish("", one, false, false, amqp.Publishing{Headers: headers, Body: []byte("m")}))
		for _, q := range []string{one, two, three} {
			Expect(amqp.Table{"CC": []any{two}}, s.get(q, true).Headers)
		}
		Expect(0, s.ready(one))
	})
}

func rpcChecks(ok okAdder, fails failingAdder) {
	ok("rpc.direct_reply_to", func(s session) {
		q, server := s.queue("", nil), s.other()
		requests := server.consume(q, true)
		answers := s.consume(replyTo, true)
		request := amqp.Publishing{ReplyTo: replyTo, CorrelationId: "1", Body: []byte("ping")}
		Must(s.Publish("", q, false, false, request))
		r := Next(requests, "a request")
		answer := amqp.Publishing{CorrelationId: r.CorrelationId, Body: bytes.ToUpper(r.Body)}
		Must(server.Publish("", r.ReplyTo, false, false, answer))
		a := Next(answers, "an answer")
		Expect([]string{"PING", "1"}, []string{string(a.Body), a.CorrelationId})
	})
	fails("rpc.no_consumer", func(s session) error {
		return s.Publish("", s.queue("", nil), false, false, amqp.Publishing{ReplyTo: replyTo})
	})
	fails("rpc.needs_no_ack", func(s session) error {
		_, err := s.Consume(replyTo, "", false, false, false, false, nil)
		return err
	})
}

// leveretOnly skips what other brokers have not.
func (s session) leveretOnly() {
	if product := s.conn.Properties["product"]; product != "Leveret" {
		Skip(fmt.Sprintf("%s has none", product))
	}
}

// order publishes an order to the scheduler; the headers are without their x-schedule-.
func (s session) order(body string, headers amqp.Table) {
	table := amqp.Table{}
	for name, value := range headers {
		table["x-schedule-"+name] = value
	}
	order := amqp.Publishing{Headers: table, Body: []byte(body), ReplyTo: replyTo}
	Must(s.Publish("amq.schedule", "", false, false, order))
}

// schedules is what the answer to a list says about the schedule of this name.
func schedules(list amqp.Delivery, name string) (found [][2]string) {
	var answer struct {
		Schedules []struct {
			Name, Timezone string
			RoutingKey     string `json:"routing_key"`
		}
	}
	Must(json.Unmarshal(list.Body, &answer))
	for _, schedule := range answer.Schedules {
		if schedule.Name == name {
			found = append(found, [2]string{schedule.Timezone, schedule.RoutingKey})
		}
	}
	return found
}

func laterChecks(ok okAdder, fails failingAdder) {
	delayed := func(s session, exchange, key, body, header string, value any) {
		message := amqp.Publishing{Headers: amqp.Table{header: value}, Body: []byte(body)}
		Must(s.Publish(exchange, key, false, false, message))
	}
	ok("later.deliver_after", func(s session) {
		s.leveretOnly()
		q, start := s.queue("", nil), time.Now()
		delayed(s, "", q, "third", "x-deliver-after", int32(400))
		delayed(s, "", q, "second", "x-deliver-after", int64(200))
		delayed(s, "", q, "first", "x-deliver-after", int32(0))
		Expect([]seen{{"first", false}, {"second", false}, {"third", false}}, see(take(s.consume(q, true), 3)...))
		Expect(true, time.Since(start) >= 399*time.Millisecond)
	})
	ok("later.deliver_at", func(s session) {
		s.leveretOnly()
		q, now := s.queue("", nil), time.Now()
		second := now.Add(400 * time.Millisecond)
		delayed(s, "", q, "second", "x-deliver-at", second.UnixMilli())
		delayed(s, "", q, "first", "x-deliver-at", now.Add(200*time.Millisecond).Format(time.RFC3339Nano))
		Expect([]seen{{"first", false}, {"second", false}}, see(take(s.consume(q, true), 2)...))
		Expect(true, time.Now().UnixMilli() >= second.UnixMilli())
	})
	ok("later.delayed_exchange", func(s session) {
		s.leveretOnly()
		q := s.queue("", nil)
		x := s.exchange("later", "x-delayed-message", amqp.Table{"x-delayed-type": "topic"})
		s.bind(q, "a.*", x, nil)
		delayed(s, x, "a.b", "second", "x-delay", int32(200))
		delayed(s, x, "a.b", "first", "x-delay", int32(100))
		found := []string{}
		for _, d := range take(s.consume(q, true), 2) {
			found = append(found, fmt.Sprintf("%s %v", d.Body, d.Headers["x-delay"]))
		}
		Expect([]string{"first -100", "second -200"}, found)
	})
	ok("later.retry", func(s session) {
		s.leveretOnly()
		failed, start := s.queue("", nil), time.Now()
		q := s.queue("", amqp.Table{
			"x-retry-delay": int32(100), "x-delivery-limit": int32(2),
			"x-dead-letter-exchange": "", "x-dead-letter-routing-key": failed,
		})
		Must(s.Publish("", q, false, false, amqp.Publishing{Body: []byte("m")}))
		deliveries := s.consume(q, false)
		for n := range int64(3) {
			d := Next(deliveries, "an attempt")
			count, _ := d.Headers["x-delivery-count"].(int64)
			Expect(n, count)
			Must(d.Reject(true))
		}
		Expect([]seen{{"m", false}}, see(take(s.consume(failed, true), 1)...))
		Expect(true, time.Since(start) >= 299*time.Millisecond)
	})
	ok("later.schedule", func(s session) {
		s.leveretOnly()
		q, tick := s.queue("", nil), Name("tick")
		answers := s.consume(replyTo, true)
		s.order("tick", amqp.Table{"name": tick, "cron": "@every 1s", "routing-key": q})
		ticks := s.consume(q, true)
		var at [2]time.Time
		for n := range at {
			d := Next(ticks, "a tick")
			Expect([]any{"tick", tick}, []any{string(d.Body), d.Headers["x-schedule-name"]})
			at[n] = Value(time.Parse(time.RFC3339, d.Headers["x-schedule-nominal-time"].(string)))
		}
		Expect(time.Second, at[1].Sub(at[0]))
		s.order("", amqp.Table{"name": tick, "action": "delete"})
		s.order("", amqp.Table{"action": "list"})
		Expect(0, len(schedules(take(answers, 3)[2], tick)))
	})
	ok("later.list", func(s session) {
		s.leveretOnly()
		nightly := Name("nightly")
		answers := s.consume(replyTo, true)
		s.order("", amqp.Table{
			"name": nightly, "cron": "0 3 * * *", "timezone": "Europe/Berlin", "routing-key": "jobs",
		})
		s.order("", amqp.Table{"action": "list"})
		s.order("", amqp.Table{"name": nightly, "action": "delete"})
		Expect([][2]string{{"Europe/Berlin", "jobs"}}, schedules(take(answers, 3)[1], nightly))
	})
	fails("later.bad_cron", func(s session) error {
		s.leveretOnly()
		headers := amqp.Table{"x-schedule-name": Name("bad"), "x-schedule-cron": "61 * * * *"}
		return s.Publish("amq.schedule", "", false, false, amqp.Publishing{Headers: headers})
	})
}

func reconnectChecks(ok okAdder) {
	ok("reconnect.channel", func(s session) {
		q, broken := s.queue("", nil), s.other()
		broken.expectGone(Name("missing"))
		s.publishConfirmed("", q, "the other channel lives")
		again := s.other()
		Expect([]string{"the other channel lives"}, again.bodies(q))
	})
	ok("reconnect.connection", func(s session) {
		Expect("connection", s.replyOf(func() error { return s.Qos(0, 1, false) }).Level)
		again := dial()
		defer again.conn.Close()
		q := again.queue("", nil)
		again.publish("", q, "m")
		Expect([]string{"m"}, again.bodies(q))
	})
}
