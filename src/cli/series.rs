//! Names of series in answers of the HTTP API.

use quiver_model::labels::{is_legacy_name, quoted};
use serde_json::{Map, Value};

const NAME: &str = "__name__";

fn labels(metric: &Value) -> impl Iterator<Item = (&str, &str)> {
    metric.as_object().into_iter().flatten().map(|(n, v)| (n.as_str(), v.as_str().unwrap_or("")))
}

fn pairs<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let name = |n: &str| if is_legacy_name(n, false) { n.to_owned() } else { quoted(n) };
    labels.map(|(n, v)| format!("{}={}", name(n), quoted(v))).collect::<Vec<_>>().join(", ")
}

/// A label set as a selector that can be asked again.
pub fn name(metric: &Value) -> String {
    let name = metric.get(NAME).and_then(Value::as_str).unwrap_or("");
    let rest = pairs(labels(metric).filter(|(n, _)| *n != NAME));
    if !name.is_empty() && !is_legacy_name(name, true) {
        let parts: Vec<String> = [quoted(name), rest].into_iter().filter(|part| !part.is_empty()).collect();
        return format!("{{{}}}", parts.join(", "));
    }
    if rest.is_empty() && !name.is_empty() { name.to_owned() } else { format!("{name}{{{rest}}}") }
}

/// What some series have in common, so that each is named by what differs.
pub struct Named {
    common: Map<String, Value>,
    one: bool,
}

impl Named {
    /// Of all series of an answer.
    pub fn of<'a>(metrics: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut metrics = metrics.into_iter();
        let mut common = metrics.next().and_then(Value::as_object).cloned().unwrap_or_default();
        let mut one = true;
        for metric in metrics {
            one = false;
            common.retain(|n, v| metric.get(n.as_str()) == Some(&*v));
        }
        Self { common, one }
    }

    /// Labels that all series share, as a selector. Empty if they share none, or if there is only one series.
    pub fn common(&self) -> String {
        if self.one { String::new() } else { self.hoisted() }
    }

    /// The same; of a single series all its labels.
    pub fn hoisted(&self) -> String {
        let common = self.common.iter().map(|(n, v)| (n.as_str(), v.as_str().unwrap_or("")));
        let rest = pairs(common.filter(|(n, _)| *n != NAME));
        if rest.is_empty() { String::new() } else { format!("{{{rest}}}") }
    }

    /// A series as a selector, without the labels that all have; the metric's name stays.
    pub fn short(&self, metric: &Value) -> String {
        let mut own = metric.as_object().cloned().unwrap_or_default();
        own.retain(|n, _| n == NAME || !self.common.contains_key(n));
        name(&Value::Object(own))
    }

    /// The labels of a series that not all have; of a single series all.
    pub fn differing(&self, metric: &Value) -> String {
        if self.one {
            return name(metric);
        }
        let own = pairs(labels(metric).filter(|(n, _)| !self.common.contains_key(*n)));
        if own.is_empty() { name(metric) } else { own }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_named_by_what_differs() {
        let all: Value = serde_json::from_str(
            r#"[{"__name__":"up","a":"1","b":"x"},{"__name__":"up","a":"2","b":"x"},{"__name__":"up","b":"x"}]"#,
        )
        .unwrap();
        let list = all.as_array().unwrap();
        let named = Named::of(list);
        assert_eq!(named.common(), r#"{b="x"}"#);
        let names: Vec<String> = list.iter().map(|m| named.differing(m)).collect();
        assert_eq!(names, [r#"a="1""#, r#"a="2""#, r#"up{b="x"}"#]);
        assert_eq!(named.short(&list[0]), r#"up{a="1"}"#);
        let one = Named::of(&list[..1]);
        assert_eq!((one.hoisted().as_str(), one.short(&list[0]).as_str()), (r#"{a="1", b="x"}"#, "up"));
        assert_eq!((one.common(), one.differing(&list[0])), (String::new(), r#"up{a="1", b="x"}"#.to_owned()));
        let odd = serde_json::json!({"__name__": "temp-bad name", "room": "x", "a-b": "\""});
        assert_eq!(name(&odd), r#"{"temp-bad name", "a-b"="\"", room="x"}"#);
        assert_eq!(name(&serde_json::json!({"__name__": "a b"})), r#"{"a b"}"#);
        assert_eq!(name(&serde_json::json!({"__name__": "a:b"})), "a:b");
        assert_eq!(name(&serde_json::json!({})), "{}");
        assert_eq!(name(&serde_json::json!({"__name__": "up"})), "up");
    }
}
