// A reminder, 3 seconds from now.
'use strict';

const amqp = require('amqplib');

async function main() {
  const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue('reminders', { durable: true });

  const start = performance.now();
  const headers = { 'x-deliver-after': 3_000 };
  channel.sendToQueue('reminders', Buffer.from('the tea is ready'), { persistent: true, messageId: 'tea-1', headers });
  await channel.waitForConfirms(); // on disk

  await channel.consume('reminders', async (message) => {
    console.log(`${message.content}, after ${((performance.now() - start) / 1000).toFixed(3)} s`);
    channel.ack(message);
    await connection.close();
  });
}

main();
