//! Texts of the engine in the words of who wrote the statement: names of types are SQL's, and what has no place in an answer (requests
//! to file a report, Rust's types, names of the engine's settings) is left out.

use quiver_model::nearest;

/// Types of the engine, and SQL's names for them.
const TYPES: [(&str, &str); 36] = [
    ("Utf8", "text"),
    ("LargeUtf8", "text"),
    ("Utf8View", "text"),
    ("String", "text"),
    ("Dictionary", "text"),
    ("Int8", "smallint"),
    ("Int16", "smallint"),
    ("Int32", "integer"),
    ("Int64", "bigint"),
    ("UInt8", "smallint"),
    ("UInt16", "integer"),
    ("UInt32", "bigint"),
    ("UInt64", "bigint"),
    ("Float16", "real"),
    ("Float32", "real"),
    ("Float64", "double precision"),
    ("Decimal32", "numeric"),
    ("Decimal64", "numeric"),
    ("Decimal128", "numeric"),
    ("Decimal256", "numeric"),
    ("Boolean", "boolean"),
    ("Date32", "date"),
    ("Date64", "date"),
    ("Time32", "time"),
    ("Time64", "time"),
    ("Timestamp", "timestamp"),
    ("Interval", "interval"),
    ("Duration", "interval"),
    ("Map", "map"),
    ("Struct", "struct"),
    ("List", "array"),
    ("LargeList", "array"),
    ("FixedSizeList", "array"),
    ("Binary", "bytes"),
    ("FixedSizeBinary", "bytes"),
    ("Null", "null"),
];

/// Kinds of arguments, as signatures name them.
const KINDS: [(&str, &str); 13] = [
    ("Decimal", "a number"),
    ("Numeric", "a number"),
    ("Integer", "a whole number"),
    ("Float", "a number"),
    ("Float64", "a number"),
    ("Float32", "a number"),
    ("Int64", "a whole number"),
    ("UInt64", "a whole number"),
    ("Int32", "a whole number"),
    ("Duration", "an interval"),
    ("Interval", "an interval"),
    ("String", "a text"),
    ("Timestamp", "a time"),
];

/// Functions of PromQL that are looked for in SQL.
const PROMQL: [&str; 10] = [
    "rate",
    "increase",
    "irate",
    "delta",
    "idelta",
    "deriv",
    "histogram_quantile",
    "avg_over_time",
    "max_over_time",
    "sum_over_time",
];

/// Functions that need `OVER`.
const WINDOW: [&str; 8] = ["rank", "dense_rank", "row_number", "lag", "lead", "ntile", "percent_rank", "cume_dist"];

/// What is left of a text of the engine.
pub enum Text {
    /// Words for the user.
    Said(String),
    /// The engine's own, with SQL's names of types.
    Same(String),
    /// A fault of the engine's inside: for the log.
    Unforeseen,
}

/// Says a text of the engine in the user's words.
pub fn say(text: &str) -> Text {
    let text = without_prefixes(text);
    if let Some(said) = call(text).or_else(|| operator(text)).or_else(|| known(text)) {
        return Text::Said(said);
    }
    if text.contains("panicked with message")
        || text.contains("Internal error")
        || text.contains("bug in DataFusion")
        || text.contains("bug report")
    {
        return Text::Unforeseen;
    }
    Text::Same(types(text).trim().to_owned())
}

fn without_prefixes(mut text: &str) -> &str {
    text = text.trim();
    for prefix in [
        "Error during planning: ",
        "Execution error: ",
        "This feature is not implemented: ",
        "Arrow error: ",
        "Parser error: ",
        "Cast error: ",
        "Compute error: ",
    ] {
        text = text.strip_prefix(prefix).unwrap_or(text);
    }
    text
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(found, _)| found)
}

