//! How clients say who they are. Whether it is true is for the server to find out.

use std::fmt;

use leveret_codec::{FieldTable, FieldValue};
use leveret_core::AmqpError;

use crate::limits::too_deep_for_handshake;

/// A way to log in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mechanism {
    /// User and password with NULs between (RFC 4616).
    Plain,
    /// User and password in a field table; what AMQP clients used before 0-9-1.
    AmqPlain,
    /// Whoever the TLS certificate says (RFC 4422, appendix A).
    External,
}

impl Mechanism {
    const ALL: [Self; 3] = [Self::Plain, Self::AmqPlain, Self::External];

    /// Its registered name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::AmqPlain => "AMQPLAIN",
            Self::External => "EXTERNAL",
        }
    }

    /// The mechanism of this name, if it is one of those on offer.
    ///
    /// # Errors
    /// `COMMAND_INVALID`, worded as RabbitMQ does in its log: nobody sends it to the client.
    pub(crate) fn choose(name: &str, offered: &[Self]) -> Result<Self, AmqpError> {
        let known = Self::ALL
            .into_iter()
            .find(|mechanism| mechanism.name() == name);
        match known {
            Some(mechanism) if offered.contains(&mechanism) => Ok(mechanism),
            Some(_) => Err(AmqpError::command_invalid(format_args!(
                "invalid authentication mechanism '{name}'"
            ))),
            None => Err(AmqpError::command_invalid(format_args!(
                "unknown authentication mechanism '{}'",
                name.escape_debug()
            ))),
        }
    }

    /// Reads the client's response.
    ///
    /// # Errors
    /// `SYNTAX_ERROR`. The text does not repeat the response, which may hold a password.
    pub(crate) fn credentials(self, response: &[u8]) -> Result<Credentials, AmqpError> {
        match self {
            Self::Plain => plain(response),
            Self::AmqPlain => amqplain(response),
            Self::External => Some(Credentials::External),
        }
        .ok_or_else(|| AmqpError::syntax_error(format_args!("malformed {} response", self.name())))
    }
}

/// What a client gives to prove who it is.
#[derive(Debug)]
pub enum Credentials {
    /// A name and a password.
    Password {
        /// Name of the user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// What TLS knows about the client.
    External,
}

/// A password or token. Does not show itself in logs and is wiped when dropped.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// The octets, for whoever checks them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Secret {
    fn from(octets: &[u8]) -> Self {
        Self(octets.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        std::hint::black_box(&self.0); // else the compiler may skip writing what nobody reads
    }
}

/// `NUL user NUL password`. RFC 4616 lets an identity to act as stand in front; like RabbitMQ we
/// know none.
fn plain(response: &[u8]) -> Option<Credentials> {
    let mut parts = response.split(|&octet| octet == 0);
    let (identity, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    if !identity.is_empty() || parts.next().is_some() {
        return None;
    }
    by_password(user, password)
}

/// The inside of a field table with `LOGIN` and `PASSWORD`.
fn amqplain(response: &[u8]) -> Option<Credentials> {
    let table = FieldTable::decode(response)
        .ok()
        .filter(|table| !too_deep_for_handshake(table))?;
    match (table.get("LOGIN")?, table.get("PASSWORD")?) {
        (FieldValue::LongString(user), FieldValue::LongString(password)) => {
            by_password(user, password)
        }
        _ => None,
    }
}

fn by_password(user: &[u8], password: &[u8]) -> Option<Credentials> {
    let user = str::from_utf8(user).ok()?.to_owned();
    Some(Credentials::Password {
        user,
        password: password.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(mechanism: Mechanism, response: &[u8]) -> Option<(String, Vec<u8>)> {
        match mechanism.credentials(response) {
            Ok(Credentials::Password { user, password }) => Some((user, password.expose().into())),
            Ok(Credentials::External) => panic!("asked for a password"),
            Err(_) => None,
        }
    }

    #[test]
    fn plain_responses() {
        #[rustfmt::skip]
        let table = [
            (b"\0guest\0guest".as_slice(), Some(("guest", "guest")), "the usual"),
            (b"\0guest\0",                 Some(("guest", "")),      "an empty password is refused later, not here"),
            (b"\0\0",                      Some(("", "")),           "so is an empty name"),
            (b"guest\0guest",              None,                     "no NUL in front"),
            (b"root\0guest\0pw",           None,                     "an identity to act as"),
            (b"\0guest\0a\0b",             None,                     "a NUL in the password"),
            (b"\0\xff\0pw",                None,                     "a name that is not UTF-8"),
            (b"",                          None,                     "nothing"),
        ];
        for (response, expected, why) in table {
            let expected = expected.map(|(user, password)| (user.to_owned(), password.into()));
            assert_eq!(parsed(Mechanism::Plain, response), expected, "{why}");
        }
    }

    #[test]
    fn amqplain_responses() {
        let response = |entries: &[(&str, FieldValue)]| {
            let mut table = FieldTable::default();
            for (key, value) in entries {
                table.insert(*key, value.clone());
            }
            let mut octets = Vec::new();
            table.encode_into(&mut octets);
            octets
        };
        let text = |text: &'static str| FieldValue::LongString(text.into());
        let guest = Some(("guest".to_owned(), b"pw".to_vec()));

        let good = response(&[("LOGIN", text("guest")), ("PASSWORD", text("pw"))]);
        assert_eq!(parsed(Mechanism::AmqPlain, &good), guest);
        let missing = response(&[("LOGIN", text("guest"))]);
        assert_eq!(parsed(Mechanism::AmqPlain, &missing), None, "no password");
        let number = response(&[("LOGIN", text("guest")), ("PASSWORD", FieldValue::I32(1))]);
        assert_eq!(
            parsed(Mechanism::AmqPlain, &number),
            None,
            "a password that is a number"
        );
        assert_eq!(parsed(Mechanism::AmqPlain, &good[1..]), None, "not a table");
    }

    #[test]
    fn only_mechanisms_on_offer_are_chosen() {
        let offered = [Mechanism::Plain];
        let text = |name| Mechanism::choose(name, &offered).map_err(|error| error.text);
        assert_eq!(text("PLAIN"), Ok(Mechanism::Plain));
        assert_eq!(
            text("EXTERNAL"),
            Err("COMMAND_INVALID - invalid authentication mechanism 'EXTERNAL'".to_owned())
        );
        assert_eq!(
            text("plain"),
            Err("COMMAND_INVALID - unknown authentication mechanism 'plain'".to_owned())
        );
    }

    #[test]
    fn a_password_never_shows_itself() {
        let credentials = Mechanism::Plain.credentials(b"\0guest\0hunter2");
        assert!(!format!("{credentials:?}").contains("hunter2"));
        let refused = Mechanism::Plain.credentials(b"x\0guest\0hunter2");
        assert!(!format!("{refused:?}").contains("hunter2"));
    }
}
