//! Messages that wait for their time.

use crate::body;
use crate::call::{Answer, Call};
use crate::error::Error;
use crate::order::{Order, field_value};

pub(crate) async fn list(call: Call) -> Result<Answer, Error> {
    let limit = call.number("limit")?;
    let order = Order::delayed("list").with_some("x-delayed-limit", limit);
    call.order(order).await
}

pub(crate) async fn peek(call: Call) -> Result<Answer, Error> {
    call.order(of(&call, "peek")).await
}

pub(crate) async fn cancel(call: Call) -> Result<Answer, Error> {
    call.order(of(&call, "cancel")).await
}

pub(crate) async fn retime(call: Call) -> Result<Answer, Error> {
    body::only(&call.fields, &["deliver_at", "deliver_after"])?;
    let mut order = of(&call, "retime");
    for (field, header) in [
        ("deliver_at", "x-deliver-at"),
        ("deliver_after", "x-deliver-after"),
    ] {
        if let Some(value) = call.fields.get(field).filter(|value| !value.is_null()) {
            order.headers.insert(header, field_value(value, field)?);
        }
    }
    call.order(order).await
}

fn of(call: &Call, action: &str) -> Order {
    Order::delayed(action).with("x-delayed-id", call.part("id"))
}