/// A call of a function that does not take these arguments.
fn call(text: &str) -> Option<String> {
    let call = between(text, "No function matches the given name and argument types '", "'. You might")
        .or_else(|| between(text, "No function matches the given name and argument types '", "'\n"));
    let name = call.and_then(|c| c.split('(').next()).or_else(|| {
        let unmatched = text.contains("failed to match any signature") || text.contains("user-defined coercion failed");
        between(text, "Function '", "'").filter(|_| unmatched)
    })?;
    let mut said = match call {
        Some(call) => format!("there is no function {}", types(call)),
        None => format!("the function {name} does not take these arguments"),
    };
    // Each signature says what it misses.
    let mut kinds: Vec<&str> = Vec::new();
    let mut counts: Vec<&str> = Vec::new();
    for rest in text.split("' requires ").skip(1) {
        let kind = rest.split([',', ' ']).next().unwrap_or_default();
        if let Some((_, kind)) = KINDS.iter().find(|(k, _)| *k == kind)
            && !kinds.contains(kind)
        {
            kinds.push(kind);
        }
    }
    for rest in text.split("' expects ").skip(1) {
        if let Some((count, _)) = rest.split_once(" arguments but received")
            && count.chars().all(|c| c.is_ascii_digit())
            && !counts.contains(&count)
        {
            counts.push(count);
        }
    }
    if kinds.contains(&"a number") {
        kinds.retain(|k| *k != "a whole number");
    }
    match (kinds.as_slice(), counts.as_slice()) {
        ([], []) if text.contains("expects Numeric") => said.push_str(&format!("; {name} takes a number")),
        ([], []) => {}
        ([], ["1"]) => said.push_str(&format!("; {name} takes one argument")),
        ([], counts) => said.push_str(&format!("; {name} takes {} arguments", counts.join(" or "))),
        (kinds, _) => said.push_str(&format!("; {name} takes {}", kinds.join(" or "))),
    }
    Some(said)
}

/// An operator between types that it does not take.
fn operator(text: &str) -> Option<String> {
    let pair = between(text, "Cannot coerce arithmetic expression ", " to valid types")
        .or_else(|| {
            text.split_once("Cannot infer common argument type for comparison operation ").map(|(_, pair)| pair)
        })
        .or_else(|| text.split_once("Cannot infer common string type for string concat operation ").map(|(_, p)| p))?;
    let pair = types(pair.lines().next().unwrap_or(pair));
    let mut said = format!("there is no operator {pair}");
    let has_time = pair.contains("timestamp") || pair.contains("date");
    if has_time && pair.contains("text") {
        said.push_str("; a length of time is written INTERVAL '5 seconds'");
    } else if has_time {
        said.push_str("; a time is written '2026-06-02T03:50:00Z', a length of time INTERVAL '5 seconds'");
    } else if pair.contains("||") {
        said.push_str("; write ::text after what is not a text");
    } else if pair.contains("text") {
        said.push_str("; a text becomes a number by ::double precision");
    }
    Some(said)
}

