//! Tests of the whole: the built binary, over its ports and its files.
//!
//! | module | shows |
//! | --- | --- |
//! | `survival` | kill -9 under remote write loses nothing acknowledged, keeps nothing twice or in part |
//! | `faults` | the fault matrix: processes that die anywhere, disks that fail, signals, reloads, formats, all of it mixed |
//! | `disk_full` | a full disk refuses writes, goes on reading, heals |
//! | `hostile` | bad input of every kind is a clear error and harms nobody else |
//! | `http_errors` | requests that reach no handler: malformed, too long, to paths that do not exist |
//! | `connections` | slow clients are closed, cost bounded memory, and delay nobody |
//! | `cors` | which web pages may read and write, names on a loopback address |
//! | `query_of_death` | limits hold: time, memory, errors, others go on; a stopped query stops in any kernel |
//! | `scripts` | `tests/promql/*.test`: answers as Prometheus's, from head, blocks and after restarts |
//! | `admission` | memory of a query and of all, how many run and wait |
//! | `api` | the Prometheus API as its clients expect it |
//! | `write` | remote write 1.0 and 2.0: answers, partial writes, what is kept |
//! | `otlp` | OpenTelemetry metrics over HTTP and gRPC |
//! | `sql` | SQL over HTTP: formats, pushdown, the example queries of `sql/` |
//! | `sql_postgres` | SQL as PostgreSQL answers it: floats, labels, times, names of columns |
//! | `reuse` | kept answers: what moves costs little, what changes is seen |
//! | `explain` | explanations, hints, statistics, answers as protobuf |
//! | `export` | Parquet out, and the same answers from it without a server |
//! | `maintenance` | deletions, snapshots, backups, checks, background tasks |
//! | `cli` | help, completions, exit codes, messages, the prompt |
//! | `config` | settings: one meaning in flag and file, errors with their place, slips refused or told, foreign folders, the first minute |
//! | `readme` | every command of README.md, on a fresh server |
//! | `tier` | blocks in an S3-compatible service outlive the local disk; two servers; failures of the service |
//! | `tidy` | rules of the tree that the compiler does not check |

mod command;
mod load;
mod matrix;
mod pty;
mod remote_write;
mod scripts;
mod server;

mod admission;
mod api;
mod cardinality;
mod cli;
mod config;
mod connections;
mod cors;
mod disk_full;
mod explain;
mod export;
mod faults;
mod hostile;
mod http_errors;
mod maintenance;
mod otlp;
mod query_of_death;
mod readme;
mod reuse;
mod same_numbers;
mod sql;
mod sql_cancel;
mod sql_postgres;
mod survival;
mod tidy;
mod tier;
mod write;

use quiver_support::{http, s3_server, s3_service};
