//! Where data is: with a server, or in the folder of one that does not run.

use std::path::PathBuf;

use clap::Args;

/// The environment variable that names the server.
const URL_VARIABLE: &str = "QUIVER_URL";
/// The server that is asked if none is named.
const URL_DEFAULT: &str = "http://127.0.0.1:9095";

/// Flags of commands that take either.
#[derive(Args, Debug)]
pub struct DataArgs {
    /// Server that has the data [env: QUIVER_URL] [default: http://127.0.0.1:9095]
    #[arg(long)]
    url: Option<String>,
    /// Data folder of a server that does not run, or a copy of one
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    data_dir: Option<PathBuf>,
}

/// Flags of commands that ask a server, or read a folder here.
#[derive(Args, Debug)]
pub struct AskArgs {
    /// Server to ask [env: QUIVER_URL] [default: http://127.0.0.1:9095]
    #[arg(long)]
    url: Option<String>,
    /// Read a folder (an export or a copy of a data folder) instead of asking a server
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    pub offline: Option<PathBuf>,
}

impl AskArgs {
    /// The server's URL.
    pub fn url(&self) -> String {
        let environment = || std::env::var(URL_VARIABLE).ok().filter(|url| !url.is_empty());
        self.url.clone().or_else(environment).unwrap_or_else(|| URL_DEFAULT.to_owned())
    }
}

/// One of the two.
#[derive(Debug, PartialEq)]
pub enum Data {
    /// URL of a server.
    Server(String),
    /// A data folder.
    Folder(PathBuf),
}

impl DataArgs {
    /// The source that the flags name; without flags, the one of the environment; else the server at the default address.
    pub fn find(self) -> Data {
        self.find_with(std::env::var(URL_VARIABLE).ok())
    }

    // The environment is asked here and not by the flag: set once for all commands, it would contradict every --data-dir.
    fn find_with(self, environment: Option<String>) -> Data {
        match (self.data_dir, self.url.or(environment.filter(|url| !url.is_empty()))) {
            (Some(folder), _) => Data::Folder(folder),
            (None, Some(url)) => Data::Server(url),
            (None, None) => Data::Server(URL_DEFAULT.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_goes_before_the_environment() {
        let found = |url: Option<&str>, folder: Option<&str>, environment: Option<&str>| {
            let args = DataArgs { url: url.map(Into::into), data_dir: folder.map(Into::into) };
            args.find_with(environment.map(Into::into))
        };
        let server = |url: &str| Data::Server(url.to_owned());
        assert_eq!(found(Some("a"), None, Some("b")), server("a"));
        assert_eq!(found(None, None, Some("b")), server("b"));
        assert_eq!(found(None, Some("data"), Some("b")), Data::Folder("data".into()));
        for none in [None, Some("")] {
            assert_eq!(found(None, None, none), server(URL_DEFAULT));
        }
    }
}
