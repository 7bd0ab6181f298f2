//! Where data is: with a server, or in the folder of one that does not run.

use std::path::PathBuf;

use clap::Args;

/// The environment variable that names the server.
const URL_VARIABLE: &str = "QUIVER_URL";

/// Flags of commands that take either.
#[derive(Args, Debug)]
pub struct DataArgs {
    /// Server that has the data [env: QUIVER_URL]
    #[arg(long)]
    url: Option<String>,
    /// Data folder of a server that does not run, or a copy of one
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    data_dir: Option<PathBuf>,
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
    /// What the flags say; without them, what the environment does.
    pub fn find(self) -> Result<Data, String> {
        self.find_with(std::env::var(URL_VARIABLE).ok())
    }

    // The environment is asked here and not by the flag: set once for all commands, it would contradict every --data-dir.
    fn find_with(self, environment: Option<String>) -> Result<Data, String> {
        match (self.data_dir, self.url.or(environment.filter(|url| !url.is_empty()))) {
            (Some(folder), _) => Ok(Data::Folder(folder)),
            (None, Some(url)) => Ok(Data::Server(url)),
            (None, None) => Err(format!("say where the data is: --url URL (or {URL_VARIABLE}), or --data-dir DIR")),
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
        let server = |url: &str| Ok(Data::Server(url.to_owned()));
        assert_eq!(found(Some("a"), None, Some("b")), server("a"));
        assert_eq!(found(None, None, Some("b")), server("b"));
        assert_eq!(found(None, Some("data"), Some("b")), Ok(Data::Folder("data".into())));
        for none in [None, Some("")] {
            assert!(found(None, None, none).unwrap_err().contains("--data-dir"));
        }
    }
}