/// Other texts that say more of the engine than of the statement.
fn known(text: &str) -> Option<String> {
    if text.contains("must appear in the GROUP BY clause or must be part of an aggregate function") {
        let column = between(text, "column \"", "\" must appear")?;
        let column = column.rsplit('.').next().unwrap_or(column);
        return Some(format!(
            "the column {column} has to be in GROUP BY, or inside of an aggregate such as max({column})"
        ));
    }
    if let Some(rest) = text.strip_prefix("HAVING clause references: ") {
        let what = rest.split(" must appear").next().unwrap_or(rest);
        return Some(format!(
            "HAVING refers to {}, which has to be in GROUP BY or inside of an aggregate; WHERE filters rows",
            types(what)
        ));
    }
    if let Some(rest) = text.strip_prefix("Invalid function '") {
        let (name, rest) = rest.split_once('\'')?;
        let near = between(rest, "Did you mean '", "'").unwrap_or_default();
        return Some(missing_function(name, near));
    }
    if let Some(name) = text.strip_prefix("table '").and_then(|rest| rest.split_once("' not found")) {
        return Some(format!("there is no table {}", name.0));
    }
    if let Some(name) = between(text, "table function '", "' not found") {
        let near = nearest(name, ["promql", "promql_instant", "generate_series", "unnest"]);
        let hint = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
        return Some(format!("there is no table function {name}{hint}"));
    }
    if let Some(rest) = text.strip_prefix("Unsupported SQL statement: ") {
        let word = rest.split_whitespace().next().unwrap_or(rest);
        return Some(format!("SQL is read-only: {word} is not supported"));
    }
    if let Some(rest) = text.strip_prefix("Dot access not supported for non-string expr: ") {
        let name = between(rest, "value: \"", "\"").unwrap_or_default();
        return Some(format!("there is nothing before .{name} that has fields: a column is written TABLE.{name}"));
    }
    if let Some(rest) = text.strip_prefix("Unsupported ast node") {
        // What follows is the tree of the parser.
        let word = rest.split_once(": ").map_or("this", |(_, w)| w).split(|c: char| !c.is_ascii_alphabetic()).next();
        return Some(format!("not supported: {}", word.unwrap_or("this").to_ascii_uppercase()));
    }
    if let Some(rest) = text.strip_prefix("compound identifier: ") {
        let name = rest.trim_matches(['[', ']']).replace("\", \"", ".").replace('"', "");
        return Some(format!("{name} is no name of a column"));
    }
    if text.contains("There is only support Literal types for field at idx") {
        return Some("lag, lead, ntile and nth_value take a constant as their second argument".into());
    }
    if text.contains("require unique expression names") {
        return Some("a SELECT list has the same columns twice by *: write * once, or name the columns".into());
    }
    if text.contains("does not satisfy order requirements") || text.starts_with("Plan: [") {
        return Some("the engine has no plan for this order of rows: write ORDER BY around a subquery".into());
    }
    if text.contains("datafusion.runtime.max_temp_directory_size") {
        return Some(
            "the statement sorts or joins more than fits into memory, and temporary files reached the limit sql_spill_bytes_max: \
             select fewer rows or columns, or aggregate first"
                .into(),
        );
    }
    let placeholder = between(text, "Placeholder '", "' was not provided")?;
    Some(format!("{placeholder} has no value: statements have no parameters"))
}

fn missing_function(name: &str, near: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let hint = match lower.as_str() {
        "time_bucket" | "time_bucket_gapfill" | "bucket" => "; use date_bin(INTERVAL '5 minutes', ts)".to_owned(),
        "generate_series" | "range" => {
            return format!("{lower} works only after FROM: SELECT value FROM {lower}(1, 3)");
        }
        "promql" | "promql_instant" => return format!("{lower} works only after FROM: SELECT * FROM {lower}(…)"),
        l if PROMQL.contains(&l) => {
            format!("; {lower} is PromQL: SELECT * FROM promql('{lower}(…)', start, end, step)")
        }
        l if WINDOW.contains(&l) => {
            return format!("{lower} is a window function: write {lower}(…) OVER (ORDER BY ts)");
        }
        _ => match nearest(&lower, [near]) {
            Some(near) if !near.is_empty() => format!("; did you mean {near}?"),
            _ => String::new(),
        },
    };
    format!("there is no function {name}{hint}")
}

/// The text with SQL's names of types. A constant such as `Int64(1)` becomes `1`.
pub fn types(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '\'' || c == '"') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        // What is quoted is the user's; `can't` is no quote.
        if rest.starts_with('\'') && out.ends_with(|c: char| c.is_ascii_alphabetic()) {
            out.push('\'');
            rest = &rest[1..];
            continue;
        }
        if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '\'' | '"')) {
            let end = rest[1..].find(quote).map_or(rest.len(), |e| e + 2);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        let is_part = out.ends_with(is_word);
        let Some((_, name)) = TYPES.iter().find(|(t, _)| *t == word && !is_part) else {
            out.push_str(word);
            continue;
        };
        let inside = balanced(rest);
        rest = &rest[inside.map_or(0, |i| i.len() + 2)..];
        let is_parametric = matches!(
            word,
            "Dictionary"
                | "Timestamp"
                | "Interval"
                | "Duration"
                | "Map"
                | "Struct"
                | "List"
                | "LargeList"
                | "FixedSizeList"
                | "FixedSizeBinary"
                | "Time32"
                | "Time64"
        ) || word.starts_with("Decimal");
        match inside {
            Some(constant) if !is_parametric => out.push_str(&constant.replace('"', "'")),
            Some(inside) if word == "Timestamp" && inside.contains(", \"") => out.push_str("timestamptz"),
            _ => out.push_str(name),
        }
    }
    out.push_str(rest);
    out
}

