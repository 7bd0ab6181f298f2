//! What Go says of the same expressions.
//!
//! The first line of the table is a list of values; each other line an object: `p` the expression, and either `e` what
//! Prometheus 3.16 (Go 1.26) says against it or `m` which of the values it matches. `REGEX_TABLE` names a further one.

use super::*;
use crate::matcher::{MatchOp, Matcher, replace_expression};

fn differing(table: &str) -> (usize, Vec<String>) {
    let mut lines = table.lines();
    let values: Vec<String> = serde_json::from_str(lines.next().unwrap()).unwrap();
    let (mut count, mut wrong) = (0, Vec::new());
    for line in lines {
        count += 1;
        let want: serde_json::Value = serde_json::from_str(line).unwrap();
        let pattern = want["p"].as_str().unwrap();
        match Matcher::new(MatchOp::Regex, "a", pattern, 10 << 20) {
            Err(e) => {
                if want["e"] != e.to_string() {
                    wrong.push(format!("{line}\n   got {e}"));
                }
            }
            Ok(m) => {
                let got: String = values.iter().map(|v| if m.matches(v) { '1' } else { '0' }).collect();
                if want["m"] != got {
                    let of = |bits: &str| -> Vec<&String> {
                        values.iter().zip(bits.chars()).filter(|(_, b)| *b == '1').map(|(v, _)| v).collect()
                    };
                    let expected = want["m"].as_str().map(of);
                    wrong.push(format!("{pattern:?} {}\n   want {expected:?}\n   got  {:?}", want["e"], of(&got)));
                }
                let whole: String = values.iter().map(|v| if automaton_matches(&m, v) { '1' } else { '0' }).collect();
                if m.automaton().is_some() && whole != got {
                    wrong.push(format!("{pattern:?}: the automaton disagrees"));
                }
            }
        }
    }
    (count, wrong)
}

fn automaton_matches(m: &Matcher, value: &str) -> bool {
    use regex_automata::dfa::Automaton;
    let Some(dfa) = m.automaton() else { return false };
    let start = regex_automata::util::start::Config::new().anchored(regex_automata::Anchored::Yes);
    let state = value.bytes().fold(dfa.start_state(&start).unwrap(), |s, b| dfa.next_state(s, b));
    dfa.is_match_state(dfa.next_eoi_state(state))
}

#[test]
fn expressions_mean_what_they_mean_in_go() {
    let (count, wrong) = differing(include_str!("testdata/go.jsonl"));
    assert!(count > 1000);
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    if let Ok(path) = std::env::var("REGEX_TABLE") {
        let (count, wrong) = differing(&std::fs::read_to_string(path).unwrap());
        assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong[..wrong.len().min(60)].join("\n"));
    }
}

#[test]
fn bytes_that_are_no_text() {
    let options = Options { dot_matches_newline: true, captures: false, bytes_max: 1 << 20 };
    let e = parse_bytes(b"a\xff.*", options).unwrap_err().to_string();
    assert_eq!(e, "error parsing regexp: invalid UTF-8: `\u{fffd}.*`");
    assert!(parse_bytes("é.*".as_bytes(), options).is_ok());
}

#[test]
fn groups_of_templates() {
    let (regex, names) = replace_expression("(?P<n>a)|(?<n>b)(c)", 1 << 20).unwrap();
    assert_eq!(names, [("n".to_owned(), 1), ("n".to_owned(), 2)]);
    let mut caps = regex.create_captures();
    regex.captures("bc", &mut caps);
    assert_eq!(caps.get_group(3).map(|s| s.range()), Some(1..2));
    assert!(caps.get_group(1).is_none() && caps.get_group(4).is_none());
    // The text is put between anchors as it is.
    let (regex, _) = replace_expression("a)|(?:b", 1 << 20).unwrap();
    assert!(regex.is_match("ax") && regex.is_match("xb") && !regex.is_match("xa"));
    let newline = |p: &str| replace_expression(p, 1 << 20).unwrap().0.is_match("\n");
    assert!(newline(".") && !newline("(?-s).") && !newline("a"));
    let m = |p: &str, v: &str| Matcher::new(MatchOp::Regex, "a", p, 1 << 20).unwrap().matches(v);
    assert!(m(".", "\n") && !m("(?-s).", "\n"));
}

#[test]
fn hostile_expressions_are_refused_in_little_time_and_stack() {
    let n = 300_000;
    let texts = [
        "(".repeat(n),
        format!("{}a{}", "(".repeat(n / 2), ")".repeat(n / 2)),
        "(?i:".repeat(n / 4),
        "[[:".repeat(n / 3),
        format!("[{}]", "\\pL".repeat(n / 3)),
        "\\pL".repeat(n / 3),
        "(?i)[^a]".repeat(n / 8),
        format!("(?i){}", "[\\x{42}-\\x{1e942}]".repeat(n / 20)),
        format!("(?i){}", "a".repeat(n)),
        "a*".repeat(n / 2),
        "a|".repeat(n / 2) + "b*",
        "\\Q\\E".repeat(n / 4) + "*",
        "(a{1000}){1000}".to_owned(),
        "(((a{100}){10}b){100}){10}".to_owned(),
        format!("a{}", "{1}\\Q\\E".repeat(n / 7)),
        "\\p{".to_owned() + &"a".repeat(n),
        "(?P<".to_owned() + &"a".repeat(n),
        ".{1000}".repeat(n / 7),
        "\\pL{1000}".repeat(n / 9),
        "(a?b?c?d?){1000}".repeat(50),
        "a|b.*".repeat(n / 2),
        ".*a".repeat(n),
        (0..60_000).map(|i| format!("x{i}.*y|")).collect(),
    ];
    let run = move || {
        for t in &texts {
            let begin = std::time::Instant::now();
            let e = Matcher::new(MatchOp::Regex, "a", t, 10 << 20).err();
            let took = begin.elapsed();
            let shown: String = t.chars().take(20).collect();
            let e = e.unwrap_or_else(|| panic!("{shown} was taken")).to_string();
            assert!(e.len() < 5000, "{shown}: a message of {} bytes", e.len());
            if std::env::var("REGEX_TIMES").is_ok() {
                println!("{shown}: {took:?} {}", e.chars().take(80).collect::<String>());
            }
            assert!(took.as_secs() < 10, "{shown}: {took:?}");
        }
        let deep = format!("{}a{}", "(".repeat(240), ")".repeat(240));
        assert!(Matcher::new(MatchOp::Regex, "a", &format!("{deep}.*"), 10 << 20).unwrap().matches("a"));
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn once_nobody_wants_to_know_nothing_is_run() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let wanted = std::sync::Arc::new(AtomicBool::new(true));
    let asked = std::sync::Arc::clone(&wanted);
    let m = Matcher::new(MatchOp::NotRegex, "a", "x.*", 1 << 20).unwrap();
    let m = m.while_wanted(move || asked.load(Ordering::Relaxed));
    assert!((0..100).all(|_| m.matches("y")));
    wanted.store(false, Ordering::Relaxed);
    assert!((0..100).filter(|_| m.matches("y")).count() < 20);
    assert!(m.runs_expression() && !Matcher::new(MatchOp::Regex, "a", "x|y", 1 << 20).unwrap().runs_expression());
}
