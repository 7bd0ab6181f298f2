//! What can go wrong with a remote store, told by what the caller can do about it.

use std::fmt;

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectOp {
    /// Reading bytes.
    Get,
    /// Asking for length and age.
    Head,
    /// Making a small object where there is none.
    Put,
    /// Making an object out of a file.
    Upload,
    /// Listing names.
    List,
    /// Removing.
    Delete,
}

impl fmt::Display for ObjectOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ObjectOp::Get => "read",
            ObjectOp::Head => "look at",
            ObjectOp::Put => "put",
            ObjectOp::Upload => "upload",
            ObjectOp::List => "list",
            ObjectOp::Delete => "delete",
        })
    }
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectErrorKind {
    /// No such object.
    NotFound,
    /// There is one of that name already.
    Exists,
    /// Not permitted: credentials, policy.
    Denied,
    /// It may work in a moment: no connection, a 5xx, a 429, a connection that broke.
    Unavailable,
    /// No answer in time.
    TimedOut,
    /// Other bytes than asked for.
    Short,
    /// Anything else: trying again will not help.
    Other,
}

/// A failed operation of a remote store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {op} {key:?} in the store {store}: {text}")]
pub struct ObjectError {
    /// What was being done.
    pub op: ObjectOp,
    /// In which store.
    pub store: String,
    /// To which object.
    pub key: String,
    /// What kind of failure.
    pub kind: ObjectErrorKind,
    /// What the store said.
    pub text: String,
}

impl ObjectError {
    /// An error of a store.
    pub fn new(op: ObjectOp, store: &str, key: &str, kind: ObjectErrorKind, text: impl fmt::Display) -> Self {
        Self { op, store: store.to_owned(), key: key.to_owned(), kind, text: text.to_string() }
    }

    /// Is it worth another try?
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, ObjectErrorKind::Unavailable | ObjectErrorKind::TimedOut | ObjectErrorKind::Short)
    }

    /// No such object?
    pub fn is_not_found(&self) -> bool {
        self.kind == ObjectErrorKind::NotFound
    }
}
