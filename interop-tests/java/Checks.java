import com.rabbitmq.client.AMQP.BasicProperties;
import com.rabbitmq.client.AlreadyClosedException;
import com.rabbitmq.client.AuthenticationFailureException;
import com.rabbitmq.client.BuiltinExchangeType;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultConsumer;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.Envelope;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.Method;
import com.rabbitmq.client.Recoverable;
import com.rabbitmq.client.RecoverableConnection;
import com.rabbitmq.client.RecoveryListener;
import com.rabbitmq.client.ShutdownSignalException;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/** Makes the checks of ../checks.txt through com.rabbitmq:amqp-client; arguments select by the start of a name. */
public final class Checks {
  static final int PATIENCE_S = 10;
  static final int PROGRAM_PATIENCE_S = 120;
  static final String URL = env("AMQP_URL", "amqp://guest:guest@localhost:5672/");
  static final String PREFIX = "interop.java." + ProcessHandle.current().pid() + ".";
  static final String REPLY_TO = "amq.rabbitmq.reply-to";
  static final Set<String> namesUsed = new HashSet<>();
  static final Map<String, Check> checks = new LinkedHashMap<>();

  // --- running checks

  /** An error of the broker: "channel" or "connection", its code and its text. */
  record Reply(String level, int code, String text) {
    @Override
    public String toString() {
      return level + " " + code + " " + text;
    }
  }

  /** Returns the reply it provoked when it is about an error, or null. */
  interface Check {
    Reply run(Session s) throws Exception;
  }

  interface Action {
    void run(Session s) throws Exception;
  }

  static final class Skip extends RuntimeException {
    private static final long serialVersionUID = 1;

    Skip(String reason) {
      super(reason);
    }
  }

  static final class Wrong extends RuntimeException {
    private static final long serialVersionUID = 1;

    Wrong(String what) {
      super(what);
    }
  }

  static void expect(Object expected, Object got) {
    if (!Objects.deepEquals(expected, got)) {
      throw new Wrong("expected " + expected + " got " + got);
    }
  }

  static <T> T next(BlockingQueue<T> from, String what) throws InterruptedException {
    T value = from.poll(PATIENCE_S, TimeUnit.SECONDS);
    if (value == null) {
      throw new Wrong("expected " + what + " within " + PATIENCE_S + " s got nothing");
    }
    return value;
  }

  /** The name of a queue or exchange of this run. It is taken out of reply texts again. */
  static String name(String shortName) {
    namesUsed.add(PREFIX + shortName);
    return PREFIX + shortName;
  }

  static String env(String key, String otherwise) {
    return Objects.requireNonNullElse(System.getenv(key), otherwise);
  }

  /** Rows of replies.tsv; INTEROP_REPLIES (3.x or 4.x) leaves out those of the other version. */
  static List<String> acceptedReplies(String check) throws Exception {
    String version = env("INTEROP_REPLIES", "");
    try (Stream<String> lines = Files.lines(Path.of(env("INTEROP_DIR", ".."), "replies.tsv"))) {
      return lines
          .filter(line -> !line.startsWith("#"))
          .map(line -> line.split("\t"))
          .filter(row -> row[0].equals(check))
          .filter(row -> version.isEmpty() || row[1].equals(version) || row[1].equals("any"))
          .map(row -> row[2] + " " + row[3] + " " + row[4])
          .toList();
    }
  }

  static boolean passes(String name, Check check) throws Exception {
    String seen = "";
    try (Session s = new Session(factory().newConnection())) {
      Reply reply = check.run(s);
      if (reply != null) {
        seen = reply.toString().replace(PREFIX, "");
        List<String> accepted = acceptedReplies(name);
        if (!accepted.contains(seen)) {
          throw new Wrong("expected " + String.join(" or ", accepted) + " got " + seen);
        }
      }
    } catch (Skip e) {
      System.out.println("skip " + name + ": " + e.getMessage());
      return true;
    } catch (Exception e) {
      System.out.println("FAIL " + name + ": " + (e instanceof Wrong ? e.getMessage() : "expected no error got " + e));
      if (!(e instanceof Wrong)) {
        e.printStackTrace();
      }
      return false;
    }
    System.out.println("ok " + name + (seen.isEmpty() ? "" : ": " + seen));
    return true;
  }

  /** Adds a check that expects no error of the broker. */
  static void ok(String name, Action action) {
    checks.put(name, s -> {
      action.run(s);
      return null;
    });
  }

  static void skip(String name, String reason) {
    checks.put(name, s -> {
      throw new Skip(reason);
    });
  }

  /** Adds a check whose action makes the broker close the channel or the connection. */
  static void fails(String name, Action action) {
    checks.put(name, s -> s.replyOf(() -> action.run(s)));
  }

