//! How a command ends: exit codes, and the line on standard error that says why.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done; an empty answer to a query is an answer |
//! | 1 | failed: no server, a refused request, a damaged or unreadable file |
//! | 2 | wrong command line: an unknown flag, or a value that cannot be read |
//! | 3 | done, but not with all data: an export that matched no sample, a repair that lost some |

use std::process::ExitCode;

/// Why a command did not end with 0.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The command line is wrong.
    Usage(String),
    /// It did not work.
    Failed(String),
    /// It worked, and data is missing.
    Incomplete(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Failure::Failed(why)
    }
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Incomplete(_) => 3,
        }
    }

    /// Says why, and gives the exit code.
    pub fn report(&self) -> ExitCode {
        match self {
            Failure::Usage(why) | Failure::Failed(why) => eprintln!("error: {why}"),
            Failure::Incomplete(why) => warning(why),
        }
        ExitCode::from(self.code())
    }
}

/// Prints a warning.
pub fn warning(why: &str) {
    eprintln!("warning: {why}");
}
