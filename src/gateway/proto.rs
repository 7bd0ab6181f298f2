//! Message types generated from `proto/`, for clients and tests. The server itself reads messages in place
//! ([`crate::write::wire`]) and builds none of these.

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
