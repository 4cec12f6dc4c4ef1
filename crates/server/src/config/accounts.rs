//! Users, vhosts and permissions, as the configuration file gives them.
//!
//! ```toml
//! [[vhosts]]
//! name = "orders"
//!
//! [[users]]
//! name = "app"
//! password_hash = "5ZbXJB3OWQlCzUNybwJ/XcL6ZqJA9zNQvXlwYnWQikQSP3lz"   # or password = "..."
//! tags = ["monitoring"]
//!
//! [[permissions]]
//! user = "app"
//! vhost = "orders"
//! configure = "^app\\."
//! write = ".*"
//! read = ".*"
//! ```
//!
//! The vhost `/` always exists. Without any user, `guest` with the password `guest` may do
//! everything there, from this machine only.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use leveret_core::Permissions;
use leveret_core::schedule::Users;
use serde::Deserialize;

use super::Settings;
use crate::auth::password::PasswordHash;
use crate::error::StartError;

/// The vhost that always exists.
pub const DEFAULT_VHOST: &str = "/";

/// The user that may only come from this machine unless told otherwise.
const GUEST: &str = "guest";

/// Most octets of a name on the wire.
const NAME_BYTES_MAX: usize = 255;

/// Who may do what where, checked.
#[derive(Clone, Debug)]
pub struct Accounts {
    /// By name.
    pub users: BTreeMap<Arc<str>, User>,
    /// Names, [`DEFAULT_VHOST`] first.
    pub vhosts: Vec<Arc<str>>,
}

/// Somebody who may log in.
#[derive(Clone, Debug)]
pub struct User {
    /// As it is logged in with.
    pub name: Arc<str>,
    /// What its password must match.
    pub password: PasswordHash,
    /// RabbitMQ's tags: `administrator`, `monitoring`, `impersonator`, ...
    pub tags: Vec<String>,
    /// May only connect from this machine.
    pub loopback_only: bool,
    /// Rights by vhost; without an entry the vhost is closed to it.
    pub permissions: BTreeMap<Arc<str>, Permissions>,
}

/// What each user may do in one vhost, for whoever acts in a user's name.
#[derive(Debug)]
pub struct InVhost(BTreeMap<Arc<str>, Permissions>);

impl Users for InVhost {
    fn permissions(&self, user: &str) -> Option<Permissions> {
        self.0.get(user).cloned()
    }
}

/// The tables as they stand in the file.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) users: Vec<UserTable>,
    pub(super) vhosts: Vec<VhostTable>,
    pub(super) permissions: Vec<PermissionTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserTable {
    name: String,
    password: Option<String>,
    password_hash: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    loopback_only: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VhostTable {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PermissionTable {
    user: String,
    vhost: String,
    configure: String,
    write: String,
    read: String,
}

impl Accounts {
    pub(super) fn new(tables: Tables, settings: &Settings) -> Result<Self, StartError> {
        let mut accounts = Self {
            users: BTreeMap::new(),
            vhosts: vec![Arc::from(DEFAULT_VHOST)],
        };
        for vhost in tables.vhosts {
            accounts.add_vhost(&vhost.name)?;
        }
        for user in tables.users {
            accounts.add_user(user)?;
        }
        if let (Some(name), Some(password)) = (&settings.default_user.0, &settings.default_pass.0) {
            accounts.add_administrator(name, password)?;
        } else if accounts.users.is_empty() {
            accounts.add_administrator(GUEST, GUEST)?;
        }
        for permission in &tables.permissions {
            accounts.permit(permission)?;
        }
        Ok(accounts)
    }

    /// What each user may do in this vhost.
    #[must_use]
    pub fn in_vhost(&self, vhost: &str) -> InVhost {
        let rights = self.users.iter().filter_map(|(name, user)| {
            let permissions = user.permissions.get(vhost)?;
            Some((Arc::clone(name), permissions.clone()))
        });
        InVhost(rights.collect())
    }

    /// Anybody who may log in with a password that is slow to check?
    #[must_use]
    pub fn has_slow_passwords(&self) -> bool {
        self.users.values().any(|user| user.password.is_slow())
    }

    fn add_vhost(&mut self, name: &str) -> Result<(), StartError> {
        check_name("vhost", name)?;
        if !self.vhosts.iter().any(|known| **known == *name) {
            self.vhosts.push(Arc::from(name));
        }
        Ok(())
    }

    fn add_user(&mut self, table: UserTable) -> Result<(), StartError> {
        let name = table.name;
        check_name("user", &name)?;
        let password = match (table.password, table.password_hash) {
            (Some(password), None) if !password.is_empty() => PasswordHash::of(password.as_bytes()),
            (None, Some(hash)) => PasswordHash::parse(&hash).map_err(|reason| {
                StartError::new(format!("user '{name}': the password hash {reason}"))
            })?,
            _ => {
                return Err(StartError::new(format!(
                    "user '{name}' needs either a password or a password_hash"
                )));
            }
        };
        let name: Arc<str> = Arc::from(name);
        let user = User {
            loopback_only: table.loopback_only.unwrap_or(*name == *GUEST),
            name: Arc::clone(&name),
            password,
            tags: table.tags,
            permissions: BTreeMap::new(),
        };
        match self.users.insert(Arc::clone(&name), user) {
            Some(_) => Err(StartError::new(format!("user '{name}' is given twice"))),
            None => Ok(()),
        }
    }

    fn add_administrator(&mut self, name: &str, password: &str) -> Result<(), StartError> {
        self.add_user(UserTable {
            name: name.to_owned(),
            password: Some(password.to_owned()),
            password_hash: None,
            tags: vec!["administrator".to_owned()],
            loopback_only: None,
        })?;
        if let Some(user) = self.users.get_mut(name) {
            user.permissions
                .insert(Arc::from(DEFAULT_VHOST), Permissions::all());
        }
        Ok(())
    }

    fn permit(&mut self, table: &PermissionTable) -> Result<(), StartError> {
        let PermissionTable { user, vhost, .. } = table;
        let wrong =
            |what: &str| StartError::new(format!("permissions of '{user}' in '{vhost}': {what}"));
        let vhost = self
            .vhosts
            .iter()
            .find(|known| ***known == **vhost)
            .ok_or_else(|| wrong("there is no such vhost"))?;
        let rights = Permissions::new(&table.configure, &table.write, &table.read)
            .map_err(|e| wrong(&e.to_string().replace('\n', " ")))?;
        self.users
            .get_mut(user.as_str())
            .ok_or_else(|| wrong("there is no such user"))?
            .permissions
            .insert(Arc::clone(vhost), rights);
        Ok(())
    }
}

impl Default for Accounts {
    /// Those of a configuration that says nothing: `guest`, from this machine.
    fn default() -> Self {
        Self::new(Tables::default(), &Settings::default()).expect("guest is a good name")
    }
}

impl User {
    /// May it publish with another user's `user-id`?
    #[must_use]
    pub fn is_impersonator(&self) -> bool {
        self.tags.iter().any(|tag| tag == "impersonator")
    }
}

impl fmt::Debug for UserTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserTable({:?})", self.name)
    }
}

