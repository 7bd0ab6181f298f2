//! The built binary as a command: run to its end.

use std::process::{Command, Output};

use crate::server::QUIVER;

/// Runs it, without colours.
pub fn run(arguments: &[&str]) -> Output {
    run_with(arguments, &[])
}

/// Runs it with more environment variables.
pub fn run_with(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(QUIVER);
    command.args(arguments).env_remove("QUIVER_URL").env("NO_COLOR", "1").envs(environment.iter().copied());
    command.output().expect("the binary runs")
}

/// Runs it: exit code, standard output, standard error.
pub fn quiver(arguments: &[&str]) -> (Option<i32>, String, String) {
    let out = run(arguments);
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

/// Runs it; it must succeed. Its standard output.
pub fn succeeds(arguments: &[&str]) -> String {
    let (code, out, err) = quiver(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {out}{err}");
    out
}
