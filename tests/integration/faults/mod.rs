//! The fault matrix on the real binary and in processes that die: each test prints its row of the table that `.ci/faults` makes.
//!
//! | test | fault | where |
//! | --- | --- | --- |
//! | 1 | kill -9 under load | `survival` |
//! | 2 | the process ends at every file call; at every n-th system call of a thread, by `strace` | `kill_points` |
//! | 3 | power loss at every operation | unit tests of `persistence` and `core`, on a memory disk |
//! | 4, 5, 6 | log cut, flipped, overwritten | unit tests of `persistence` |
//! | 7 | block flipped | unit tests of `storage` |
//! | 8, 9 | block in part, manifest torn | unit tests of `core` and `persistence` |
//! | 10 | full disk: log, flush, merge, export, spill, start | `disk_full` |
//! | 11 | a sync fails once | `sync`, and unit tests of `persistence` |
//! | 12 | slow disk | `slow` |
//! | 13 | no descriptors, no address space; reads that fail; mapped pages that get lost | `descriptors`, `address_space`, `lost_pages`, unit tests of `core` |
//! | 14 | killed in the start, again and again | `starts`, and unit tests of `core` |
//! | 15 | batches sent again | unit tests of `core` |
//! | 16 | clocks that jump, of a running server and at its start | `clock`, and unit tests of `core` |
//! | 17 | configuration reloaded, wrong and right | `reload` |
//! | 18 | SIGTERM under load, in a flush, twice | `stop` |
//! | 26 | folders of earlier formats, and of later ones | `formats` |
//! | 27 | group commit, hand-over, single flight: all orders | unit tests of `persistence` and `core` |
//! | 28 | all of it mixed, against a ledger and naive PromQL | `mixed` |
//!
//! Sizes are those of every push; `FAULTS=nightly` makes them those of a release.

mod address_space;
mod clock;
mod descriptors;
mod formats;
mod kill_points;
mod lost_pages;
mod mixed;
mod reload;
mod restart;
mod slow;
mod starts;
mod stop;
mod sync;
