//! What a user may do, as MongoDB itself says it (`connectionStatus`), without trying.
//!
//! Asked by a look at the source before a run; a run just does what it has to, and is told.

use bson::{Document, doc};
use mongodb::Client;

use crate::change::Namespace;

use super::error::Error;

/// What an action is done to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Resource {
    /// One collection, there or not.
    Collection(Namespace),
    /// Every collection of a database but `system.*`.
    Database(String),
    /// Every collection of every database but `system.*`.
    Deployment,
}

/// `db.collection`, or in words.
impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Collection(namespace) => write!(f, "{namespace}"),
            Self::Database(database) => write!(f, "the whole database {database}"),
            Self::Deployment => f.write_str("all databases"),
        }
    }
}

/// What the user of a connection may do.
#[derive(Clone, PartialEq, Debug)]
pub struct Privileges {
    /// `user@db`, as which the connection is logged in; none where the server asks for no login.
    pub users: Vec<(String, String)>,
    grants: Vec<Grant>,
}

#[derive(Clone, PartialEq, Debug)]
struct Grant {
    scope: Scope,
    actions: Vec<String>,
}

/// What a grant holds for. An empty name stands for any.
#[derive(Clone, PartialEq, Debug)]
enum Scope {
    Any,
    Names {
        database: String,
        collection: String,
    },
    /// The cluster as such, buckets of time series, and whatever else concerns no collection.
    Other,
}

impl Privileges {
    /// Asks the server.
    ///
    /// # Errors
    /// Whatever the driver returns.
    pub async fn of(client: &Client) -> Result<Self, Error> {
        let command = doc! { "connectionStatus": 1, "showPrivileges": true };
        let reply = client.database("admin").run_command(command).await?;
        Ok(Self::read(&reply))
    }

    pub(crate) fn read(reply: &Document) -> Self {
        let about = reply.get_document("authInfo").cloned().unwrap_or_default();
        let listed = |field: &str| -> Vec<Document> {
            let list = about.get_array(field).map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(|entry| entry.as_document().cloned()).collect()
        };
        let text = |entry: &Document, field: &str| {
            entry.get_str(field).map(str::to_owned).unwrap_or_default()
        };
        let users = listed("authenticatedUsers");
        let grants = listed("authenticatedUserPrivileges");
        Self {
            users: users.iter().map(|user| (text(user, "user"), text(user, "db"))).collect(),
            grants: grants.iter().map(Grant::read).collect(),
        }
    }

    /// Whether the user may do that. A server that asks for no login allows all.
    pub fn may(&self, action: &str, resource: &Resource) -> bool {
        self.users.is_empty()
            || self.grants.iter().any(|grant| {
                grant.scope.holds(resource) && grant.actions.iter().any(|own| own == action)
            })
    }

    /// What of these the user may not do.
    pub fn missing(&self, actions: &[&'static str], resource: &Resource) -> Vec<&'static str> {
        actions.iter().copied().filter(|action| !self.may(action, resource)).collect()
    }
}

impl Grant {
    fn read(entry: &Document) -> Self {
        let resource = entry.get_document("resource").cloned().unwrap_or_default();
        let scope = match (resource.get_str("db"), resource.get_str("collection")) {
            (Ok(database), Ok(collection)) => {
                Scope::Names { database: database.to_owned(), collection: collection.to_owned() }
            }
            _ if resource.get_bool("anyResource").unwrap_or_default() => Scope::Any,
            _ => Scope::Other,
        };
        let actions = entry.get_array("actions").map(Vec::as_slice).unwrap_or_default();
        let actions = actions.iter().filter_map(|action| action.as_str().map(str::to_owned));
        Self { scope, actions: actions.collect() }
    }
}

impl Scope {
    fn holds(&self, resource: &Resource) -> bool {
        let (database, collection) = match self {
            Self::Any => return true,
            Self::Other => return false,
            Self::Names { database, collection } => (database.as_str(), collection.as_str()),
        };
        match resource {
            Resource::Deployment => database.is_empty() && collection.is_empty(),
            Resource::Database(name) => {
                (database.is_empty() || database == name) && collection.is_empty()
            }
            Resource::Collection(namespace) => {
                let own = namespace.collection();
                (database.is_empty() || database == namespace.database())
                    && (own == collection || (collection.is_empty() && !own.starts_with("system.")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn privileges(grants: &[(Document, &[&str])]) -> Privileges {
        let grants: Vec<_> = grants
            .iter()
            .map(|(resource, actions)| doc! { "resource": resource, "actions": actions.to_vec() })
            .collect();
        Privileges::read(&doc! { "authInfo": {
            "authenticatedUsers": [{ "user": "sync", "db": "admin" }],
            "authenticatedUserPrivileges": grants,
        } })
    }

    #[test]
    fn what_a_grant_holds_for() {
        let names =
            |database: &str, collection: &str| doc! { "db": database, "collection": collection };
        let all = [
            Resource::Collection(Namespace::new("shop", "a")),
            Resource::Collection(Namespace::new("shop", "b")),
            Resource::Collection(Namespace::new("shop", "system.views")),
            Resource::Collection(Namespace::new("other", "a")),
            Resource::Database("shop".to_owned()),
            Resource::Deployment,
        ];
        for (grant, expected) in [
            (names("shop", "a"), [true, false, false, false, false, false]),
            (names("shop", ""), [true, true, false, false, true, false]),
            (names("", "a"), [true, false, false, true, false, false]),
            (names("", ""), [true, true, false, true, true, true]),
            (names("shop", "system.views"), [false, false, true, false, false, false]),
            (doc! { "anyResource": true }, [true; 6]),
            (doc! { "cluster": true }, [false; 6]),
            (doc! { "system_buckets": "a" }, [false; 6]),
        ] {
            let held = privileges(&[(grant.clone(), &["find"])]);
            let may: Vec<_> = all.iter().map(|resource| held.may("find", resource)).collect();
            assert_eq!(may, expected, "{grant}");
            assert!(all.iter().all(|resource| !held.may("insert", resource)), "{grant}");
        }
    }

    #[test]
    fn what_is_missing() {
        let held = privileges(&[
            (doc! { "db": "shop", "collection": "" }, &["find", "listCollections"]),
            (doc! { "db": "shop", "collection": "a" }, &["changeStream"]),
        ]);
        let missing = |resource| held.missing(&["find", "changeStream", "collStats"], &resource);
        assert_eq!(missing(Resource::Collection(Namespace::new("shop", "a"))), ["collStats"]);
        assert_eq!(missing(Resource::Database("shop".to_owned())), ["changeStream", "collStats"]);
        let open = Privileges::read(&doc! { "authInfo": { "authenticatedUsers": [] } });
        assert!(open.may("find", &Resource::Deployment));
    }
}
