//! `quiver config check`: tries a configuration file without starting a server. `quiver serve --list-limits`: all limits.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use quiver_model::Limits;

use super::exit::{Failure, warning};
use super::grouped;
use crate::config::{Config, ServeArgs};

/// Flags of `quiver config`.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Say whether `quiver serve --config FILE` would take the file; exits with 2 if not
    Check {
        /// Configuration file
        file: PathBuf,
    },
}

/// Runs the command.
pub fn run(args: &ConfigArgs) -> ExitCode {
    let ConfigCommand::Check { file } = &args.command;
    match Config::check(file) {
        Ok(config) => {
            config.warnings(quiver_persistence::memory_bytes()).iter().for_each(|w| warning(w));
            super::print(&format!("{} is valid\n", file.display()));
            ExitCode::SUCCESS
        }
        Err(e) => Failure::Usage(e.to_string()).report(),
    }
}

/// Prints all limits, as they would be in force with these flags.
pub fn list_limits(args: &ServeArgs) -> ExitCode {
    match Config::load(args) {
        Ok(config) => {
            super::print(&limits_text(&config.limits));
            ExitCode::SUCCESS
        }
        Err(e) => Failure::Usage(e.to_string()).report(),
    }
}

fn limits_text(limits: &Limits) -> String {
    let values = limits.list();
    let described = Limits::descriptions();
    let mut text = String::from(
        "Set a limit with --limit NAME=VALUE, or in the configuration file. * takes effect at the next start only.\n\n",
    );
    let width = values.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    for (name, value) in values {
        let mark = if Limits::FIXED.contains(&name) { "*" } else { "" };
        let about = described.iter().find(|(n, _)| *n == name).map_or("", |(_, about)| about);
        text.push_str(&format!("{:width$} {:>15}  {about}\n", format!("{name}{mark}"), grouped(value)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_its_line() {
        let text = limits_text(&Limits::default());
        assert!(Limits::default().list().iter().all(|(name, _)| text.contains(name)), "{text}");
        assert!(text.contains("write_queue_max*") && text.contains("1,024  Writes waiting"), "{text}");
    }
}
