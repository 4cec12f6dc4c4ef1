// Sends e-mails. What could not be sent the queue delivers again after 1, 2 and 4 seconds, and then gives up.
'use strict';

const amqp = require('amqplib');

const ARGUMENTS = {
  'x-retry-delay': 1_000, // and twice as long each time
  'x-delivery-limit': 3, // 4 attempts
  'x-dead-letter-exchange': '',
  'x-dead-letter-routing-key': 'emails.failed',
};

/** Stands for a mail server that is down for a while. */
async function send(email, attempt) {
  if (email === 'to nobody' || attempt < 3) throw new Error('connection refused');
}

async function main() {
  const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
  const channel = await connection.createChannel();
  await channel.assertQueue('emails', { durable: true, arguments: ARGUMENTS });
  await channel.assertQueue('emails.failed', { durable: true });
  for (const email of ['to ada', 'to nobody']) {
    channel.sendToQueue('emails', Buffer.from(email), { persistent: true });
  }
  await channel.prefetch(10);
  await channel.consume('emails', async (message) => {
    const email = message.content.toString();
    const attempt = 1 + (message.properties.headers?.['x-delivery-count'] ?? 0);
    try {
      await send(email, attempt);
      console.log(`${email}: sent at attempt ${attempt}`);
      channel.ack(message);
    } catch (error) {
      console.log(`${email}: attempt ${attempt}: ${error.message}`);
      channel.reject(message, true);
    }
  });
  await channel.consume('emails.failed', async (message) => {
    console.log(`${message.content}: given up`);
    channel.ack(message);
    await connection.close(); // the last one of this example
  });
}

main();
