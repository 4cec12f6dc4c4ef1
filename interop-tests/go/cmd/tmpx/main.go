package main
import _ "github.com/rabbitmq/amqp091-go"
func main(){}
