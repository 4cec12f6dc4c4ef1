module examples

go 1.24.0

require (
	github.com/rabbitmq/amqp091-go v1.16.0
	github.com/robfig/cron/v3 v3.0.1
	github.com/streadway/amqp v1.1.0
)
