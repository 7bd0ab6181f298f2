//! Finds out which commit is built, for `quiver --version` and `/api/v1/status/buildinfo`; tells the linker to save space.
//!
//! From git where this folder is the root of a checkout, else from the environment (`QUIVER_COMMIT` and `QUIVER_COMMIT_DATE`, for builds
//! from an archive or in a container), else "unknown". Only this package is built again when the commit changes, no other crate.

use std::path::Path;
use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let done = Command::new("git").args(arguments).output().ok().filter(|o| o.status.success())?;
    String::from_utf8(done.stdout).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Commit and date of the checkout; `None` where this is none, or lies in that of another project.
fn checkout() -> Option<(String, String)> {
    let here = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    let root = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&root).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    // What a commit, a checkout or a packing of references changes.
    let branch = git(&["symbolic-ref", "-q", "HEAD"]);
    for name in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    Some((git(&["rev-parse", "HEAD"])?, git(&["show", "-s", "--format=%cs", "HEAD"])?))
}

fn is(name: &str, value: &str) -> bool {
    std::env::var(name).is_ok_and(|v| v == value)
}

/// Is it the linker that rustup's toolchains bring and use unless told otherwise?
fn links_with_lld() -> bool {
    let target = "x86_64-unknown-linux-gnu";
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    if !is("TARGET", target) || std::env::var_os("RUSTC_LINKER").is_some() || flags.contains("link") {
        return false;
    }
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let told = Command::new(rustc).args(["--print", "sysroot"]).output().ok();
    let root = told.and_then(|o| String::from_utf8(o.stdout).ok()).unwrap_or_default();
    Path::new(root.trim()).join("lib/rustlib").join(target).join("bin/gcc-ld/ld.lld").exists()
}

/// Line tables are a quarter of their size compressed; with zlib, since the standard library's backtraces read that and no zstd.
/// Functions of equal code (generics, mostly) share it where the linker can do that.
fn shrink() {
    if !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_OS", "linux") {
        return;
    }
    println!("cargo:rustc-link-arg-bins=-Wl,--compress-debug-sections=zlib,-O2");
    if links_with_lld() {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    shrink();
    let variable = |name: &str| {
        println!("cargo:rerun-if-env-changed={name}");
        std::env::var(name).ok().filter(|text| !text.is_empty() && !text.contains(['\n', '\r']))
    };
    let (given, given_date) = (variable("QUIVER_COMMIT"), variable("QUIVER_COMMIT_DATE"));
    let (found, found_date) = checkout().unzip();
    let unknown = || "unknown".to_owned();
    let commit = given.or(found).unwrap_or_else(unknown);
    let date = given_date.or(found_date).unwrap_or_else(unknown);
    let short: String = commit.chars().take(9).collect();
    let dated = if date == "unknown" { short } else { format!("{short}, {date}") };
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    println!("cargo:rustc-env=QUIVER_VERSION={version} (commit {dated})");
    println!("cargo:rustc-env=QUIVER_BUILD_COMMIT={commit}");
    println!("cargo:rustc-env=QUIVER_BUILD_DATE={date}");
}
