//! The name that was probably meant: for "did you mean …?" in errors.

/// Characters of a word that are compared; longer ones are no typing mistakes.
const CHARS_MAX: usize = 128;

/// The candidate that is nearest to `word`, if one is near enough to be meant: it differs in a third of its characters at most
/// (in two at least), or begins with the word. Letter case and the kind of separator (`-`, `_`, `.`) do not count. Of several that are
/// equally near, the first.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = folded(word);
    if wanted.is_empty() || wanted.len() > CHARS_MAX {
        return None;
    }
    let judged = candidates.into_iter().filter_map(|candidate| {
        let have = folded(candidate);
        if have.len() > CHARS_MAX {
            return None;
        }
        let apart = distance(&wanted, &have);
        let most = (wanted.len().max(have.len()) / 3).max(2).min(wanted.len().max(have.len()).saturating_sub(1));
        let begins = wanted.len() >= 4 && have.starts_with(&wanted);
        (apart <= most || begins).then_some((apart.min(most + usize::from(!begins)), candidate))
    });
    // `min_by_key` gives the first of equals.
    judged.min_by_key(|(apart, _)| *apart).map(|(_, candidate)| candidate)
}

/// `; did you mean "…"?` where a candidate is near enough, else nothing: to be put behind an error.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

fn folded(word: &str) -> Vec<char> {
    let fold = |c: char| if matches!(c, '-' | '.' | ' ') { '_' } else { c };
    word.chars().take(CHARS_MAX + 1).flat_map(char::to_lowercase).map(fold).collect()
}

/// Characters to insert, delete, replace or swap with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (k, y) in b.iter().enumerate() {
            let mut least = (last[k] + usize::from(x != y)).min(last[k + 1] + 1).min(row[k] + 1);
            if i > 0 && k > 0 && *x == b[k - 1] && a[i - 1] == *y {
                least = least.min(before[k - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_probably_meant() {
        let names = ["retention", "retention-size", "http-listen", "grpc-listen", "log", "query_timeout_ms", "up"];
        for (word, meant) in [
            ("retentoin", Some("retention")),
            ("Retention_Size", Some("retention-size")),
            ("http_listen", Some("http-listen")),
            ("htp-listen", Some("http-listen")),
            ("query_timeout", Some("query_timeout_ms")),
            ("query.timeout.ms", Some("query_timeout_ms")),
            ("lgo", Some("log")),
            ("pu", Some("up")),
            ("reten", Some("retention")),
            ("patience", None),
            ("xy", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, names), meant, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(1 << 20), names), None);
        assert_eq!(nearest("größe", ["grösse", "GRÖßE"]), Some("GRÖßE"));
        assert_eq!(did_you_mean("retentoin", names), "; did you mean \"retention\"?");
        assert_eq!(did_you_mean("patience", names), "");
    }
}
