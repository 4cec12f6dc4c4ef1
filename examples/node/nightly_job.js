// A job every night at three o'clock in Berlin, winter and summer. The broker keeps the schedule, not this program.
'use strict';

const amqp = require('amqplib');

const REPLY_TO = 'amq.rabbitmq.reply-to';

async function main() {
  const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
  const channel = await connection.createChannel();
  await channel.assertQueue('jobs', { durable: true });

  let answered;
  await channel.consume(REPLY_TO, ({ content }) => answered(JSON.parse(content)), { noAck: true });

  /** Publishes an order to the scheduler; the answer comes once it is on disk. */
  function order(orders, body = '') {
    const headers = Object.fromEntries(Object.entries(orders).map(([key, value]) => [`x-schedule-${key}`, value]));
    const answer = new Promise((resolve) => { answered = resolve; });
    channel.publish('amq.schedule', '', Buffer.from(body), { persistent: true, replyTo: REPLY_TO, headers });
    return answer;
  }

  const made = await order({
    name: 'nightly-report', cron: '0 3 * * *', timezone: 'Europe/Berlin', 'routing-key': 'jobs',
  }, 'rebuild the report');
  console.log('the next nights:', ...made.next);

  await channel.consume('jobs', async (message) => {
    console.log(`${message.content}: ${message.properties.messageId}`);
    channel.ack(message);
    await order({ name: 'nightly-report', action: 'delete' });
    await connection.close();
  });
  await order({ name: 'nightly-report', action: 'run-now' }); // nobody wants to wait until three
}

main();
