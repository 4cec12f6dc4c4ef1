//! Who is asking, and where that user may go.

use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::error::Error;

pub(crate) async fn whoami(call: Call) -> Result<Answer, Error> {
    Ok(json!({"name": &*call.caller.name, "tags": call.caller.tags}).into())
}

pub(crate) async fn vhosts(call: Call) -> Result<Answer, Error> {
    let vhosts = call.gateway.vhosts(&call.caller.name);
    let vhosts = vhosts.iter().map(|vhost| json!({"name": &**vhost}));
    Ok(vhosts.collect::<Value>().into())
}
