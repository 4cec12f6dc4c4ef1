//! Where a message goes.

mod common;

use common::{
    BrokerTest, Chan, exchange_declare, headers, keys, message, message_with, peer, table,
};
use leveret_codec::{ExchangeDeclare, FieldValue, Properties, QueueBind};
use leveret_core::{Input, Permissions};

/// A broker with these queues, and a channel.
fn with_queues<const N: usize>(queues: [&str; N]) -> (BrokerTest, Chan) {
    let mut t = BrokerTest::new();
    let ch = t.client();
    for queue in queues {
        t.queue(ch, queue);
    }
    (t, ch)
}

/// How many messages each of these queues holds.
fn depths<const N: usize>(t: &mut BrokerTest, ch: Chan, queues: [&str; N]) -> [usize; N] {
    queues.map(|queue| {
        let line = t.counts(ch, queue);
        line.split(' ')
            .nth(2)
            .and_then(|n| n.parse().ok())
            .expect("a count")
    })
}

#[test]
fn types_of_exchange() {
    #[rustfmt::skip]
    let rows = [
        // type     bound under  published with  arrives  why this row is here
        ("direct",  "a",         "a",            true,    "the key itself"),
        ("direct",  "a",         "b",            false,   "another key"),
        ("direct",  "",          "",             true,    "the empty key is a key"),
        ("direct",  "#",         "a",            false,   "patterns mean nothing here"),
        ("fanout",  "a",         "b",            true,    "the key does not matter"),
        ("topic",   "a.*",       "a.b",          true,    "a pattern"),
        ("topic",   "a.*",       "a.b.c",        false,   "* is one word"),
        ("topic",   "#",         "",             true,    "# is any number of words"),
        ("headers", "a",         "b",            true,    "nothing is asked for, so all of it is there"),
    ];
    for (kind, bound, key, arrives, why) in rows {
        let (mut t, ch) = with_queues(["q"]);
        t.exchange(ch, "x", kind);
        t.bind(ch, "x", bound, "q");
        for _ in 0..3 {
            t.publish_to(ch, "x", key, "m"); // walked, cached, remembered
        }
        let expected = if arrives { 3 } else { 0 };
        assert_eq!(depths(&mut t, ch, ["q"]), [expected], "{kind}: {why}");
    }
}

#[test]
fn headers_match_as_the_binding_asks() {
    let all = || ("x-match", FieldValue::from("all"));
    let any = || ("x-match", FieldValue::from("any"));
    let a = |n: i32| ("a", FieldValue::from(n));
    let b = |n: i32| ("b", FieldValue::from(n));
    let x = |n: i32| ("x-a", FieldValue::from(n));
    #[rustfmt::skip]
    let rows = [
        (vec![all(), a(1), b(2)],    vec![a(1), b(2)],   true,  "all are there"),
        (vec![all(), a(1), b(2)],    vec![a(1)],         false, "one is missing"),
        (vec![a(1), b(2)],           vec![a(1)],         false, "without x-match it is all"),
        (vec![any(), a(1), b(2)],    vec![a(1)],         true,  "one is enough"),
        (vec![any(), a(1), b(2)],    vec![a(2)],         false, "but it has to be right"),
        (vec![any()],                vec![a(1)],         false, "any of nothing is nothing"),
        (vec![all()],                vec![],             true,  "all of nothing is there"),
        (vec![("a", FieldValue::Void)], vec![a(7)],      true,  "a void asks for the key alone"),
        (vec![("a", FieldValue::Void)], vec![b(7)],      false, "which has to be there"),
        (vec![a(1)],                 vec![("a", FieldValue::from(1_i64))], true, "the width of an integer does not matter"),
        (vec![a(1)],                 vec![("a", FieldValue::from("1"))],   false, "its type does"),
        (vec![x(1)],                 vec![],             true,  "x- keys do not count"),
        (vec![("x-match", FieldValue::from("all-with-x")), x(1)], vec![], false, "unless asked for"),
        (vec![("x-match", FieldValue::from("any-with-x")), x(1)], vec![x(1)], true, "unless asked for"),
    ];
    for (wanted, sent, arrives, why) in rows {
        let (mut t, ch) = with_queues(["q"]);
        let arguments = leveret_codec::RawTable::from_table(&wanted.into_iter().collect());
        t.bind_with(ch, "amq.headers", "", "q", arguments);
        let properties = Properties {
            headers: Some(sent.into_iter().collect()),
            ..Properties::default()
        };
        t.publish_with(ch, message_with("amq.headers", "", properties, "m"), false);
        assert_eq!(depths(&mut t, ch, ["q"]), [usize::from(arrives)], "{why}");
    }
}

#[test]
fn a_route_by_content_is_not_remembered_for_a_key() {
    let (mut t, ch) = with_queues(["q"]);
    t.bind_with(
        ch,
        "amq.headers",
        "",
        "q",
        table([("a", FieldValue::from(1))]),
    );
    for n in [1, 2, 1, 2, 1] {
        let properties = headers([("a", FieldValue::from(n))]);
        t.publish_with(
            ch,
            message_with("amq.headers", "k", properties, &n.to_string()),
            false,
        );
    }
    assert_eq!(t.bodies("q"), ["1", "1", "1"]);
}