  public static void main(String[] args) throws Exception {
    connectionChecks();
    exchangeChecks();
    queueChecks();
    publishChecks();
    consumeChecks();
    txChecks();
    routeChecks();
    rpcChecks();
    laterChecks();
    reconnectChecks();
    Thread watchdog = new Thread(() -> {
      try {
        TimeUnit.SECONDS.sleep(PROGRAM_PATIENCE_S);
        Thread.getAllStackTraces().forEach((thread, stack) -> System.err.println(thread + Arrays.toString(stack)));
        Runtime.getRuntime().halt(3);
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
      }
    });
    watchdog.setDaemon(true);
    watchdog.start();
    int failed = 0;
    for (Map.Entry<String, Check> check : checks.entrySet()) {
      if (args.length == 0 || Stream.of(args).anyMatch(check.getKey()::startsWith)) {
        failed += passes(check.getKey(), check.getValue()) ? 0 : 1;
      }
    }
    // Deletes what checks left behind; deleting what is not there succeeds.
    try (Session s = new Session(factory().newConnection())) {
      for (String left : namesUsed) {
        s.ch.queueDelete(left);
        s.ch.exchangeDelete(left);
      }
    }
    System.exit(failed == 0 ? 0 : 1);
  }

  // --- the client, shortened

  static ConnectionFactory factory() throws Exception {
    ConnectionFactory factory = new ConnectionFactory();
    factory.setUri(URL);
    factory.setVirtualHost("/"); // the client takes the URL's trailing slash for the vhost ""
    factory.setAutomaticRecoveryEnabled(false);
    return factory;
  }

  /** Keeps the deliveries of a consumer. */
  static final class Inbox extends DefaultConsumer {
    final BlockingQueue<Delivery> deliveries = new LinkedBlockingQueue<>();
    final CompletableFuture<String> cancelled = new CompletableFuture<>();
    /** As basicConsume returned it: the client tells the consumer itself from another thread, later. */
    String tag;

    Inbox(Channel channel) {
      super(channel);
    }

    @Override
    public void handleDelivery(String tag, Envelope envelope, BasicProperties properties, byte[] body) {
      deliveries.add(new Delivery(envelope, properties, body));
    }

    @Override
    public void handleCancel(String tag) {
      cancelled.complete(tag);
    }

    Delivery next() throws InterruptedException {
      return Checks.next(deliveries, "a delivery");
    }

    List<String> seen(int count) throws InterruptedException {
      List<String> seen = new ArrayList<>();
      for (int n = 0; n < count; n++) {
        Delivery d = next();
        seen.add(see(d.getEnvelope(), d.getBody()));
      }
      return seen;
    }
  }

  static String see(Envelope envelope, byte[] body) {
    return new String(body, StandardCharsets.UTF_8) + (envelope.isRedeliver() ? " redelivered" : "");
  }

