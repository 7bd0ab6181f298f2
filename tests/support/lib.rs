//! What tests, benches and examples share; nothing of it is in the product.
//!
//! | module | is |
//! | --- | --- |
//! | `http` | a client that shows exactly what a server answers |
//! | `fleet` | remote write requests of many hosts, the same every time |
//! | `s3_server` | an S3-compatible service in memory, slow or failing as asked |
//! | `s3_service` | an S3 service by others, on a folder, which checks signatures |

pub mod fleet;
pub mod http;
pub mod s3_server;
pub mod s3_service;
