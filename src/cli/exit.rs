//! How a command ends: exit codes, and the line on standard error that says why.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done; an empty answer to a query is an answer |
//! | 1 | failed: no server, a refused request, a damaged or unreadable file |
//! | 2 | wrong command line: an unknown flag, or a value that cannot be read |
//! | 3 | done, but not with all data: an export that matched no sample, a repair that lost some |

use std::process::ExitCode;

use super::terminal;

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
            Failure::Usage(why) | Failure::Failed(why) => error(why),
            Failure::Incomplete(why) => warning(why),
        }
        ExitCode::from(self.code())
    }
}

/// Prints an error as the argument parser prints its own.
pub fn error(why: &str) {
    labelled("error", "1;31", why);
}

/// Prints a warning.
pub fn warning(why: &str) {
    labelled("warning", "1;33", why);
}

/// Prints something that is good to know.
pub fn note(what: &str) {
    labelled("note", "1;36", what);
}

fn labelled(label: &str, colour: &str, text: &str) {
    use std::io::Write;
    let mut err = std::io::stderr().lock();
    let text = terminal::printable_lines(text);
    // Nothing is left to tell of a standard error that is closed.
    let _ = if terminal::has_colour(&std::io::stderr()) {
        writeln!(err, "\x1b[{colour}m{label}:\x1b[0m {text}")
    } else {
        writeln!(err, "{label}: {text}")
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_code() {
        let all = [Failure::Failed("a".into()), Failure::Usage("b".into()), Failure::Incomplete("c".into())];
        assert_eq!(all.each_ref().map(Failure::code), [1, 2, 3]);
        assert_eq!(Failure::from("a".to_owned()), all[0]);
    }
}