/// What is between the parentheses at the start of a text.
fn balanced(text: &str) -> Option<&str> {
    if !text.starts_with('(') {
        return None;
    }
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[1..at]);
        }
    }
    None
}

/// An error of the parser: the place first.
pub fn parse_error(text: &str) -> String {
    let text = text.trim();
    let text = text.strip_prefix("sql parser error: ").unwrap_or(text);
    let (text, place) = match text.rsplit_once(" at Line: ") {
        Some((text, place)) => {
            let place = place.split_once(", Column: ").map(|(l, c)| format!("line {l}, column {c}: "));
            (text, place.unwrap_or_default())
        }
        None => (text, String::new()),
    };
    let text = text.replace("Expected: an SQL statement", "expected a statement").replace("Expected: ", "expected ");
    let text = text.replace(", found: EOF", ", found the end of the statement").replace(", found: ", ", found ");
    let mut letters = text.chars();
    let text = match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect::<String>(),
        None => text.clone(),
    };
    format!("{place}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "This issue was likely caused by a bug in DataFusion's code. Please help us to resolve this by filing a bug report in \
                          our issue tracker: https://github.com/apache/datafusion/issues";

    fn said(text: &str) -> String {
        match say(text) {
            Text::Said(text) | Text::Same(text) => text,
            Text::Unforeseen => "unforeseen".into(),
        }
    }

    #[test]
    fn types_have_the_names_of_sql() {
        for (text, wanted) in [
            ("avg(Dictionary(Int32, Utf8), Timestamp(ms, \"UTC\"))", "avg(text, timestamptz)"),
            ("metrics.u.value > Int64(1)", "metrics.u.value > 1"),
            ("job = Utf8(\"a\") to value of Int64 type", "job = 'a' to value of bigint type"),
            ("Map(\"entries\": Struct(\"keys\": Utf8)) of 'Utf8'", "map of 'Utf8'"),
            ("no_Utf8 Utf8s", "no_Utf8 Utf8s"),
            ("Can't cast value NaN to type Int32", "Can't cast value NaN to type integer"),
        ] {
            assert_eq!(types(text), wanted);
        }
    }

    #[test]
    fn a_call_says_what_the_function_takes() {
        let text = format!(
            "Internal error: Function 'avg' failed to match any signature, errors: Error during planning: Function 'avg' requires Decimal, \
             but received String (DataType: Utf8).,Error during planning: Function 'avg' requires Duration, but received String..\n{REPORT}. \
             No function matches the given name and argument types 'avg(Dictionary(Int32, Utf8))'. You might need to add explicit type \
             casts.\n\tCandidate functions:\n\tavg(x)"
        );
        assert_eq!(said(&text), "there is no function avg(text); avg takes a number or an interval");
        assert_eq!(
            said(
                "Function 'upper' expects 1 arguments but received 2. No function matches the given name and argument types 'upper(Int64, Int64)'. You might"
            ),
            "there is no function upper(bigint, bigint); upper takes one argument"
        );
    }

    #[test]
    fn nothing_asks_the_user_to_report() {
        assert_eq!(said(&format!("Internal error: odd.\n{REPORT}")), "unforeseen");
        assert_eq!(
            said("Invalid function 'uper'.\nDid you mean 'upper'?"),
            "there is no function uper; did you mean upper?"
        );
        let tree = "Unsupported ast node in sqltorel: Collate { expr: Value(ValueWithSpan) }";
        assert_eq!(said(tree), "not supported: COLLATE");
        assert_eq!(said("Invalid function 'xyzzy'.\nDid you mean 'empty'?"), "there is no function xyzzy");
    }

    #[test]
    fn parse_errors_begin_with_the_place() {
        let text = "Expected: an SQL statement, found: sql at Line: 1, Column: 1";
        assert_eq!(parse_error(text), "line 1, column 1: expected a statement, found sql");
        assert_eq!(
            parse_error("Expected: identifier, found: EOF"),
            "expected identifier, found the end of the statement"
        );
        let text = "Unterminated string literal at Line: 1, Column: 8";
        assert_eq!(parse_error(text), "line 1, column 8: unterminated string literal");
    }
}
