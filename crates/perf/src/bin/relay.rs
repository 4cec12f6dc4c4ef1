//! The relay as a program: `relay --listen 127.0.0.1:5674`.

use std::{io, net::SocketAddr};

use clap::Parser;
use tokio::net::TcpListener;

/// Copies AMQP publishes to consumers without any broker logic: the practical limit of a broker on
/// this machine. Nothing is stored; a message that no consumer waits for is dropped.
#[derive(Parser)]
#[command(name = "relay", version)]
struct Options {
    /// Where to listen; loopback only, since there is no login.
    #[arg(long, default_value = "127.0.0.1:5674")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let options = Options::parse();
    if !options.listen.ip().is_loopback() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "there is no login, so only loopback will do",
        ));
    }
    let listener = TcpListener::bind(options.listen).await?;
    println!("relay listens on {}", listener.local_addr()?);
    leveret_perf::relay::serve(listener).await
}