  static byte[] bytes(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  static BasicProperties.Builder properties() {
    return new BasicProperties.Builder();
  }

  /** A connection and a channel of it. */
  static final class Session implements AutoCloseable {
    final Connection conn;
    final Channel ch;

    Session(Connection conn) throws Exception {
      this.conn = conn;
      this.ch = conn.createChannel();
    }

    Session other() throws Exception {
      return new Session(conn);
    }

    @Override
    public void close() {
      conn.abort();
    }

    /** Declares an exclusive queue, server-named when the name is "". */
    String queue(String shortName, Map<String, Object> arguments) throws Exception {
      String name = shortName.isEmpty() ? "" : name(shortName);
      return ch.queueDeclare(name, false, true, false, arguments).getQueue();
    }

    String queue() throws Exception {
      return queue("", null);
    }

    String exchange(String shortName, String type, Map<String, Object> arguments) throws Exception {
      ch.exchangeDeclare(name(shortName), type, false, true, arguments);
      return name(shortName);
    }

    String exchange(String shortName, String type) throws Exception {
      return exchange(shortName, type, null);
    }

    void publish(String exchange, String key, String... bodies) throws Exception {
      for (String body : bodies) {
        ch.basicPublish(exchange, key, null, bytes(body));
      }
    }

    /** For what another channel is to see: only the confirm says that the queue has it. */
    void publishConfirmed(String exchange, String key, String... bodies) throws Exception {
      ch.confirmSelect();
      publish(exchange, key, bodies);
      ch.waitForConfirmsOrDie(PATIENCE_S * 1000L);
    }

    int ready(String queue) throws Exception {
      return ch.queueDeclarePassive(queue).getMessageCount();
    }

    GetResponse get(String queue) throws Exception {
      GetResponse got = ch.basicGet(queue, false);
      expect(true, got != null);
      return got;
    }

    long tag(String queue) throws Exception {
      return get(queue).getEnvelope().getDeliveryTag();
    }

    /** Gets what is ready, without acks. */
    List<String> bodies(String queue) throws Exception {
      List<String> bodies = new ArrayList<>();
      for (GetResponse got; (got = ch.basicGet(queue, true)) != null; ) {
        bodies.add(see(got.getEnvelope(), got.getBody()));
      }
      return bodies;
    }

    Inbox consume(String queue, boolean autoAck) throws Exception {
      Inbox inbox = new Inbox(ch);
      inbox.tag = ch.basicConsume(queue, autoAck, inbox);
      return inbox;
    }

    interface Act {
      void run() throws Exception;
    }

    /** Waits for the broker to close the channel, or the connection with it, because of what the action did. */
    Reply replyOf(Act act) throws Exception {
      CompletableFuture<ShutdownSignalException> closed = new CompletableFuture<>();
      ch.addShutdownListener(closed::complete);
      try {
        act.run();
      } catch (java.io.IOException | AlreadyClosedException e) {
        // Whether the call notices depends on the method; the close comes anyway.
      }
      return reply(closed.get(PATIENCE_S, TimeUnit.SECONDS));
    }

    void expectGone(String queue) throws Exception {
      expect(404, replyOf(() -> ch.queueDeclarePassive(queue)).code());
    }
  }

  static Reply reply(ShutdownSignalException e) {
    Method reason = e.getReason();
    return reason instanceof com.rabbitmq.client.AMQP.Connection.Close close
        ? new Reply("connection", close.getReplyCode(), close.getReplyText())
        : new Reply("channel", ((com.rabbitmq.client.AMQP.Channel.Close) reason).getReplyCode(),
            ((com.rabbitmq.client.AMQP.Channel.Close) reason).getReplyText());
  }

  // --- the checks

  static void connectionChecks() {
    ok("connection.open", s -> {
      Map<?, ?> announced = (Map<?, ?>) s.conn.getServerProperties().get("capabilities");
      expect(List.of(), Stream.of("publisher_confirms", "exchange_exchange_bindings", "basic.nack",
          "consumer_cancel_notify", "connection.blocked", "consumer_priorities", "authentication_failure_close",
          "per_consumer_qos", "direct_reply_to").filter(wanted -> !Boolean.TRUE.equals(announced.get(wanted))).toList());
    });
    checks.put("connection.auth_refused", s -> {
      ConnectionFactory factory = factory();
      factory.setPassword("wrong");
      try {
        factory.newConnection();
      } catch (AuthenticationFailureException e) {
        return new Reply("connection", 403, e.getMessage());
      }
      throw new Wrong("expected an error got none");
    });
    checks.put("connection.vhost_missing", s -> {
      ConnectionFactory factory = factory();
      factory.setVirtualHost("missing");
      try {
        factory.newConnection();
      } catch (java.io.IOException e) {
        return reply((ShutdownSignalException) e.getCause());
      }
      throw new Wrong("expected an error got none");
    });
  }

  static void exchangeChecks() {
    ok("exchange.declare", s -> {
      for (BuiltinExchangeType type : List.of(BuiltinExchangeType.DIRECT, BuiltinExchangeType.FANOUT,
          BuiltinExchangeType.TOPIC, BuiltinExchangeType.HEADERS)) {
        s.ch.exchangeDeclare(name("x-" + type), type, false, true, null);
        s.ch.exchangeDeclare(name("x-durable-" + type), type, true);
        s.ch.exchangeDeclare(name("x-durable-" + type), type, true);
        s.ch.exchangeDelete(name("x-" + type));
        s.ch.exchangeDelete(name("x-durable-" + type));
      }
    });
    ok("exchange.passive", s -> {
      s.ch.exchangeDeclare(name("x-passive"), "topic", true);
      s.ch.exchangeDeclarePassive(name("x-passive"));
      s.ch.exchangeDeclarePassive("amq.direct");
    });
    fails("exchange.passive_missing", s -> s.ch.exchangeDeclarePassive(name("missing")));
    fails("exchange.inequivalent_type", s -> {
      s.exchange("x-type", "direct");
      s.exchange("x-type", "fanout");
    });
    fails("exchange.inequivalent_durable", s -> {
      s.exchange("x-durability", "direct");
      s.ch.exchangeDeclare(name("x-durability"), "direct", true, true, null);
    });
    fails("exchange.unknown_type", s -> s.exchange("x-unknown", "no-such-type"));
    fails("exchange.reserved_name", s -> s.ch.exchangeDeclare("amq.interop", "direct"));
    fails("exchange.default_declare", s -> s.ch.exchangeDeclare("", "direct"));
    fails("exchange.delete_in_use", s -> {
      s.ch.queueBind(s.queue(), s.exchange("x-used", "fanout"), "");
      s.ch.exchangeDelete(name("x-used"), true);
    });
    ok("exchange.delete_missing", s -> s.ch.exchangeDelete(name("missing")));
    fails("exchange.internal_publish", s -> {
      s.ch.exchangeDeclare(name("x-internal"), "fanout", false, true, true, null);
      s.publish(name("x-internal"), "", "m");
    });
  }

  static void queueChecks() {
    ok("queue.server_named", s -> {
      String q = s.queue();
      if (!q.startsWith("amq.gen-") || q.equals(s.queue())) {
        throw new Wrong("expected amq.gen-... and another one each time got " + q);
      }
    });
    ok("queue.last_declared", s -> {
      String x = s.exchange("x-last", "direct");
      String q = s.queue();
      s.ch.queueBind("", x, ""); // with the queue's name as routing key too
      s.publish(x, q, "m");
      expect(List.of("m"), s.consume("", true).seen(1));
    });
    ok("queue.passive", s -> {
      String q = s.queue();
      s.publish("", q, "a", "b", "c");
      s.get(q);
      var found = s.other().ch.queueDeclarePassive(q);
      expect(List.of(q, 2, 0), List.of(found.getQueue(), found.getMessageCount(), found.getConsumerCount()));
      s.consume(q, true);
      expect(1L, s.ch.consumerCount(q));
    });
    fails("queue.passive_missing", s -> s.ch.queueDeclarePassive(name("missing")));
    fails("queue.inequivalent_durable", s -> {
      s.ch.queueDeclare(name("q-durability"), false, false, true, null);
      s.ch.queueDeclare(name("q-durability"), true, false, true, null);
    });
    fails("queue.inequivalent_argument", s -> {
      s.queue("q-arguments", Map.of("x-max-length", 10));
      s.queue("q-arguments", Map.of("x-max-length", 20));
    });
    fails("queue.invalid_argument", s -> s.queue("q-invalid", Map.of("x-message-ttl", -1)));
    fails("queue.reserved_name", s -> s.ch.queueDeclare("amq.interop", false, true, false, null));
    checks.put("queue.exclusive_locked", s -> {
      String q = s.queue("q-exclusive", null);
      try (Session other = new Session(factory().newConnection())) {
        return other.replyOf(() -> other.consume(q, true));
      }
    });
    ok("queue.exclusive_gone", s -> {
      Session other = new Session(factory().newConnection());
      String q = other.queue();
      other.conn.close();
      s.expectGone(q);
    });
    ok("queue.auto_delete", s -> {
      String q = s.ch.queueDeclare(name("q-auto"), false, false, true, null).getQueue();
      Inbox one = s.consume(q, true);
      Inbox two = s.consume(q, true);
      s.ch.basicCancel(one.tag);
      expect(0, s.ready(q));
      s.ch.basicCancel(two.tag);
      s.expectGone(q);
    });
    fails("queue.delete_not_empty", s -> {
      String q = s.queue("q-full", null);
      s.publish("", q, "m");
      s.ch.queueDelete(q, false, true);
    });
    fails("queue.delete_in_use", s -> {
      String q = s.queue("q-used", null);
      s.consume(q, true);
      s.ch.queueDelete(q, true, false);
    });
    ok("queue.delete_missing", s -> expect(0, s.ch.queueDelete(name("missing")).getMessageCount()));
    ok("queue.purge", s -> {
      String q = s.queue();
      s.publish("", q, "a", "b", "c");
      long first = s.tag(q);
      expect(2, s.ch.queuePurge(q).getMessageCount());
      s.ch.basicNack(first, false, true);
      expect(List.of("a redelivered"), s.bodies(q));
    });
    ok("queue.priority", s -> {
      String q = s.queue("", Map.of("x-max-priority", 5));
      Integer[] priorities = {null, 3, 9, 5, 3};
      for (int i = 0; i < priorities.length; i++) {
        var properties = new BasicProperties.Builder().priority(priorities[i]).build();
        s.ch.basicPublish("", q, properties, bytes("abcde".substring(i, i + 1)));
      }
      expect(List.of("c", "d", "b", "e", "a"), s.bodies(q));
    });
    fails("queue.bind_missing", s -> s.ch.queueBind(s.queue(), name("missing"), "key"));
    fails("queue.default_bind", s -> s.ch.queueBind(s.queue(), "", "key"));
  }

  static void publishChecks() {
    ok("publish.confirm_one", s -> {
      String q = s.queue();
      s.ch.confirmSelect();
      s.publish("", q, "m");
      s.ch.waitForConfirmsOrDie(PATIENCE_S * 1000L);
      expect(1, s.ready(q));
    });
    ok("publish.confirm_many", s -> {
      String q = s.queue();
      s.ch.confirmSelect();
      Set<Long> waiting = new HashSet<>();
      CountDownLatch done = new CountDownLatch(1);
      s.ch.addConfirmListener((tag, multiple) -> {
        synchronized (waiting) {
          boolean known = multiple ? waiting.removeIf(t -> t <= tag) : waiting.remove(tag);
          if (known && waiting.isEmpty()) {
            done.countDown();
          }
        }
      }, (tag, multiple) -> { });
      String[] numbers = IntStream.range(0, 500).mapToObj(Integer::toString).toArray(String[]::new);
      synchronized (waiting) {
        for (String number : numbers) {
          waiting.add(s.ch.getNextPublishSeqNo());
          s.publish("", q, number);
        }
      }
      expect(true, done.await(PATIENCE_S, TimeUnit.SECONDS));
      expect(List.of(numbers), s.bodies(q));
    });
    ok("publish.mandatory", s -> {
      BlockingQueue<String> events = new LinkedBlockingQueue<>();
      s.ch.confirmSelect();
      s.ch.addReturnListener(r -> events.add("return " + r.getReplyCode() + " " + r.getReplyText() + " "
          + r.getRoutingKey() + " " + new String(r.getBody(), StandardCharsets.UTF_8)));
      s.ch.addConfirmListener((tag, multiple) -> events.add("ack " + tag), (tag, multiple) -> events.add("nack " + tag));
      s.ch.basicPublish("", s.queue(), true, null, bytes("routed"));
      s.ch.waitForConfirms(PATIENCE_S * 1000L);
      s.ch.basicPublish("", name("nowhere"), true, null, bytes("m"));
      for (String wanted : List.of("ack 1", "return 312 NO_ROUTE " + name("nowhere") + " m", "ack 2")) {
        expect(wanted, next(events, wanted));
      }
    });
    fails("publish.missing_exchange", s -> s.publish(name("missing"), "key", "m"));
    fails("publish.immediate", s -> s.ch.basicPublish("", s.queue(), false, true, null, bytes("m")));
    fails("publish.user_id", s -> {
      String q = s.queue();
      s.ch.confirmSelect();
      s.ch.basicPublish("", q, properties().userId("guest").build(), bytes("m"));
      s.ch.waitForConfirmsOrDie(PATIENCE_S * 1000L);
      s.ch.basicPublish("", q, properties().userId("someone").build(), bytes("m"));
    });
    fails("publish.expiration", s -> s.ch.basicPublish("", s.queue(), properties().expiration("soon").build(), bytes("m")));
    ok("publish.properties", s -> {
      String q = s.queue();
      Map<String, Object> headers = new TreeMap<>();
      headers.put("string", "ü");
      headers.put("byte", (byte) -1);
      headers.put("short", (short) -300);
      headers.put("int", -70_000);
      headers.put("long", 1L << 40);
      headers.put("float", 0.5f);
      headers.put("double", 0.25);
      headers.put("true", true);
      headers.put("null", null);
      headers.put("decimal", new BigDecimal("3.14"));
      headers.put("bytes", new byte[] {0, -1});
      headers.put("time", new Date(1_600_000_000_000L));
      headers.put("table", Map.of("nested", Map.of("deep", 1)));
      headers.put("list", List.of(1, "two", List.of(true)));
      BasicProperties sent = new BasicProperties("text/plain", "utf-8", headers, 2, 9, "c", "r", "60000", "id",
          new Date(1_700_000_000_000L), "t", "guest", "app", "cluster");
      s.ch.basicPublish("", q, sent, bytes("m"));
      s.ch.basicPublish("", q, new BasicProperties(), bytes("bare"));
      BasicProperties got = s.get(q).getProps();
      expect(plain(headers), plain(got.getHeaders()));
      expect(sent.builder().headers(null).build().toString(), got.builder().headers(null).build().toString());
      expect(new BasicProperties(), s.get(q).getProps());
    });
    ok("publish.sizes", s -> {
      String q = s.queue();
      int oneFrame = s.conn.getFrameMax() - 8;
      for (int size : new int[] {0, 1, oneFrame - 1, oneFrame, oneFrame + 1, 1 << 20}) {
        byte[] body = new byte[size];
        for (int n = 0; n < size; n++) {
          body[n] = (byte) (n % 251);
        }
        s.ch.basicPublish("", q, null, body);
        if (!Arrays.equals(body, s.get(q).getBody())) {
          throw new Wrong("expected " + size + " bytes unchanged got others");
        }
      }
    });
  }

  /** Header values as texts with their types; the client reads strings as LongString. */
  static String plain(Object value) {
    if (value instanceof Map<?, ?> map) {
      Map<String, String> sorted = new TreeMap<>();
      map.forEach((key, v) -> sorted.put(key.toString(), plain(v)));
      return sorted.toString();
    }
    if (value instanceof List<?> list) {
      return list.stream().map(Checks::plain).toList().toString();
    }
    if (value instanceof byte[] bytes) {
      return "bytes" + Arrays.toString(bytes);
    }
    if (value == null || value instanceof String || value instanceof com.rabbitmq.client.LongString) {
      return "text " + value;
    }
    return value.getClass().getSimpleName() + " " + value;
  }

  static void consumeChecks() {
    ok("consume.ack", s -> {
      String q = s.queue();
      s.publish("", q, "a", "b", "c");
      Inbox inbox = s.consume(q, false);
      for (String body : List.of("a", "b", "c")) {
        Delivery d = inbox.next();
        expect(List.of(body, "", q), List.of(see(d.getEnvelope(), d.getBody()), d.getEnvelope().getExchange(),
            d.getEnvelope().getRoutingKey()));
        s.ch.basicAck(d.getEnvelope().getDeliveryTag(), false);
      }
      expect(0, s.ch.queueDelete(q).getMessageCount());
    });
    ok("consume.prefetch", s -> {
      String q = s.queue();
      for (int n = 0; n < 20; n++) {
        s.publish("", q, "" + n);
      }
      s.ch.basicQos(5);
      Inbox inbox = s.consume(q, false);
      List<Delivery> held = new ArrayList<>();
      for (int n = 0; n < 5; n++) {
        held.add(inbox.next());
      }
      expect(List.of(15, 0), List.of(s.ready(q), inbox.deliveries.size()));
      for (int n = 0; n < 20; n++) {
        expect("" + n, new String(held.get(n).getBody(), StandardCharsets.UTF_8));
        s.ch.basicAck(held.get(n).getEnvelope().getDeliveryTag(), false);
        if (n + 5 < 20) {
          held.add(inbox.next());
        }
        expect(List.of(Math.max(14 - n, 0), 0), List.of(s.ready(q), inbox.deliveries.size()));
      }
    });
    ok("consume.prefetch_channel", s -> {
      String q = s.queue();
      for (int n = 0; n < 20; n++) {
        s.publish("", q, "" + n);
      }
      s.ch.basicQos(5, true);
      BlockingQueue<Long> tags = new LinkedBlockingQueue<>();
      for (int n = 0; n < 2; n++) {
        s.ch.basicConsume(q, false, (t, d) -> tags.add(d.getEnvelope().getDeliveryTag()), t -> { });
      }
      for (int left : new int[] {15, 10}) {
        long last = 0;
        for (int n = 0; n < 5; n++) {
          last = Math.max(last, next(tags, "a delivery"));
        }
        expect(List.of(left, 0), List.of(s.ready(q), tags.size()));
        s.ch.basicAck(last, true);
      }
      s.ch.basicQos(8, true);
      for (int n = 0; n < 8; n++) {
        next(tags, "a delivery");
      }
      expect(List.of(2, 0), List.of(s.ready(q), tags.size()));
    });
    ok("consume.nack_requeue", s -> {
      String q = s.queue();
      s.publish("", q, "a", "b", "c");
      long first = s.tag(q);
      s.ch.basicNack(s.tag(q), false, true);
      s.ch.basicNack(first, false, true);
      expect(List.of("a redelivered", "b redelivered", "c"), s.bodies(q));
    });
    ok("consume.reject_requeue", s -> {
      String q = s.queue();
      s.publish("", q, "a", "b", "c");
      long first = s.tag(q);
      s.ch.basicReject(s.tag(q), true);
      s.ch.basicReject(first, true);
      expect(List.of("a redelivered", "b redelivered", "c"), s.bodies(q));
    });
    ok("consume.reject_drop", s -> {
      String q = s.queue();
      s.publish("", q, "a", "b");
      s.ch.basicReject(s.tag(q), false);
      expect(List.of("b"), s.bodies(q));
    });
    ok("consume.nack_multiple", s -> {
      String q = s.queue();
      s.publish("", q, "a", "b", "c", "d");
      s.get(q);
      long second = s.tag(q);
      s.get(q);
      s.ch.basicNack(second, true, true);
      expect(List.of("a redelivered", "b redelivered", "d"), s.bodies(q));
    });
    ok("consume.channel_close_requeues", s -> {
      String q = s.queue();
      s.publish("", q, "a", "b");
      Session other = s.other();
      other.consume(q, false).seen(2);
      other.ch.close();
      expect(List.of("a redelivered", "b redelivered"), s.bodies(q));
    });
    ok("consume.recover", s -> {
      String q = s.queue();
      s.publish("", q, "a", "b");
      Inbox inbox = s.consume(q, false);
      expect(List.of("a", "b"), inbox.seen(2));
      s.ch.basicRecover(true);
      expect(List.of("a redelivered", "b redelivered"), inbox.seen(2));
    });
    fails("consume.unknown_tag", s -> s.ch.basicAck(99, false));
    fails("consume.duplicate_tag", s -> {
      String q = s.queue();
      s.ch.basicConsume(q, true, "twice", new Inbox(s.ch));
      s.ch.basicConsume(q, true, "twice", new Inbox(s.ch));
    });
    checks.put("consume.exclusive", s -> {
      String q = s.queue("q-exclusive-consumer", null);
      s.ch.basicConsume(q, true, "", false, true, null, new Inbox(s.ch));
      Session other = s.other();
      return other.replyOf(() -> other.consume(q, true));
    });
    fails("consume.missing_queue", s -> s.consume(name("missing"), true));
    ok("consume.cancel", s -> {
      String q = s.queue();
      s.publish("", q, "a", "b", "c");
      s.ch.basicQos(1);
      Inbox inbox = s.consume(q, false);
      long first = inbox.next().getEnvelope().getDeliveryTag();
      s.ch.basicCancel(inbox.tag);
      s.ch.basicAck(first, false);
      expect(List.of(2, 0), List.of(s.ready(q), inbox.deliveries.size()));
    });
    ok("consume.cancel_notify", s -> {
      String q = s.queue();
      Inbox inbox = s.consume(q, true);
      s.other().ch.queueDelete(q);
      expect(inbox.tag, inbox.cancelled.get(PATIENCE_S, TimeUnit.SECONDS));
    });
    ok("consume.priority", s -> {
      String q = s.queue();
      Inbox low = s.consume(q, true);
      Inbox high = new Inbox(s.ch);
      s.ch.basicConsume(q, true, Map.of("x-priority", 10), high);
      s.publish("", q, "a", "b", "c");
      expect(List.of("a", "b", "c"), high.seen(3));
      expect(0, low.deliveries.size());
    });
    fails("qos.prefetch_size", s -> s.ch.basicQos(1024, 0, false));
    ok("get.message", s -> {
      String q = s.queue();
      s.publish("", q, "a", "b", "c");
      GetResponse got = s.get(q);
      expect(List.of("a", 2, "", q), List.of(see(got.getEnvelope(), got.getBody()), got.getMessageCount(),
          got.getEnvelope().getExchange(), got.getEnvelope().getRoutingKey()));
    });
    ok("get.empty", s -> expect(null, s.ch.basicGet(s.queue(), false)));
  }

  static void txChecks() {
    ok("tx.commit", s -> {
      String q = s.queue();
      s.ch.txSelect();
      s.publish("", q, "a", "b");
      Session other = s.other();
      expect(0, other.ready(q));
      s.ch.txCommit();
      expect(List.of("a", "b"), other.bodies(q));
    });
    ok("tx.rollback", s -> {
      String q = s.queue();
      Session other = s.other();
      other.publishConfirmed("", q, "kept");
      s.ch.txSelect();
      s.publish("", q, "dropped");
      s.ch.basicAck(s.tag(q), false);
      s.ch.txRollback();
      expect(0, other.ready(q));
      s.ch.close();
      expect(List.of("kept redelivered"), other.bodies(q));
    });
    fails("tx.not_selected", s -> s.ch.txCommit());
    fails("tx.on_confirm_channel", s -> {
      s.ch.confirmSelect();
      s.ch.txSelect();
    });
  }

  static void routeChecks() {
    ok("route.default", s -> {
      String q = s.queue("q-routed", null);
      s.publish("", q, "m");
      expect(List.of("m"), s.bodies(q));
    });
    ok("route.direct", s -> {
      String x = s.exchange("x-direct", "direct");
      String one = s.queue();
      String two = s.queue();
      s.ch.queueBind(one, x, "red");
      s.ch.queueBind(one, x, "green");
      s.ch.queueBind(two, x, "green");
      for (String key : List.of("red", "green", "blue")) {
        s.publish(x, key, key);
      }
      expect(List.of(List.of("red", "green"), List.of("green")), List.of(s.bodies(one), s.bodies(two)));
      s.ch.queueUnbind(one, x, "red");
      s.publish(x, "red", "red");
      expect(List.of(), s.bodies(one));
    });
    ok("route.fanout", s -> {
      String x = s.exchange("x-fanout", "fanout");
      List<String> queues = List.of(s.queue(), s.queue());
      for (String q : queues) {
        s.ch.queueBind(q, x, "ignored");
      }
      s.publish(x, "any", "m");
      for (String q : queues) {
        expect(List.of("m"), s.bodies(q));
      }
    });
    ok("route.topic", s -> {
      String x = s.exchange("x-topic", "topic");
      // The empty key has no words: "#" matches it and "*" does not.
      Map<String, List<String>> expected = Map.of("a.b.c", List.of("a.b.c"), "*.b.*", List.of("a.b.c", "x.b.c"),
          "a.#", List.of("a.b.c", "a", "a.b.c.d"), "#.c", List.of("a.b.c", "x.b.c"),
          "#", List.of("a.b.c", "x.b.c", "a", "a.b.c.d", ""), "*", List.of("a"), "a.*.#.d", List.of("a.b.c.d"));
      Map<String, String> queues = new TreeMap<>();
      for (String pattern : expected.keySet()) {
        queues.put(pattern, s.queue());
        s.ch.queueBind(queues.get(pattern), x, pattern);
      }
      for (String key : List.of("a.b.c", "x.b.c", "a", "a.b.c.d", "")) {
        s.publish(x, key, key);
      }
      for (String pattern : expected.keySet()) {
        expect(expected.get(pattern), s.bodies(queues.get(pattern)));
      }
    });
    ok("route.headers", s -> {
      String x = s.exchange("x-headers", "headers");
      String every = s.queue();
      String some = s.queue();
      s.ch.queueBind(every, x, "", Map.of("x-match", "all", "format", "pdf", "pages", 1));
      s.ch.queueBind(some, x, "", Map.of("x-match", "any", "format", "pdf", "pages", 1));
      for (Map<String, Object> headers : List.<Map<String, Object>>of(Map.of("format", "pdf", "pages", 1),
          Map.of("format", "pdf", "pages", 2), Map.of("format", "ps"))) {
        s.ch.basicPublish(x, "", properties().headers(headers).build(), bytes("pages " + headers.get("pages")));
      }
      expect(List.of("pages 1"), s.bodies(every));
      expect(List.of("pages 1", "pages 2"), s.bodies(some));
    });
    ok("route.e2e", s -> {
      String source = s.exchange("x-source", "topic");
      String target = s.exchange("x-target", "fanout");
      String q = s.queue();
      s.ch.queueBind(q, target, "");
      s.ch.exchangeBind(target, source, "a.*");
      s.publish(source, "a.b", "through");
      s.publish(source, "b.b", "past");
      expect(List.of("through"), s.bodies(q));
      s.ch.exchangeUnbind(target, source, "a.*");
    });
    ok("route.alternate", s -> {
      String alternate = s.exchange("x-alternate", "fanout");
      String x = s.exchange("x-with-alternate", "direct", Map.of("alternate-exchange", alternate));
      String q = s.queue();
      String bound = s.queue();
      s.ch.queueBind(q, alternate, "");
      s.ch.queueBind(bound, x, "bound");
      s.publish(x, "bound", "bound");
      s.publish(x, "other", "other");
      expect(List.of(List.of("bound"), List.of("other")), List.of(s.bodies(bound), s.bodies(q)));
    });
    ok("route.cc_bcc", s -> {
      String one = s.queue();
      String two = s.queue();
      String three = s.queue();
      Map<String, Object> headers = Map.of("CC", List.of(two), "BCC", List.of(three, one));
      s.ch.basicPublish("", one, properties().headers(headers).build(), bytes("m"));
      for (String q : List.of(one, two, three)) {
        expect(plain(Map.of("CC", List.of(two))), plain(s.get(q).getProps().getHeaders()));
      }
      expect(0, s.ready(one));
    });
  }

  static void rpcChecks() {
    ok("rpc.direct_reply_to", s -> {
      String q = s.queue();
      Session server = s.other();
      server.ch.basicConsume(q, true, (tag, request) -> server.ch.basicPublish("", request.getProperties().getReplyTo(),
          properties().correlationId(request.getProperties().getCorrelationId()).build(),
          bytes(new String(request.getBody(), StandardCharsets.UTF_8).toUpperCase())), tag -> { });
      Inbox answers = s.consume(REPLY_TO, true);
      s.ch.basicPublish("", q, properties().replyTo(REPLY_TO).correlationId("1").build(), bytes("ping"));
      Delivery answer = answers.next();
      expect(List.of("PING", "1"), List.of(see(answer.getEnvelope(), answer.getBody()),
          answer.getProperties().getCorrelationId()));
    });
    fails("rpc.no_consumer", s -> s.ch.basicPublish("", s.queue(), properties().replyTo(REPLY_TO).build(), bytes("m")));
    fails("rpc.needs_no_ack", s -> s.consume(REPLY_TO, false));
  }

  /** Delayed messages and schedules need nothing of a client but headers. */
  static void laterChecks() {
    for (String later : List.of("deliver_after", "deliver_at", "delayed_exchange", "retry", "schedule", "list", "bad_cron")) {
      skip("later." + later, "made through pika, Go and Node");
    }
  }

  static void reconnectChecks() {
    ok("reconnect.channel", s -> {
      String q = s.queue();
      s.other().expectGone(name("missing"));
      s.publishConfirmed("", q, "the other channel lives");
      expect(List.of("the other channel lives"), s.other().bodies(q));
    });
    ok("reconnect.connection", s -> {
      // By the client's own recovery: connection, channel, queue and consumer come back by themselves.
      ConnectionFactory factory = factory();
      factory.setAutomaticRecoveryEnabled(true);
      factory.setNetworkRecoveryInterval(100);
      try (Session recovering = new Session(factory.newConnection())) {
        CountDownLatch recovered = new CountDownLatch(1);
        ((RecoverableConnection) recovering.conn).addRecoveryListener(new RecoveryListener() {
          @Override
          public void handleRecovery(Recoverable recoverable) {
            recovered.countDown();
          }

          @Override
          public void handleRecoveryStarted(Recoverable recoverable) { }
        });
        String q = recovering.queue("q-recovered", null);
        Inbox inbox = recovering.consume(q, true);
        Session other = recovering.other();
        expect("connection", other.replyOf(() -> other.ch.basicQos(1, 0, false)).level());
        expect(true, recovered.await(PATIENCE_S, TimeUnit.SECONDS));
        recovering.publish("", q, "m");
        expect(List.of("m"), inbox.seen(1));
      }
    });
  }
}
