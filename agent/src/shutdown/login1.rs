//! login1's side of a shutdown: the inhibitor, and the signal that the machine goes down.
use std::collections::HashMap;

use futures::StreamExt as _;
use zbus::{Connection, MatchRule, MessageStream, OwnedVariant, Proxy, Variant};

use super::order::Down;

const NAME: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";

/// A connection to login1 and what it says.
#[derive(Debug)]
pub struct Login1 {
    manager: Proxy<'static>,
    signals: MessageStream,
    /// How the machine goes down, as the more detailed of the two signals has said; it comes first.
    announced: Option<Down>,
}

impl Login1 {
    /// Connects to the bus at this socket.
    ///
    /// # Errors
    /// As D-Bus has it.
    pub async fn connect(socket: &str) -> zbus::Result<Self> {
        let address = format!("unix:path={socket}");
        let connection: Connection = zbus::connection::Builder::address(address.as_str()).build().await?;
        let rule = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .interface(MANAGER)
            .path(PATH)
            .build()?;
        let signals = MessageStream::for_match_rule(rule, &connection, std::num::NonZero::new(16)).await?;
        let manager = Proxy::new(&connection, NAME, PATH, MANAGER).await?;
        Ok(Self { manager, signals, announced: None })
    }

    /// Takes the delay inhibitor; dropping it lets the machine go down.
    ///
    /// # Errors
    /// As D-Bus has it.
    pub async fn inhibit(&self) -> zbus::Result<zbus::OwnedFd> {
        let why = "pods need time to end";
        self.manager.call("Inhibit", &("shutdown", "pintle-agent", why, "delay")).await
    }

    /// Whether the machine is going down already.
    ///
    /// # Errors
    /// As D-Bus has it.
    pub async fn preparing(&self) -> zbus::Result<bool> {
        self.manager.get_property("PreparingForShutdown").await
    }

    /// Waits for the next word on the machine's going down; `None` says that it stays up after all.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn next(&mut self) -> zbus::Result<Option<Down>> {
        while let Some(message) = self.signals.next().await {
            let message = message?;
            let member = message.header().member().map(ToString::to_string).unwrap_or_default();
            match member.as_str() {
                "PrepareForShutdownWithMetadata" => {
                    let (start, metadata): (bool, HashMap<String, OwnedVariant>) =
                        message.body().deserialize()?;
                    self.announced = start.then(|| kind(&metadata));
                }
                "PrepareForShutdown" => {
                    let start: bool = message.body().deserialize()?;
                    return Ok(start.then(|| self.announced.take().unwrap_or(Down::PowerOff)));
                }
                _ => {}
            }
        }
        Err(zbus::Error::InputOutput(std::sync::Arc::new(std::io::ErrorKind::ConnectionReset.into())))
    }
}

fn kind(metadata: &HashMap<String, OwnedVariant>) -> Down {
    match metadata.get("type").map(|value| &**value) {
        Some(Variant::Str(kind)) if matches!(kind.as_str(), "reboot" | "soft-reboot" | "kexec") => {
            Down::Reboot
        }
        _ => Down::PowerOff,
    }
}