#[test]
fn one_copy_a_queue_however_many_ways_lead_there() {
    let (mut t, ch) = with_queues(["q"]);
    t.exchange(ch, "inner", "fanout");
    t.bind(ch, "amq.topic", "a.*", "q");
    t.bind(ch, "amq.topic", "#", "q");
    t.bind(ch, "inner", "", "q");
    t.bind_exchange(ch, "amq.topic", "a.b", "inner");
    let properties = headers([("CC", keys(["a.c", "a.d"]))]);
    t.publish_with(ch, message_with("amq.topic", "a.b", properties, "m"), false);
    assert_eq!(t.bodies("q"), ["m"]);
}

#[test]
fn exchanges_in_a_circle_end() {
    let (mut t, ch) = with_queues(["q"]);
    for name in ["a", "b"] {
        t.exchange(ch, name, "fanout");
    }
    t.bind_exchange(ch, "a", "", "b");
    t.bind_exchange(ch, "b", "", "a");
    t.bind_exchange(ch, "a", "", "a");
    t.bind(ch, "b", "", "q");
    t.publish_to(ch, "a", "", "m");
    assert_eq!(t.bodies("q"), ["m"]);
}

#[test]
fn what_goes_nowhere_goes_to_the_alternate() {
    let (mut t, ch) = with_queues(["q", "other"]);
    let declare = |name, kind, alternate| ExchangeDeclare {
        arguments: table([("alternate-exchange", FieldValue::from(alternate))]),
        ..exchange_declare(name, kind)
    };
    t.method(ch, declare("x", "direct", "y")); // y need not exist yet
    t.method(ch, declare("y", "direct", "x")); // nor is a circle a problem
    t.heard(ch);
    t.bind(ch, "x", "known", "q");
    t.bind(ch, "y", "unknown", "other");
    for key in ["known", "unknown", "nowhere"] {
        t.publish_to(ch, "x", key, key);
    }
    assert_eq!(t.bodies("q"), ["known"]);
    assert_eq!(t.bodies("other"), ["unknown"]);
    t.publish_with(ch, message("x", "nowhere", "back"), true);
    assert_eq!(
        t.heard(ch),
        ["return 312 back"],
        "the alternate found nothing either"
    );
}

#[test]
fn the_default_exchange_knows_every_queue_by_name() {
    let (mut t, ch) = with_queues(["q"]);
    t.publish(ch, "q", "1");
    t.publish(ch, "nobody", "2");
    assert_eq!(t.bodies("q"), ["1"]);
}

#[test]
fn cc_and_bcc_are_further_keys_and_bcc_is_not_shown() {
    let (mut t, ch) = with_queues(["q", "cc", "bcc"]);
    t.consume(ch, "cc", "tag");
    let properties = headers([
        ("BCC", keys(["bcc", "cc"])),
        ("CC", keys(["cc"])),
        ("n", 1.into()),
    ]);
    t.publish_with(ch, message_with("", "q", properties, "m"), false);
    assert_eq!(t.heard(ch), ["tag: #1 m"]);
    assert_eq!(depths(&mut t, ch, ["q", "cc", "bcc"]), [1, 0, 1]);
    let seen = t.take_delivery().properties().headers.unwrap();
    assert!(seen.get("BCC").is_none());
    assert!(seen.get("CC").is_some() && seen.get("n").is_some());
}

#[test]
fn copies_concern_only_the_message_that_asks_for_them() {
    let (mut t, ch) = with_queues(["q", "cc"]);
    for round in 0..4 {
        t.publish(ch, "q", "plain");
        let properties = headers([("CC", keys(["cc"]))]);
        t.publish_with(ch, message_with("", "q", properties, "copied"), false);
        t.publish(ch, "q", "plain");
        assert_eq!(
            depths(&mut t, ch, ["q", "cc"]),
            [3 * (round + 1), round + 1]
        );
    }
}

/// What is remembered about a route ends with whatever made it so.
#[test]
fn a_remembered_route_ends_with_what_it_rests_on() {
    type Change = fn(&mut BrokerTest, Chan);
    #[rustfmt::skip]
    let rows: [(&str, Change, [usize; 2]); 8] = [
        ("nothing",                       |_, _| {},                                      [4, 0]),
        ("queue deleted and made again",  |t, ch| { t.delete_queue(ch, "q"); t.queue(ch, "q"); }, [0, 0]),
        ("unbound",                       |t, ch| t.unbind(ch, "x", "k", "q"),            [3, 0]),
        ("another queue bound",           |t, ch| t.bind(ch, "x", "k", "r"),              [4, 1]),
        ("exchange made again, other type", |t, ch| {
            t.delete_exchange(ch, "x");
            t.exchange(ch, "x", "fanout");
            t.bind(ch, "x", "other", "r");
        },                                                                                [3, 1]),
        ("exchange bound on",             |t, ch| { t.bind(ch, "amq.fanout", "", "r"); t.bind_exchange(ch, "x", "k", "amq.fanout"); }, [4, 1]),
        ("alternate deleted",             |t, ch| t.delete_exchange(ch, "y"),             [4, 0]),
        ("purged",                        |t, ch| { t.ask(ch, leveret_codec::QueuePurge { queue: common::short("q"), ..Default::default() }); }, [1, 0]),
    ];
    for (what, change, expected) in rows {
        let (mut t, ch) = with_queues(["q", "r"]);
        let other = t.client();
        t.exchange(ch, "x", "direct");
        t.exchange(ch, "y", "direct");
        t.bind(ch, "x", "k", "q");
        for _ in 0..3 {
            t.publish_to(ch, "x", "k", "m");
        }
        change(&mut t, other);
        t.publish_to(ch, "x", "k", "m");
        assert_eq!(depths(&mut t, other, ["q", "r"]), expected, "{what}");
    }
}

