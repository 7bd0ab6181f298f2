//! Message types generated from `proto/`. Those of remote write are for clients and tests: the server reads such messages
//! in place ([`crate::write::wire`]).

/// Answers of queries.
#[allow(missing_docs)]
pub mod query_v1 {
    include!(concat!(env!("OUT_DIR"), "/quiver.query.v1.rs"));
}

/// Remote write 1.0.
#[allow(missing_docs)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/prometheus.rs"));
}

/// Remote write 2.0.
#[allow(missing_docs)]
pub mod v2 {
    include!(concat!(env!("OUT_DIR"), "/io.prometheus.write.v2.rs"));
}
