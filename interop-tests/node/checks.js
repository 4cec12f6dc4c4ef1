// Makes the checks of ../checks.txt through amqplib. Arguments select checks by the start of their names.
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const path = require('node:path');
const { URL: Url } = require('node:url');
const amqp = require('amqplib');

const PATIENCE_MS = 10_000;
const PROGRAM_PATIENCE_MS = 120_000;
const URL = process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/';
const PREFIX = `interop.node.${process.pid}.`;
const REPLY_TO = 'amq.rabbitmq.reply-to';

// --- running checks

class Wrong extends Error {}
class Skip extends Error {}

const checks = new Map();
const namesUsed = new Set();

/** The name of a queue or exchange of this run. It is taken out of reply texts again. */
function name(short) {
  namesUsed.add(PREFIX + short);
  return PREFIX + short;
}

function expect(expected, got) {
  try {
    assert.deepStrictEqual(got, expected);
  } catch {
    throw new Wrong(`expected ${JSON.stringify(expected)} got ${JSON.stringify(got)}`);
  }
}

/** The promise, or a failed check when it takes too long. */
async function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Wrong(`expected ${what} within ${PATIENCE_MS} ms got nothing`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Rows of replies.tsv for a check; INTEROP_REPLIES (3.x or 4.x) leaves out those of the other version. */
function acceptedReplies(check) {
  const version = process.env.INTEROP_REPLIES;
  const file = path.join(process.env.INTEROP_DIR ?? path.join(__dirname, '..'), 'replies.tsv');
  return fs.readFileSync(file, 'utf8').split('\n')
    .map((line) => line.split('\t'))
    .filter(([wanted, which]) => wanted === check && (!version || ['any', version].includes(which)))
    .map(([, , ...reply]) => reply.join(' '));
}

async function passes(checkName, run) {
  let line = `ok ${checkName}`;
  const session = await connect();
  try {
    const reply = await run(session);
    if (reply) {
      const seen = reply.replaceAll(PREFIX, '');
      const accepted = acceptedReplies(checkName);
      if (!accepted.includes(seen)) throw new Wrong(`expected ${accepted.join(' or ')} got ${seen}`);
      line += `: ${seen}`;
    }
  } catch (error) {
    if (error instanceof Skip) {
      line = `skip ${checkName}: ${error.message}`;
    } else {
      line = `FAIL ${checkName}: ${error instanceof Wrong ? error.message : `expected no error got ${error}`}`;
      if (!(error instanceof Wrong)) console.error(error);
    }
  }
  console.log(line);
  await session.close();
  return !line.startsWith('FAIL');
}

/** Adds a check; it returns the reply it provoked when it is about an error. */
function check(checkName, run) {
  checks.set(checkName, run);
}

/** Adds a check whose action makes the broker close the channel or the connection. */
function fails(checkName, act) {
  check(checkName, (s) => s.replyOf(() => act(s)));
}

function skip(checkName, reason) {
  check(checkName, () => { throw new Skip(reason); });
}

async function main() {
  setTimeout(() => {
    console.error('the program did not end');
    process.exit(3);
  }, PROGRAM_PATIENCE_MS).unref();
  const starts = process.argv.slice(2);
  let failed = 0;
  for (const [checkName, run] of checks) {
    if (starts.length && !starts.some((start) => checkName.startsWith(start))) continue;
    if (!await passes(checkName, run)) failed += 1;
  }
  const s = await connect();
  for (const left of namesUsed) { // deleting what is not there succeeds
    await s.ch.deleteQueue(left);
    await s.ch.deleteExchange(left);
  }
  await s.close();
  process.exit(failed ? 1 : 0);
}

// --- the client, shortened

/** A connection and a channel of it. */
class Session {
  constructor(conn, ch) {
    this.conn = conn;
    this.ch = ch;
    // Checks that expect an error wait for these; without a listener they would end the program.
    this.channelError = new Promise((resolve) => { ch.on('error', resolve); });
    this.connectionError = new Promise((resolve) => { conn.on('error', resolve); });
    this.replyText = async (promise, level) => {
      const error = await promise;
      return `${level} ${error.code} ${/with message "(.*)"/s.exec(error.message)[1]}`;
    };
  }

  async other(kind = 'createChannel') {
    return new Session(this.conn, await this.conn[kind]());
  }

  confirming() {
    return this.other('createConfirmChannel');
  }

  async close() {
    await this.conn.close().catch(() => {}); // closed already when the check made the broker close it
  }

  async queue(short = '', options = {}) {
    return (await this.ch.assertQueue(short && name(short), { exclusive: true, durable: false, ...options })).queue;
  }

  async exchange(short, type, options = {}) {
    await this.ch.assertExchange(name(short), type, { durable: false, autoDelete: true, ...options });
    return name(short);
  }

  publish(exchange, key, ...bodies) {
    for (const body of bodies) this.ch.publish(exchange, key, Buffer.from(body));
  }

  /** For what another channel is to see: only the confirm says that the queue has it. */
  async publishConfirmed(key, body) {
    const confirming = await this.confirming();
    confirming.publish('', key, body);
    await confirming.ch.waitForConfirms();
  }

  async ready(queue) {
    return (await this.ch.checkQueue(queue)).messageCount;
  }

  async get(queue, options) {
    const message = await this.ch.get(queue, options);
    if (!message) throw new Wrong(`expected a message in ${queue} got none`);
    return message;
  }

  /** Gets what is ready, without acks. */
  async bodies(queue) {
    const found = [];
    for (let message; (message = await this.ch.get(queue, { noAck: true }));) found.push(see(message));
    return found;
  }

  async consume(queue, options) {
    const inbox = new Inbox();
    inbox.tag = (await this.ch.consume(queue, (message) => inbox.add(message), options)).consumerTag;
    return inbox;
  }

  /** Waits for the broker to close the channel or the connection because of what `act` did. */
  async replyOf(act) {
    await Promise.resolve(act()).catch((error) => {
      if (error instanceof Wrong) throw error; // others are told of the close, some later than we are
    });
    return within(Promise.race([
      this.replyText(this.channelError, 'channel'), this.replyText(this.connectionError, 'connection'),
    ]), 'an error');
  }

  async expectGone(queue) {
    const reply = await this.replyOf(() => this.ch.checkQueue(queue));
    expect('channel 404', reply.slice(0, 11));
  }
}

async function connect(overrides = {}) {
  const conn = await amqp.connect(Object.assign(new Url(URL), overrides).href);
  return new Session(conn, await conn.createChannel());
}

/** Keeps the deliveries of a consumer; null stands for its cancellation by the broker. */
class Inbox {
  messages = [];
  #waiting = [];

  add(message) {
    const waiting = this.#waiting.shift();
    if (waiting) waiting(message);
    else this.messages.push(message);
  }

  next() {
    if (this.messages.length) return this.messages.shift();
    return within(new Promise((resolve) => { this.#waiting.push(resolve); }), 'a delivery');
  }

  async seen(count) {
    const seen = [];
    while (seen.length < count) seen.push(see(await this.next()));
    return seen;
  }
}

function see({ content, fields }) {
  return `${content}${fields.redelivered ? ' redelivered' : ''}`;
}

function numbers(count) {
  return Array.from({ length: count }, (_, n) => String(n));
}

// --- connection

check('connection.open', async ({ conn }) => {
  const announced = conn.connection.serverProperties.capabilities;
  const wanted = ['publisher_confirms', 'exchange_exchange_bindings', 'basic.nack', 'consumer_cancel_notify',
    'connection.blocked', 'consumer_priorities', 'authentication_failure_close', 'per_consumer_qos',
    'direct_reply_to'];
  expect([], wanted.filter((capability) => announced[capability] !== true));
});

check('connection.auth_refused', async (s) => {
  const { message } = await connect({ password: 'wrong' }).catch((error) => error);
  const [, code] = /: (\d+) \(/.exec(message) ?? []; // errors of the handshake have no code of their own
  return s.replyText({ code, message }, 'connection');
});

check('connection.vhost_missing', async () => {
  const { message } = await connect({ pathname: '/missing' }).catch((error) => error);
  // amqplib does not read the reply; that the broker sent connection.close is all it tells.
  expect('Expected ConnectionOpenOk; got <ConnectionClose channel:0>', message);
});

// --- exchanges

check('exchange.declare', async (s) => {
  for (const type of ['direct', 'fanout', 'topic', 'headers']) {
    await s.exchange(`x-${type}`, type);
    await s.exchange(`x-durable-${type}`, type, { durable: true, autoDelete: false });
    await s.exchange(`x-durable-${type}`, type, { durable: true, autoDelete: false });
    await s.ch.deleteExchange(name(`x-${type}`));
    await s.ch.deleteExchange(name(`x-durable-${type}`));
  }
});

check('exchange.passive', async (s) => {
  await s.exchange('x-passive', 'topic', { durable: true });
  await s.ch.checkExchange(name('x-passive'));
  await s.ch.checkExchange('amq.direct');
});

fails('exchange.passive_missing', (s) => s.ch.checkExchange(name('missing')));

fails('exchange.inequivalent_type', async (s) => {
  await s.exchange('x-type', 'direct');
  await s.exchange('x-type', 'fanout');
});

fails('exchange.inequivalent_durable', async (s) => {
  await s.exchange('x-durability', 'direct');
  await s.exchange('x-durability', 'direct', { durable: true });
});

fails('exchange.unknown_type', (s) => s.exchange('x-unknown', 'no-such-type'));
fails('exchange.reserved_name', (s) => s.ch.assertExchange('amq.interop', 'direct'));
fails('exchange.default_declare', (s) => s.ch.assertExchange('', 'direct'));

fails('exchange.delete_in_use', async (s) => {
  await s.ch.bindQueue(await s.queue(), await s.exchange('x-used', 'fanout'), '');
  await s.ch.deleteExchange(name('x-used'), { ifUnused: true });
});

check('exchange.delete_missing', async (s) => { await s.ch.deleteExchange(name('missing')); });

fails('exchange.internal_publish', async (s) => {
  s.publish(await s.exchange('x-internal', 'fanout', { internal: true }), '', 'm');
});

// --- queues

check('queue.server_named', async (s) => {
  const q = await s.queue();
  if (!q.startsWith('amq.gen-') || q === await s.queue()) {
    throw new Wrong(`expected amq.gen-... and another one each time got ${q}`);
  }
});

check('queue.last_declared', async (s) => {
  const x = await s.exchange('x-last', 'direct');
  const q = await s.queue();
  await s.ch.bindQueue('', x, ''); // with the queue's name as routing key too
  s.publish(x, q, 'm');
  expect(['m'], await (await s.consume('', { noAck: true })).seen(1));
});

check('queue.passive', async (s) => {
  const q = await s.queue();
  s.publish('', q, 'a', 'b', 'c');
  await s.get(q);
  expect({ queue: q, messageCount: 2, consumerCount: 0 }, { ...await (await s.other()).ch.checkQueue(q) });
  await s.consume(q);
  expect(1, (await s.ch.checkQueue(q)).consumerCount);
});

fails('queue.passive_missing', (s) => s.ch.checkQueue(name('missing')));

fails('queue.inequivalent_durable', async (s) => {
  await s.queue('q-durability', { exclusive: false, autoDelete: true });
  await s.queue('q-durability', { exclusive: false, autoDelete: true, durable: true });
});

fails('queue.inequivalent_argument', async (s) => {
  await s.queue('q-arguments', { maxLength: 10 });
  await s.queue('q-arguments', { maxLength: 20 });
});

fails('queue.invalid_argument', (s) => s.queue('q-invalid', { arguments: { 'x-message-ttl': -1 } }));
fails('queue.reserved_name', (s) => s.ch.assertQueue('amq.interop', { exclusive: true }));

check('queue.exclusive_locked', async (s) => {
  const q = await s.queue('q-exclusive');
  const other = await connect();
  const reply = await other.replyOf(() => other.consume(q));
  await other.close();
  return reply;
});

check('queue.exclusive_gone', async (s) => {
  const other = await connect();
  const q = await other.queue();
  await other.close();
  await s.expectGone(q);
});

check('queue.auto_delete', async (s) => {
  const q = await s.queue('q-auto', { exclusive: false, autoDelete: true });
  const [one, two] = [await s.consume(q), await s.consume(q)];
  await s.ch.cancel(one.tag);
  expect(0, await s.ready(q));
  await s.ch.cancel(two.tag);
  await s.expectGone(q);
});

fails('queue.delete_not_empty', async (s) => {
  const q = await s.queue('q-full');
  s.publish('', q, 'm');
  await s.ch.deleteQueue(q, { ifEmpty: true });
});

fails('queue.delete_in_use', async (s) => {
  const q = await s.queue('q-used');
  await s.consume(q);
  await s.ch.deleteQueue(q, { ifUnused: true });
});

check('queue.delete_missing', async (s) => {
  expect(0, (await s.ch.deleteQueue(name('missing'))).messageCount);
});

check('queue.purge', async (s) => {
  const q = await s.queue();
  s.publish('', q, 'a', 'b', 'c');
  const first = await s.get(q);
  expect(2, (await s.ch.purgeQueue(q)).messageCount);
  s.ch.nack(first);
  expect(['a redelivered'], await s.bodies(q));
});

check('queue.priority', async (s) => {
  const q = await s.queue('', { maxPriority: 5 });
  for (const [body, priority] of [['a', undefined], ['b', 3], ['c', 9], ['d', 5], ['e', 3]]) {
    s.ch.publish('', q, Buffer.from(body), { priority });
  }
  expect(['c', 'd', 'b', 'e', 'a'], await s.bodies(q));
});

fails('queue.bind_missing', async (s) => s.ch.bindQueue(await s.queue(), name('missing'), 'key'));
fails('queue.default_bind', async (s) => s.ch.bindQueue(await s.queue(), '', 'key'));

// --- publishing

check('publish.confirm_one', async (s) => {
  const [q, confirming] = [await s.queue(), await s.confirming()];
  await within(new Promise((resolve, reject) => {
    confirming.ch.sendToQueue(q, Buffer.from('m'), {}, (error) => (error ? reject(error) : resolve()));
  }), 'a confirm');
  expect(1, await s.ready(q));
});

check('publish.confirm_many', async (s) => {
  const [q, confirming] = [await s.queue(), await s.confirming()];
  let confirmed = 0;
  for (const number of numbers(500)) {
    confirming.ch.sendToQueue(q, Buffer.from(number), {}, (error) => { if (!error) confirmed += 1; });
  }
  await within(confirming.ch.waitForConfirms(), 'confirms');
  expect(500, confirmed);
  expect(numbers(500), await s.bodies(q));
});

check('publish.mandatory', async (s) => {
  const { ch } = await s.confirming();
  const events = [];
  ch.on('return', ({ fields, content }) => {
    events.push(`return ${fields.replyCode} ${fields.replyText} ${fields.routingKey} ${content}`);
  });
  const note = (what) => (error) => events.push(`${error ? 'nack' : 'ack'} ${what}`);
  ch.publish('', await s.queue(), Buffer.from('routed'), { mandatory: true }, note('routed'));
  ch.publish('', name('nowhere'), Buffer.from('m'), { mandatory: true }, note('returned'));
  await within(ch.waitForConfirms(), 'confirms');
  expect(['ack routed', `return 312 NO_ROUTE ${name('nowhere')} m`, 'ack returned'].sort(), [...events].sort());
  expect(true, events.indexOf('ack returned') > events.findIndex((event) => event.startsWith('return')));
});

fails('publish.missing_exchange', (s) => s.publish(name('missing'), 'key', 'm'));

skip('publish.immediate', 'amqplib never sends it');

check('publish.user_id', async (s) => {
  const [q, confirming] = [await s.queue(), await s.confirming()];
  confirming.ch.publish('', q, Buffer.from('m'), { userId: 'guest' });
  await within(confirming.ch.waitForConfirms(), 'a confirm');
  return s.replyOf(() => s.ch.publish('', q, Buffer.from('m'), { userId: 'someone' }));
});

fails('publish.expiration', async (s) => {
  s.ch.publish('', await s.queue(), Buffer.from('m'), { expiration: 'soon' });
});

check('publish.properties', async (s) => {
  const q = await s.queue();
  const sent = {
    contentType: 'text/plain', contentEncoding: 'utf-8', deliveryMode: 2, priority: 9, correlationId: 'c',
    replyTo: 'r', expiration: '60000', messageId: 'id', timestamp: 1_700_000_000, type: 't', userId: 'guest',
    appId: 'app', clusterId: undefined,
    headers: {
      string: 'ü', small: -1, short: -300, int: -70_000, big: 2 ** 40, double: 0.25, true: true, null: null,
      bytes: Buffer.from([0, 255]), time: { '!': 'timestamp', value: 1_600_000_000 },
      decimal: { '!': 'decimal', value: { digits: 314, places: 2 } }, float: { '!': 'float', value: 0.5 },
      table: { nested: { deep: 1 } }, list: [1, 'two', [true]],
    },
  };
  s.ch.publish('', q, Buffer.from('m'), sent);
  s.publish('', q, 'bare');
  const received = (await s.get(q)).properties;
  received.headers = { ...received.headers, float: { '!': 'float', value: 0.5 } }; // read as a plain number
  expect(sent, { ...received });
  const { headers, ...bare } = (await s.get(q)).properties;
  expect([{}, []], [{ ...headers }, Object.values(bare).filter((value) => value !== undefined)]);
});

check('publish.sizes', async (s) => {
  const q = await s.queue();
  const oneFrame = s.conn.connection.frameMax - 8;
  for (const size of [0, 1, oneFrame - 1, oneFrame, oneFrame + 1, 1 << 20]) {
    const body = Buffer.alloc(size, '0123456789abcdefg');
    s.ch.publish('', q, body);
    if (!(await s.get(q)).content.equals(body)) throw new Wrong(`expected ${size} bytes unchanged got others`);
  }
});

// --- consuming

check('consume.ack', async (s) => {
  const q = await s.queue();
  s.publish('', q, 'a', 'b', 'c');
  const inbox = await s.consume(q);
  for (const body of ['a', 'b', 'c']) {
    const message = await inbox.next();
    const { consumerTag, exchange, routingKey } = message.fields;
    expect([body, inbox.tag, '', q], [see(message), consumerTag, exchange, routingKey]);
    s.ch.ack(message);
  }
  expect(0, (await s.ch.deleteQueue(q)).messageCount);
});

check('consume.prefetch', async (s) => {
  const q = await s.queue();
  s.publish('', q, ...numbers(20));
  await s.ch.prefetch(5);
  const inbox = await s.consume(q);
  const held = [];
  while (held.length < 5) held.push(await inbox.next());
  expect([15, 0], [await s.ready(q), inbox.messages.length]);
  for (let n = 0; n < 20; n += 1) {
    expect(String(n), see(held[n]));
    s.ch.ack(held[n]);
    if (n + 5 < 20) held.push(await inbox.next());
    expect([Math.max(14 - n, 0), 0], [await s.ready(q), inbox.messages.length]);
  }
});

check('consume.prefetch_channel', async (s) => {
  const q = await s.queue();
  s.publish('', q, ...numbers(20));
  await s.ch.prefetch(5, true);
  const inbox = new Inbox();
  await s.ch.consume(q, (message) => inbox.add(message));
  await s.ch.consume(q, (message) => inbox.add(message));
  for (const left of [15, 10]) {
    const held = [];
    while (held.length < 5) held.push(await inbox.next());
    expect([left, 0], [await s.ready(q), inbox.messages.length]);
    s.ch.ack(held[4], true);
  }
  await s.ch.prefetch(8, true);
  await inbox.seen(8);
  expect([2, 0], [await s.ready(q), inbox.messages.length]);
});

for (const [checkName, settle] of [
  ['consume.nack_requeue', (ch, message) => ch.nack(message, false, true)],
  ['consume.reject_requeue', (ch, message) => ch.reject(message, true)],
]) {
  check(checkName, async (s) => {
    const q = await s.queue();
    s.publish('', q, 'a', 'b', 'c');
    const [first, second] = [await s.get(q), await s.get(q)];
    settle(s.ch, second);
    settle(s.ch, first);
    expect(['a redelivered', 'b redelivered', 'c'], await s.bodies(q));
  });
}

check('consume.reject_drop', async (s) => {
  const q = await s.queue();
  s.publish('', q, 'a', 'b');
  s.ch.reject(await s.get(q), false);
  expect(['b'], await s.bodies(q));
});

check('consume.nack_multiple', async (s) => {
  const q = await s.queue();
  s.publish('', q, 'a', 'b', 'c', 'd');
  const [, second] = [await s.get(q), await s.get(q), await s.get(q)];
  s.ch.nack(second, true, true);
  expect(['a redelivered', 'b redelivered', 'd'], await s.bodies(q));
});

check('consume.channel_close_requeues', async (s) => {
  const [q, other] = [await s.queue(), await s.other()];
  s.publish('', q, 'a', 'b');
  await (await other.consume(q)).seen(2);
  await other.ch.close();
  expect(['a redelivered', 'b redelivered'], await s.bodies(q));
});

check('consume.recover', async (s) => {
  const q = await s.queue();
  s.publish('', q, 'a', 'b');
  const inbox = await s.consume(q);
  expect(['a', 'b'], await inbox.seen(2));
  await s.ch.recover();
  expect(['a redelivered', 'b redelivered'], await inbox.seen(2));
});

fails('consume.unknown_tag', (s) => s.ch.ack({ fields: { deliveryTag: 99 } }));

fails('consume.duplicate_tag', async (s) => {
  const q = await s.queue();
  await s.consume(q, { consumerTag: 'twice' });
  await s.consume(q, { consumerTag: 'twice' });
});

check('consume.exclusive', async (s) => {
  const [q, other] = [await s.queue('q-exclusive-consumer'), await s.other()];
  await s.consume(q, { exclusive: true });
  return other.replyOf(() => other.consume(q));
});

fails('consume.missing_queue', (s) => s.consume(name('missing')));

check('consume.cancel', async (s) => {
  const q = await s.queue();
  s.publish('', q, 'a', 'b', 'c');
  await s.ch.prefetch(1);
  const inbox = await s.consume(q);
  const first = await inbox.next();
  await s.ch.cancel(inbox.tag);
  s.ch.ack(first);
  expect([2, 0], [await s.ready(q), inbox.messages.length]);
});

check('consume.cancel_notify', async (s) => {
  const [q, other] = [await s.queue(), await s.other()];
  const inbox = await s.consume(q);
  await other.ch.deleteQueue(q);
  expect(null, await inbox.next());
});

check('consume.priority', async (s) => {
  const q = await s.queue();
  const low = await s.consume(q, { noAck: true });
  const high = await s.consume(q, { noAck: true, priority: 10 });
  s.publish('', q, 'a', 'b', 'c');
  expect(['a', 'b', 'c'], await high.seen(3));
  expect(0, low.messages.length);
});

skip('qos.prefetch_size', 'amqplib has no prefetch_size');

check('get.message', async (s) => {
  const q = await s.queue();
  s.publish('', q, 'a', 'b', 'c');
  const message = await s.get(q);
  const { messageCount, exchange, routingKey } = message.fields;
  expect(['a', 2, '', q], [see(message), messageCount, exchange, routingKey]);
});

check('get.empty', async (s) => { expect(false, await s.ch.get(await s.queue())); });

// --- transactions

for (const checkName of ['tx.commit', 'tx.rollback', 'tx.not_selected', 'tx.on_confirm_channel']) {
  skip(checkName, 'amqplib has no transactions');
}

// --- routing

check('route.default', async (s) => {
  const q = await s.queue('q-routed');
  s.ch.sendToQueue(q, Buffer.from('m'));
  expect(['m'], await s.bodies(q));
});

check('route.direct', async (s) => {
  const [x, one, two] = [await s.exchange('x-direct', 'direct'), await s.queue(), await s.queue()];
  await s.ch.bindQueue(one, x, 'red');
  await s.ch.bindQueue(one, x, 'green');
  await s.ch.bindQueue(two, x, 'green');
  for (const key of ['red', 'green', 'blue']) s.publish(x, key, key);
  expect([['red', 'green'], ['green']], [await s.bodies(one), await s.bodies(two)]);
  await s.ch.unbindQueue(one, x, 'red');
  s.publish(x, 'red', 'red');
  expect([], await s.bodies(one));
});

check('route.fanout', async (s) => {
  const [x, one, two] = [await s.exchange('x-fanout', 'fanout'), await s.queue(), await s.queue()];
  await s.ch.bindQueue(one, x, 'ignored');
  await s.ch.bindQueue(two, x, '');
  s.publish(x, 'any', 'm');
  expect([['m'], ['m']], [await s.bodies(one), await s.bodies(two)]);
});

check('route.topic', async (s) => {
  const x = await s.exchange('x-topic', 'topic');
  // The empty key has no words: "#" matches it and "*" does not.
  const expected = {
    'a.b.c': ['a.b.c'], '*.b.*': ['a.b.c', 'x.b.c'], 'a.#': ['a.b.c', 'a', 'a.b.c.d'], '#.c': ['a.b.c', 'x.b.c'],
    '#': ['a.b.c', 'x.b.c', 'a', 'a.b.c.d', ''], '*': ['a'], 'a.*.#.d': ['a.b.c.d'],
  };
  const queues = {};
  for (const pattern of Object.keys(expected)) {
    queues[pattern] = await s.queue();
    await s.ch.bindQueue(queues[pattern], x, pattern);
  }
  for (const key of ['a.b.c', 'x.b.c', 'a', 'a.b.c.d', '']) s.publish(x, key, key);
  for (const [pattern, q] of Object.entries(queues)) queues[pattern] = await s.bodies(q);
  expect(expected, queues);
});

check('route.headers', async (s) => {
  const [x, every, some] = [await s.exchange('x-headers', 'headers'), await s.queue(), await s.queue()];
  await s.ch.bindQueue(every, x, '', { 'x-match': 'all', format: 'pdf', pages: 1 });
  await s.ch.bindQueue(some, x, '', { 'x-match': 'any', format: 'pdf', pages: 1 });
  for (const headers of [{ format: 'pdf', pages: 1 }, { format: 'pdf', pages: 2 }, { format: 'ps' }]) {
    s.ch.publish(x, '', Buffer.from(`pages ${headers.pages}`), { headers });
  }
  expect([['pages 1'], ['pages 1', 'pages 2']], [await s.bodies(every), await s.bodies(some)]);
});

check('route.e2e', async (s) => {
  const [source, target] = [await s.exchange('x-source', 'topic'), await s.exchange('x-target', 'fanout')];
  const q = await s.queue();
  await s.ch.bindQueue(q, target, '');
  await s.ch.bindExchange(target, source, 'a.*');
  s.publish(source, 'a.b', 'through');
  s.publish(source, 'b.b', 'past');
  expect(['through'], await s.bodies(q));
  await s.ch.unbindExchange(target, source, 'a.*');
});

check('route.alternate', async (s) => {
  const alternateExchange = await s.exchange('x-alternate', 'fanout');
  const x = await s.exchange('x-with-alternate', 'direct', { alternateExchange });
  const [q, bound] = [await s.queue(), await s.queue()];
  await s.ch.bindQueue(q, alternateExchange, '');
  await s.ch.bindQueue(bound, x, 'bound');
  s.publish(x, 'bound', 'bound');
  s.publish(x, 'other', 'other');
  expect([['bound'], ['other']], [await s.bodies(bound), await s.bodies(q)]);
});

check('route.cc_bcc', async (s) => {
  const [one, two, three] = [await s.queue(), await s.queue(), await s.queue()];
  s.ch.publish('', one, Buffer.from('m'), { CC: [two], BCC: [three, one] });
  for (const q of [one, two, three]) expect({ CC: [two] }, { ...(await s.get(q)).properties.headers });
  expect(0, await s.ready(one));
});

// --- request and reply

check('rpc.direct_reply_to', async (s) => {
  const [q, server] = [await s.queue(), await s.other()];
  await server.ch.consume(q, ({ content, properties: { replyTo, correlationId } }) => {
    server.ch.sendToQueue(replyTo, Buffer.from(content.toString().toUpperCase()), { correlationId });
  }, { noAck: true });
  const answers = await s.consume(REPLY_TO, { noAck: true });
  s.ch.sendToQueue(q, Buffer.from('ping'), { replyTo: REPLY_TO, correlationId: '1' });
  const answer = await answers.next();
  expect(['PING', '1'], [see(answer), answer.properties.correlationId]);
});

fails('rpc.no_consumer', async (s) => {
  s.ch.sendToQueue(await s.queue(), Buffer.from('m'), { replyTo: REPLY_TO });
});
fails('rpc.needs_no_ack', (s) => s.consume(REPLY_TO));

// --- delayed messages and schedules

function leveretOnly(s) {
  const { product } = s.conn.connection.serverProperties;
  if (product !== 'Leveret') throw new Skip(`${product} has none`);
}

/** An order to the scheduler; the headers are without their x-schedule-. */
function order(s, orders, body = '') {
  const headers = Object.fromEntries(Object.entries(orders).map(([key, value]) => [`x-schedule-${key}`, value]));
  s.ch.publish('amq.schedule', '', Buffer.from(body), { headers, replyTo: REPLY_TO });
}

async function schedulesNamed(wanted, answers, skipped) {
  for (let n = 0; n < skipped; n += 1) await answers.next();
  const { schedules } = JSON.parse((await answers.next()).content);
  return schedules.filter((schedule) => schedule.name === wanted);
}

check('later.deliver_after', async (s) => {
  leveretOnly(s);
  const [q, start] = [await s.queue(), process.hrtime.bigint()];
  for (const [body, delay] of [['third', 400], ['second', 200], ['first', 0]]) {
    s.ch.sendToQueue(q, Buffer.from(body), { headers: { 'x-deliver-after': delay } });
  }
  expect(['first', 'second', 'third'], await (await s.consume(q, { noAck: true })).seen(3));
  expect(true, process.hrtime.bigint() - start >= 399_000_000n);
});

check('later.deliver_at', async (s) => {
  leveretOnly(s);
  const [q, now] = [await s.queue(), Date.now()];
  s.ch.sendToQueue(q, Buffer.from('second'), { headers: { 'x-deliver-at': now + 400 } });
  s.ch.sendToQueue(q, Buffer.from('first'), { headers: { 'x-deliver-at': new Date(now + 200).toISOString() } });
  expect(['first', 'second'], await (await s.consume(q, { noAck: true })).seen(2));
  expect(true, Date.now() >= now + 400);
});

check('later.delayed_exchange', async (s) => {
  leveretOnly(s);
  const q = await s.queue();
  const x = await s.exchange('later', 'x-delayed-message', { arguments: { 'x-delayed-type': 'topic' } });
  await s.ch.bindQueue(q, x, 'a.*');
  for (const [body, delay] of [['second', 200], ['first', 100]]) {
    s.ch.publish(x, 'a.b', Buffer.from(body), { headers: { 'x-delay': delay } });
  }
  const inbox = await s.consume(q, { noAck: true });
  const found = [await inbox.next(), await inbox.next()];
  expect([['first', -100], ['second', -200]], found.map((m) => [see(m), m.properties.headers['x-delay']]));
});

check('later.retry', async (s) => {
  leveretOnly(s);
  const [failed, start, counts] = [await s.queue(), process.hrtime.bigint(), []];
  const q = await s.queue('', {
    arguments: {
      'x-retry-delay': 100, 'x-delivery-limit': 2, 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': failed,
    },
  });
  s.ch.sendToQueue(q, Buffer.from('m'));
  await s.ch.consume(q, (message) => {
    counts.push(message.properties.headers?.['x-delivery-count'] ?? 0);
    s.ch.reject(message, true);
  });
  expect(['m'], await (await s.consume(failed, { noAck: true })).seen(1));
  expect(true, process.hrtime.bigint() - start >= 299_000_000n);
  expect([0, 1, 2], counts);
});

check('later.schedule', async (s) => {
  leveretOnly(s);
  const [q, tick] = [await s.queue(), name('tick')];
  const answers = await s.consume(REPLY_TO, { noAck: true });
  order(s, { name: tick, cron: '@every 1s', 'routing-key': q }, 'tick');
  const inbox = await s.consume(q, { noAck: true });
  const found = [await inbox.next(), await inbox.next()];
  expect(['tick', 'tick'], found.map(see));
  const headers = found.map((message) => message.properties.headers);
  expect([tick, tick], headers.map((table) => table['x-schedule-name']));
  const [first, second] = headers.map((table) => Date.parse(table['x-schedule-nominal-time']));
  expect(1_000, second - first);
  order(s, { name: tick, action: 'delete' });
  order(s, { action: 'list' });
  expect([], await schedulesNamed(tick, answers, 2));
});

check('later.list', async (s) => {
  leveretOnly(s);
  const nightly = name('nightly');
  const answers = await s.consume(REPLY_TO, { noAck: true });
  order(s, { name: nightly, cron: '0 3 * * *', timezone: 'Europe/Berlin', 'routing-key': 'jobs' });
  order(s, { action: 'list' });
  order(s, { name: nightly, action: 'delete' });
  const found = await schedulesNamed(nightly, answers, 1);
  expect([['Europe/Berlin', 'jobs']], found.map((schedule) => [schedule.timezone, schedule.routing_key]));
});

check('later.bad_cron', (s) => {
  leveretOnly(s);
  const headers = { 'x-schedule-name': name('bad'), 'x-schedule-cron': '61 * * * *' };
  return s.replyOf(() => s.ch.publish('amq.schedule', '', Buffer.from(''), { headers }));
});

// --- going on after errors

check('reconnect.channel', async (s) => {
  const [q, broken] = [await s.queue(), await s.other()];
  await broken.expectGone(name('missing'));
  await s.publishConfirmed(q, 'the connection lives');
  expect(['the connection lives'], await (await s.other()).bodies(q));
});

check('reconnect.connection', async (s) => {
  const closed = new Promise((resolve) => { s.conn.on('close', resolve); });
  const broken = await s.queue();
  const reply = await s.replyOf(async () => {
    await s.consume(broken, { consumerTag: 'twice' });
    await s.consume(broken, { consumerTag: 'twice' });
  });
  expect('connection 530', reply.slice(0, 14));
  await within(closed, 'the end of the connection');
  const again = await connect();
  const q = await again.queue();
  again.publish('', q, 'm');
  expect(['m'], await again.bodies(q));
  await again.close();
});

main();