#[test]
fn a_remembered_route_does_not_outlive_the_right_to_use_it() {
    let (mut t, ch) = with_queues(["q"]);
    for _ in 0..3 {
        t.publish_to(ch, "amq.fanout", "k", "m");
    }
    let rights = Permissions::new(".*", "^q$", ".*").unwrap();
    t.step(Input::Permitted(ch.connection, rights));
    t.publish_to(ch, "amq.fanout", "k", "m");
    t.expect_close(
        ch,
        403,
        "ACCESS_REFUSED - write access to exchange 'amq.fanout' in vhost '/' refused for user 'guest'",
    );
}

#[test]
fn a_route_remembered_for_one_user_gives_no_right_to_another() {
    let (mut t, ch) = with_queues(["q"]);
    for _ in 0..3 {
        t.publish(ch, "q", "m");
    }
    let stranger = t.connect_as(common::peer_with_rights("", "^other$", ""));
    let stranger = t.channel(stranger);
    t.publish(stranger, "q", "m");
    t.expect_close(
        stranger,
        403,
        "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'guest'",
    );
}

#[test]
fn an_exchange_made_again_as_internal_is_closed_to_clients_that_remember_it() {
    let (mut t, ch) = with_queues(["q"]);
    let other = t.client();
    t.exchange(ch, "x", "fanout");
    for _ in 0..3 {
        t.publish_to(ch, "x", "", "m");
    }
    t.delete_exchange(other, "x");
    let declare = ExchangeDeclare {
        internal: true,
        ..exchange_declare("x", "fanout")
    };
    assert_eq!(t.ask(other, declare), ["exchange.declare-ok"]);
    t.publish_to(ch, "x", "", "m");
    t.expect_close(
        ch,
        403,
        "ACCESS_REFUSED - cannot publish to internal exchange 'x' in vhost '/'",
    );
}

#[test]
fn the_arguments_are_part_of_what_a_binding_is() {
    let (mut t, ch) = with_queues(["q"]);
    let one = || table([("a", FieldValue::from(1)), ("b", FieldValue::from(2))]);
    let same = || table([("b", FieldValue::from(2)), ("a", FieldValue::from(1))]);
    t.bind_with(ch, "amq.headers", "k", "q", one());
    t.bind_with(ch, "amq.headers", "k", "q", same());
    assert_eq!(
        t.broker.totals().bindings,
        1,
        "the order of arguments does not matter"
    );
    t.bind_with(ch, "amq.headers", "k", "q", table([]));
    assert_eq!(t.broker.totals().bindings, 2);
    t.unbind(ch, "amq.headers", "k", "q");
    assert_eq!(
        t.broker.totals().bindings,
        1,
        "unbinding takes exactly the one that is meant"
    );
}

#[test]
fn an_empty_name_and_an_empty_key_bind_the_last_queue_under_its_own_name() {
    let (mut t, ch) = with_queues(["first", "q"]);
    let bind = QueueBind {
        exchange: common::short("amq.direct"),
        ..QueueBind::default()
    };
    assert_eq!(t.ask(ch, bind), ["queue.bind-ok"]);
    t.publish_to(ch, "amq.direct", "q", "m");
    assert_eq!(depths(&mut t, ch, ["first", "q"]), [0, 1]);
}

#[test]
fn a_message_with_a_route_to_very_many_queues_reaches_each() {
    let mut t = BrokerTest::new();
    let ch = t.client();
    let queues: Vec<String> = (0..200).map(|n| format!("q{n}")).collect();
    for queue in &queues {
        t.queue(ch, queue);
        t.bind(ch, "amq.fanout", "", queue);
    }
    for _ in 0..3 {
        t.publish_to(ch, "amq.fanout", "", "m");
    }
    assert_eq!(t.broker.totals().ready, 600);
}

#[test]
fn carriage_returns_and_line_feeds_are_taken_out_of_names() {
    let mut t = BrokerTest::new();
    let ch = t.connect_as(peer());
    let ch = t.channel(ch);
    t.queue(ch, "a\r\nb");
    t.exchange(ch, "\nx", "fanout");
    t.bind(ch, "x\r", "", "a\nb");
    t.publish_to(ch, "x", "", "m");
    assert_eq!(t.bodies("ab"), ["m"]);
}
