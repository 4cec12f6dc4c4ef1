// Sends e-mails, and tries again later and later what could not be sent: after 1, 2 and 4 seconds here.
'use strict';

const amqp = require('amqplib');

const ATTEMPTS = 4;
const FIRST_DELAY_MS = 1_000;

/** Stands for a mail server that is down for a while. */
async function send(email, attempt) {
  if (email === 'to nobody' || attempt < 3) throw new Error('connection refused');
}

async function main() {
  const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue('emails', { durable: true });
  await channel.assertQueue('emails.failed', { durable: true });
  for (const email of ['to ada', 'to nobody']) {
    channel.sendToQueue('emails', Buffer.from(email), { persistent: true });
  }
  await channel.prefetch(10);
  await channel.consume('emails', async (message) => {
    const email = message.content.toString();
    const attempt = message.properties.headers?.attempt ?? 1;
    try {
      await send(email, attempt);
      console.log(`${email}: sent at attempt ${attempt}`);
    } catch (error) {
      console.log(`${email}: attempt ${attempt}: ${error.message}`);
      if (attempt < ATTEMPTS) {
        const headers = { attempt: attempt + 1, 'x-deliver-after': FIRST_DELAY_MS * 2 ** (attempt - 1) };
        channel.sendToQueue('emails', message.content, { persistent: true, headers });
      } else {
        channel.sendToQueue('emails.failed', message.content, { persistent: true });
      }
      await channel.waitForConfirms(); // what is put off is on disk before the delivery is acknowledged
    }
    channel.ack(message);
    if (email === 'to nobody' && attempt === ATTEMPTS) await connection.close(); // the last one of this example
  });
}

main();
