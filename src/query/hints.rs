//! Hints: what a caller may say about how one query is run. They never change an answer, only what it costs.
//!
//! | hint | what it does |
//! | --- | --- |
//! | `parallelism=N` | large scans use `N` threads (at most as many as the server was given), small ones too |
//! | `index=auto` | matchers are looked up or tested on labels, whatever costs less; the default |
//! | `index=force` | every matcher is looked up |
//! | `index=off` | the labels of every series are tested |
//! | `no-share` | parts that occur more than once are evaluated as often |
//! | `no-narrow` | series of a binary operation that have no partner are read all the same |
//! | `no-subset` | a selector that picks some of the series of another is read for itself |
//! | `no-together` | aggregations of one input take its rows one after the other |
//! | `no-propagate` | what one side of a binary operation selects does not go into the selector of the other |
//! | `no-in-place-names` | dropping metric names moves rows through an operator of its own, even where none has to move |
//!
//! Over HTTP they are values of the parameter `hint`, which may be repeated.

use quiver_core::report::IndexUse;

/// A rule of the optimizer, which a hint can switch off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Parts that occur more than once are evaluated once.
    Share,
    /// Names are dropped in the roster where no series moves by it.
    InPlaceNames,
    /// Series that nobody can have use for, since they have no partner in a binary operation, are not read.
    Narrow,
    /// What one side of a binary operation selects becomes a matcher of the other.
    Propagate,
    /// A selector that picks some of the series of another, under the same function, shares their rows.
    Subset,
    /// Aggregations of one input are made while it is read once.
    Together,
}

impl Rule {
    /// All rules.
    pub const ALL: [Rule; 6] =
        [Rule::Share, Rule::InPlaceNames, Rule::Narrow, Rule::Propagate, Rule::Subset, Rule::Together];

    /// The rule's name; the hint that switches it off has `no-` before it.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Share => "share",
            Rule::InPlaceNames => "in-place-names",
            Rule::Narrow => "narrow",
            Rule::Propagate => "propagate",
            Rule::Subset => "subset",
            Rule::Together => "together",
        }
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Hints of one query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Threads of scans.
    pub parallelism: Option<usize>,
    /// Use of indexes.
    pub index: IndexUse,
    /// Bits of rules that are off.
    off: u32,
}

/// Threads that can be asked for.
const PARALLELISM_MAX: usize = 1024;

impl Hints {
    /// Reads hints; the text of an error names the hint and those that are known.
    pub fn parse<'a>(list: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut out = Self::default();
        for hint in list {
            out.add(hint.trim())?;
        }
        Ok(out)
    }

    fn add(&mut self, hint: &str) -> Result<(), String> {
        let unknown = || format!("unknown hint {hint:?}; known hints: {}", Self::known());
        if let Some(rule) = hint.strip_prefix("no-") {
            let rule = Rule::ALL.into_iter().find(|r| r.name() == rule).ok_or_else(unknown)?;
            self.off |= rule.bit();
            return Ok(());
        }
        match hint.split_once('=') {
            Some(("parallelism", n)) => match n.parse() {
                Ok(n) if (1..=PARALLELISM_MAX).contains(&n) => self.parallelism = Some(n),
                _ => return Err(format!("hint {hint:?}: parallelism is a number from 1 to {PARALLELISM_MAX}")),
            },
            Some(("index", "auto")) => self.index = IndexUse::Auto,
            Some(("index", "off")) => self.index = IndexUse::Off,
            Some(("index", "force")) => self.index = IndexUse::Force,
            _ => return Err(unknown()),
        }
        Ok(())
    }

    /// All hints there are.
    pub fn known() -> String {
        let rules: Vec<String> = Rule::ALL.iter().map(|r| format!("no-{}", r.name())).collect();
        format!("parallelism=N, index=auto, index=off, index=force, {}", rules.join(", "))
    }

    /// Is a rule on?
    pub fn allows(&self, rule: Rule) -> bool {
        self.off & rule.bit() == 0
    }

    /// The hints as they are written, those that say nothing left out.
    pub fn texts(&self) -> Vec<String> {
        let index = match self.index {
            IndexUse::Auto => None,
            IndexUse::Off => Some("index=off".to_owned()),
            IndexUse::Force => Some("index=force".to_owned()),
        };
        let off = Rule::ALL.into_iter().filter(|r| !self.allows(*r)).map(|r| format!("no-{}", r.name()));
        self.parallelism.map(|n| format!("parallelism={n}")).into_iter().chain(index).chain(off).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_read_and_written() {
        let off: Vec<String> = Rule::ALL.iter().map(|r| format!("no-{}", r.name())).collect();
        let all: Vec<&str> = ["parallelism=3", "index=off"].into_iter().chain(off.iter().map(String::as_str)).collect();
        let h = Hints::parse(all.iter().copied()).unwrap();
        assert_eq!((h.parallelism, h.index), (Some(3), IndexUse::Off));
        assert!(Rule::ALL.iter().all(|r| !h.allows(*r)));
        assert_eq!(h.texts(), all);
        assert_eq!(Hints::parse(["index=off", "index=auto"]).unwrap(), Hints::default(), "the last one counts");
        for text in Hints::known().split(", ").map(|h| h.replace("=N", "=2")) {
            Hints::parse([text.as_str()]).unwrap();
        }
    }

    #[test]
    fn what_is_not_known_is_said_with_what_is() {
        for hint in ["", "fast", "no-", "no-hope", "index=maybe", "parallelism", "share"] {
            let e = Hints::parse([hint]).unwrap_err();
            assert!(e.contains(&format!("{hint:?}")) && e.contains("no-share") && e.contains("parallelism=N"), "{e}");
        }
        for hint in ["parallelism=0", "parallelism=-1", "parallelism=many", "parallelism=1025"] {
            assert!(Hints::parse([hint]).unwrap_err().contains("from 1 to 1024"));
        }
    }
}
