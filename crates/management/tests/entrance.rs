//! Who gets in, and what is said to requests that are not as they should be.

#![allow(clippy::unwrap_used)]

mod desk;

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use desk::{Desk, Fake, GUEST};
use http_body_util::channel::Channel;
use leveret_core::{AmqpError, ReplyCode};
use leveret_management::{Refusal, routes};
use serde_json::json;
use tower::ServiceExt as _;

fn error(status: u16, word: &str, reason: &str) -> (u16, String, String) {
    (status, word.to_owned(), reason.to_owned())
}

fn get(path: &str, authorization: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().uri(path);
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_stranger_is_told_how_to_log_in() {
    let desk = Desk::new();
    for authorization in [
        None,
        Some("Basic Z3Vlc3Q6Z3Vlc3M="), // guest:guess
        Some("Basic !"),
        Some("Bearer x"),
    ] {
        let answer = desk.send(get("/api/whoami", authorization)).await;
        assert_eq!(answer.error(), error(401, "not_authorized", "Login failed"));
        let challenge = answer.header("www-authenticate");
        assert!(challenge.starts_with("Basic realm="), "{challenge}");
    }
    let known = desk.send(get("/api/whoami", Some(GUEST))).await;
    assert_eq!(
        known.json(),
        json!({"name": "guest", "tags": ["monitoring"]})
    );
    assert_eq!(known.header("content-type"), "application/json");
}

#[tokio::test]
async fn the_broker_is_told_where_a_login_comes_from() {
    let desk = Desk::new();
    desk.ask("GET", "/api/vhosts", "").await;
    let logins = desk.broker.logins.lock().unwrap().clone();
    assert_eq!(logins, [("guest".to_owned(), "127.0.0.1".parse().unwrap())]);
}

#[tokio::test]
async fn who_comes_from_nowhere_is_not_let_in() {
    let desk = Desk::new();
    let router = leveret_management::router(desk.broker.clone());
    let response = router.oneshot(get("/api/whoami", Some(GUEST))).await;
    assert_eq!(response.unwrap().status(), 401);
}

#[tokio::test]
async fn a_busy_door_is_no_wrong_password() {
    let desk = Desk::with(Fake {
        busy: true,
        ..Fake::default()
    });
    let answer = desk.ask("GET", "/api/whoami", "").await;
    assert_eq!(
        answer.error(),
        error(503, "unavailable", "too many logins at once")
    );
}

#[tokio::test]
async fn health_and_metrics_need_no_login() {
    let (up, down) = (
        Desk::new(),
        Desk::with(Fake {
            down: true,
            ..Fake::default()
        }),
    );
    #[rustfmt::skip]
    let table = [
        (&up,   "/health/live",  200, "application/json", r#"{"status":"ok"}"#),
        (&up,   "/health/ready", 200, "application/json", r#"{"status":"ok"}"#),
        (&up,   "/metrics",      200, "text/plain; version=0.0.4; charset=utf-8", "leveret_x 1\n"),
        (&down, "/health/live",  200, "application/json", r#"{"status":"ok"}"#),
        (&down, "/health/ready", 503, "application/json", r#"{"status":"failed","reason":"not accepting connections"}"#),
        (&down, "/metrics",      500, "text/plain", "metrics are not available\n"),
    ];
    for (desk, path, status, kind, body) in table {
        let answer = desk.send(get(path, None)).await;
        assert_eq!(
            (
                answer.status.as_u16(),
                answer.header("content-type"),
                answer.body.as_str()
            ),
            (status, kind, body),
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_is_not_there_is_404_and_a_wrong_method_405() {
    let desk = Desk::new();
    for path in [
        "/",
        "/api",
        "/api/schedule",
        "/api/schedules/%2F/a/b/c",
        "/api/delayed/",
    ] {
        let answer = desk.ask("GET", path, "").await;
        assert_eq!(
            (answer.status.as_u16(), answer.error().1),
            (404, "not_found".to_owned()),
            "{path}"
        );
    }
    #[rustfmt::skip]
    let table = [
        ("DELETE", "/api/whoami",                "GET,HEAD"),
        ("POST",   "/health/live",               "GET,HEAD"),
        ("GET",    "/api/schedules/%2F/a/run",   "POST"),
        ("POST",   "/api/delayed/%2F/1",         "GET,HEAD,DELETE,PUT"),
    ];
    for (method, path, allow) in table {
        let answer = desk.ask(method, path, "").await;
        let reason = format!("not with {method}: the header Allow says how");
        assert_eq!(
            answer.error(),
            error(405, "method_not_allowed", &reason),
            "{path}"
        );
        assert_eq!(answer.header("allow"), allow, "{path}");
    }
    let made = desk.ask("POST", "/api/schedules/%2F/a", "{}").await;
    assert_eq!(
        made.error(),
        error(405, "method_not_allowed", "a schedule is made with PUT")
    );
    assert_eq!(made.header("allow"), "GET,HEAD,PUT,DELETE");
    assert!(!desk.has_orders());
}

#[tokio::test]
async fn bodies_are_json_objects() {
    let desk = Desk::new();
    let deep = format!(
        r#"{{"properties":{}1{}}}"#,
        r#"{"a":"#.repeat(200),
        "}".repeat(200)
    );
    #[rustfmt::skip]
    let table = [
        ("{",                 "the body is not JSON: "),
        ("{\"a\":1}x",        "the body is not JSON: "),
        ("\u{ff}",            "the body is not JSON: "),
        ("[]",                "the body is not a JSON object"),
        ("null",              "the body is not a JSON object"),
        (deep.as_str(),       "the body is not JSON: recursion limit exceeded"),
    ];
    for (body, reason) in table {
        let answer = desk.ask("PUT", "/api/schedules/%2F/a", body).await;
        let (status, word, said) = answer.error();
        assert_eq!((status, word.as_str()), (400, "bad_request"));
        assert!(said.starts_with(reason), "{said}");
    }
    let unnamed = Request::put("/api/schedules/%2F/a").header("authorization", GUEST);
    for request in [
        unnamed.body(Body::from("{}")).unwrap(),
        Request::post("/api/schedules/%2F/a/pause")
            .header("authorization", GUEST)
            .header("content-type", "text/plain")
            .body(Body::from("{}"))
            .unwrap(),
    ] {
        let answer = desk.send(request).await;
        assert_eq!(
            (answer.status.as_u16(), answer.error().1.as_str()),
            (415, "unsupported_media_type")
        );
    }
    assert!(!desk.has_orders());
}

#[tokio::test]
async fn a_body_that_is_too_large_is_not_read_to_its_end() {
    let desk = Desk::new();
    let announced = Request::put("/api/schedules/%2F/a")
        .header("authorization", GUEST)
        .header("content-type", "application/json")
        .header("content-length", "2097153")
        .body(Body::empty())
        .unwrap();
    let large = format!(r#"{{"payload":"{}"}}"#, "x".repeat(2 << 20));
    let sent = desk.ask("PUT", "/api/schedules/%2F/a", &large).await;
    for answer in [desk.send(announced).await, sent] {
        let reason = "a body has 2097152 octets at most";
        assert_eq!(answer.error(), error(413, "payload_too_large", reason));
    }
    let fits = format!(r#"{{"payload":"{}"}}"#, "x".repeat((2 << 20) - 14));
    assert_eq!(fits.len(), 2 << 20);
    let order = desk.ordered("PUT", "/api/schedules/%2F/a", &fits).await;
    assert_eq!(order.message.body_len(), (2 << 20) - 14);
}

#[tokio::test]
async fn a_body_of_a_stranger_is_not_looked_at() {
    let desk = Desk::new();
    let request = Request::put("/api/schedules/%2F/a").body(Body::from("x".repeat(3 << 20)));
    assert_eq!(desk.send(request.unwrap()).await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let desk = Desk::new();
    let request = Request::put("/api/schedules/%2F/a").header("authorization", GUEST);
    let (_open, never) = Channel::<Bytes>::new(1);
    let answer = desk.send(request.body(Body::new(never)).unwrap()).await;
    assert_eq!(
        answer.error(),
        error(408, "timeout", "the body took too long to come")
    );
}

#[tokio::test]
async fn unknown_queries_are_named() {
    let desk = Desk::new();
    #[rustfmt::skip]
    let table = [
        ("/api/schedules/%2F?limt=3",            "unknown query 'limt': there is limit, after here"),
        ("/api/whoami?x",                        "unknown query 'x': there is none here"),
        ("/api/schedules/%2F?limit=1&limit=2",   "query 'limit' comes twice"),
        ("/api/schedules/%2F?limit=many",        "query 'limit': 'many' is not a whole number"),
        ("/api/schedules/%2F?after=%FF",         "the query is not UTF-8"),
    ];
    for (path, reason) in table {
        let answer = desk.ask("GET", path, "").await;
        assert_eq!(answer.error(), error(400, "bad_request", reason), "{path}");
    }
    let answer = desk.ask("GET", "/api/schedules/%FF/a", "").await;
    assert_eq!(
        answer.error(),
        error(400, "bad_request", "the path is not UTF-8")
    );
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing() {
    let desk = Desk::new();
    #[rustfmt::skip]
    let table = [
        ("POST", Some("http://evil.example"),   403),
        ("POST", Some("null"),                  403),
        ("POST", Some("http://broker:15672"),   200),
        ("POST", None,                          200),
        ("GET",  Some("http://evil.example"),   200), // the browser shows it no answer
    ];
    for (method, origin, status) in table {
        let path = if method == "GET" {
            "/api/schedules/%2F/a"
        } else {
            "/api/schedules/%2F/a/run"
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "broker:15672")
            .header("authorization", GUEST);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let answer = desk.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {origin:?}");
    }
}

#[tokio::test]
async fn refusals_of_the_broker_have_a_status() {
    let desk = Desk::new();
    #[rustfmt::skip]
    let table = [
        (ReplyCode::AccessRefused,      403, "access_refused"),
        (ReplyCode::NotFound,           404, "not_found"),
        (ReplyCode::ResourceLocked,     409, "conflict"),
        (ReplyCode::PreconditionFailed, 400, "bad_request"),
        (ReplyCode::ResourceError,      503, "unavailable"),
        (ReplyCode::ContentTooLarge,    413, "payload_too_large"),
        (ReplyCode::NotImplemented,     501, "not_implemented"),
        (ReplyCode::InternalError,      500, "internal_error"),
    ];
    for (code, status, word) in table {
        desk.refuse_with(AmqpError::new(code, "why"));
        let answer = desk.ask("GET", "/api/schedules/%2F/a", "").await;
        let reason = format!("{} - why", code.name());
        assert_eq!(answer.error(), error(status, word, &reason));
    }
    desk.refuse(Refusal::Unavailable("stopping"));
    let answer = desk.ask("GET", "/api/schedules/%2F/a", "").await;
    assert_eq!(answer.error(), error(503, "unavailable", "stopping"));
    let nowhere = desk.ask("GET", "/api/schedules/nowhere", "").await;
    assert_eq!(
        nowhere.error(),
        error(404, "not_found", "vhost 'nowhere' not found")
    );
    let dark = desk.ask("GET", "/api/schedules/dark", "").await;
    assert_eq!(
        dark.error(),
        error(403, "access_refused", "access to vhost 'dark' refused")
    );
}

/// Cargo runs tests in the folder of their package.
#[test]
fn every_route_is_in_the_manual() {
    let manual = std::fs::read_to_string("../../docs/http-api.md").unwrap();
    for route in routes::TABLE {
        let line = format!("`{} {}", route.method, route.path);
        assert!(manual.contains(&line), "docs/http-api.md has no {line}`");
        for query in route.queries {
            assert!(manual.contains(&format!("`{query}`")), "{line}: {query}");
        }
    }
}