fn check_name(kind: &str, name: &str) -> Result<(), StartError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(StartError::new(format!(
            "the {kind} name '{name}' is not 1 to {NAME_BYTES_MAX} octets long"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use leveret_core::Access;

    use super::*;

    fn accounts(file: &str) -> Result<Accounts, String> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct File {
            users: Vec<UserTable>,
            vhosts: Vec<VhostTable>,
            permissions: Vec<PermissionTable>,
        }
        let File {
            users,
            vhosts,
            permissions,
        } = toml::from_str(file).unwrap();
        Accounts::new(
            Tables {
                users,
                vhosts,
                permissions,
            },
            &Settings::default(),
        )
        .map_err(|e| e.to_string())
    }

    #[test]
    fn without_users_there_is_guest_on_this_machine() {
        let accounts = accounts("").unwrap();
        let guest = &accounts.users["guest"];
        assert!(guest.loopback_only);
        assert!(guest.password.matches(b"guest"));
        assert!(guest.permissions[DEFAULT_VHOST].allow(Access::Configure, "q"));
    }

    #[test]
    fn with_users_there_is_no_guest() {
        let accounts = accounts("[[users]]\nname = \"app\"\npassword = \"pw\"").unwrap();
        assert_eq!(
            accounts
                .users
                .keys()
                .map(|name| &**name)
                .collect::<Vec<_>>(),
            ["app"]
        );
        let app = &accounts.users["app"];
        assert!(!app.loopback_only && app.permissions.is_empty());
    }

    #[test]
    fn permissions_hold_for_their_vhost() {
        let accounts = accounts(
            r#"
            vhosts = [{ name = "orders" }]
            users = [{ name = "app", password = "pw", tags = ["impersonator"] }]
            permissions = [{ user = "app", vhost = "orders", configure = "", write = "^app", read = ".*" }]
            "#,
        )
        .unwrap();
        let app = &accounts.users["app"];
        assert!(app.is_impersonator());
        assert!(!app.permissions.contains_key(DEFAULT_VHOST));
        let rights = &app.permissions["orders"];
        assert!(rights.allow(Access::Write, "app.q") && !rights.allow(Access::Write, "q"));
        assert!(!rights.allow(Access::Configure, "q"));
    }

    #[test]
    fn contradictions_are_refused() {
        #[rustfmt::skip]
        let table = [
            ("[[users]]\nname = \"a\"",                                 "user 'a' needs either a password or a password_hash"),
            ("[[users]]\nname = \"a\"\npassword = \"\"",                "user 'a' needs either a password or a password_hash"),
            ("[[users]]\nname = \"a\"\npassword_hash = \"YWJj\"",       "user 'a': the password hash is neither RabbitMQ's SHA-256 or SHA-512 nor argon2"),
            ("[[users]]\nname = \"\"\npassword = \"x\"",                "the user name '' is not 1 to 255 octets long"),
            ("permissions = [{ user = \"x\", vhost = \"/\", configure = \"\", write = \"\", read = \"\" }]",
                                                                        "permissions of 'x' in '/': there is no such user"),
            ("permissions = [{ user = \"guest\", vhost = \"v\", configure = \"\", write = \"\", read = \"\" }]",
                                                                        "permissions of 'guest' in 'v': there is no such vhost"),
        ];
        for (file, expected) in table {
            assert_eq!(
                accounts(file).map(|_| ()),
                Err(expected.to_owned()),
                "{file}"
            );
        }
        let twice = accounts(
            "users = [{ name = \"a\", password = \"x\" }, { name = \"a\", password = \"y\" }]",
        );
        assert_eq!(twice.map(|_| ()), Err("user 'a' is given twice".to_owned()));
    }
}
