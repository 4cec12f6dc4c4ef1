//! Schedules: made, changed, looked at, removed.

use serde_json::{Value, json};

use crate::body;
use crate::call::{Answer, Call};
use crate::definition;
use crate::error::Error;
use crate::order::{Order, field_value};

const NAME: &str = "x-schedule-name";

/// What can be done with a schedule itself.
const METHODS: &str = "GET,HEAD,PUT,DELETE";

/// Those of all vhosts that the user may see.
pub(crate) async fn list_all(call: Call) -> Result<Answer, Error> {
    let limit = call.number("limit")?;
    let mut vhosts = Vec::new();
    for vhost in call.gateway.vhosts(&call.caller.name) {
        let order = Order::schedule("list").with_some("x-schedule-limit", limit);
        let answer = call.order_to(&vhost, order).await?;
        let mut answer: Value = serde_json::from_slice(&answer)
            .map_err(|_| Error::internal("an answer is not JSON"))?;
        if let Some(fields) = answer.as_object_mut() {
            fields.insert("vhost".to_owned(), json!(&*vhost));
        }
        vhosts.push(answer);
    }
    Ok(json!({ "vhosts": vhosts }).into())
}

pub(crate) async fn list(call: Call) -> Result<Answer, Error> {
    let limit = call.number("limit")?;
    let order = Order::schedule("list")
        .with_some("x-schedule-limit", limit)
        .with_some("x-schedule-after", call.query("after"));
    call.order(order).await
}

pub(crate) async fn show(call: Call) -> Result<Answer, Error> {
    call.order(of(&call, "show")).await
}

pub(crate) async fn put(call: Call) -> Result<Answer, Error> {
    let order = definition::order("put", &call.fields, &call.caller)?;
    call.order(order.with(NAME, call.part("name"))).await
}

pub(crate) async fn delete(call: Call) -> Result<Answer, Error> {
    call.order(of(&call, "delete")).await
}

pub(crate) async fn run(call: Call) -> Result<Answer, Error> {
    body::only(&call.fields, &[])?;
    call.order(of(&call, "run-now")).await
}

pub(crate) async fn pause(call: Call) -> Result<Answer, Error> {
    noted(call, "pause").await
}

pub(crate) async fn resume(call: Call) -> Result<Answer, Error> {
    noted(call, "resume").await
}

async fn noted(call: Call, action: &str) -> Result<Answer, Error> {
    body::only(&call.fields, &["note"])?;
    let note = definition::text_of(&call.fields, "note")?;
    let order = of(&call, action).with_some("x-schedule-note", note);
    call.order(order).await
}

pub(crate) async fn backfill(call: Call) -> Result<Answer, Error> {
    body::only(&call.fields, &["from", "to"])?;
    let mut order = of(&call, "backfill");
    for (field, header) in [("from", "x-schedule-from"), ("to", "x-schedule-to")] {
        if let Some(value) = call.fields.get(field).filter(|value| !value.is_null()) {
            order.headers.insert(header, field_value(value, field)?);
        }
    }
    call.order(order).await
}

pub(crate) async fn preview(call: Call) -> Result<Answer, Error> {
    let count = call.number("count")?;
    let order = of(&call, "preview").with_some("x-schedule-limit", count);
    call.order(order).await
}

/// `POST /api/schedules/{vhost}/preview`: when a schedule would fire that nobody has made.
///
/// Its last part is matched as a name, so that a schedule may be called `preview`, too.
pub(crate) async fn preview_proposed(call: Call) -> Result<Answer, Error> {
    if call.part("name") != "preview" {
        return Err(Error::method_not_allowed("a schedule is made with PUT").allowing(METHODS));
    }
    let count = call.number("count")?;
    let order = definition::order("preview", &call.fields, &call.caller)?;
    call.order(order.with_some("x-schedule-limit", count)).await
}

pub(crate) async fn history(call: Call) -> Result<Answer, Error> {
    let limit = call.number("limit")?;
    let order = of(&call, "history").with_some("x-schedule-limit", limit);
    call.order(order).await
}

fn of(call: &Call, action: &str) -> Order {
    Order::schedule(action).with(NAME, call.part("name"))
}
