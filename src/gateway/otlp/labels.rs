//! Labels of the series that data points become: from attributes, in one buffer that is used again for each point.
//!
//! ```text
//! text      job instance │ name value name value …      entries  (name, value), by name
//!           of the resource, kept   of the point, replaced
//! ```

use std::ops::Range;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use quiver_model::labels::{push_packed, quoted};
use quiver_model::{Limits, METRIC_NAME};

use super::names::push_label_name;
use super::text::push_value;
use crate::rejections::{Reason, cut};

/// Why labels are none, for the counters and for the client.
pub(super) type Wrong = (Reason, String);

/// Room for the suffix of a metric's name and the bound of a bucket, bytes.
const SUFFIX_BYTES: usize = 64;

#[derive(Clone, Debug)]
struct Entry {
    name: Range<u32>,
    value: Range<u32>,
}

/// Labels without a metric's name.
#[derive(Debug, Default)]
pub(super) struct LabelBuffer {
    text: String,
    entries: Vec<Entry>,
    order: Vec<u32>,
    /// Labels of the resource, which replace those of points.
    resource: Vec<Entry>,
    /// Where their text ends.
    resource_end: usize,
}

impl LabelBuffer {
    /// From now on all labels are those of a resource, with these labels of its own.
    pub(super) fn begin_resource(&mut self, labels: &[(&'static str, &str)]) {
        self.text.clear();
        self.entries.clear();
        self.resource.clear();
        for (name, value) in labels {
            let entry = Entry { name: push(&mut self.text, name), value: push(&mut self.text, value) };
            self.resource.push(entry);
        }
        self.resource_end = self.text.len();
    }

    /// Takes the labels of a point, or of `target_info`; `own` is how many its series have beside. An attribute without a possible
    /// name, one that is too long, and one too many are errors, unless `left_out` is there to be told of them.
    pub(super) fn load<'a>(
        &mut self,
        attributes: impl Fn(usize) -> Option<&'a KeyValue>,
        own: usize,
        limits: &Limits,
        mut left_out: Option<&mut dyn FnMut(&Wrong)>,
    ) -> Result<(), Wrong> {
        self.text.truncate(self.resource_end);
        self.entries.clear();
        self.order.clear();
        self.order.extend((0..).map_while(|i: u32| attributes(i as usize).map(|_| i)));
        let key = |i: &u32| attributes(*i as usize).map_or("", |kv| kv.key.as_str());
        if !self.order.is_sorted_by_key(key) {
            self.order.sort_by(|a, b| key(a).cmp(key(b)));
        }
        for i in 0..self.order.len() {
            let Some(kv) = attributes(self.order[i] as usize) else { continue };
            if kv.key == METRIC_NAME {
                continue;
            }
            let too_long = |what: &str| {
                (Reason::LabelLimit, format!("{what} {} is over the length limit", quoted(cut(&kv.key, 60))))
            };
            let at = self.text.len() as u32;
            // Each character is a byte of the name at most, each of at most four bytes.
            let mut wrong = if kv.key.len() > limits.label_name_bytes_max.saturating_mul(4) {
                Some(too_long("the name of attribute"))
            } else if !push_label_name(&kv.key, &mut self.text) {
                Some(no_name(&kv.key))
            } else {
                None
            };
            let name = at..self.text.len() as u32;
            // An attribute such as `__name..` becomes it.
            if wrong.is_none() && of(&self.text, &name) == METRIC_NAME {
                self.text.truncate(at as usize);
                continue;
            }
            if wrong.is_none() && name.len() > limits.label_name_bytes_max {
                wrong = Some(too_long("the name of attribute"));
            }
            if wrong.is_none() && push_value(kv.value.as_ref(), limits.label_value_bytes_max, &mut self.text).is_err() {
                wrong = Some(too_long("the value of attribute"));
            }
            if let Some(wrong) = wrong {
                let Some(tell) = &mut left_out else { return Err(wrong) };
                tell(&wrong);
                self.text.truncate(at as usize);
                continue;
            }
            let value = name.end..self.text.len() as u32;
            self.entries.push(Entry { name, value });
        }
        self.merge();
        for i in 0..self.resource.len() {
            self.replace(self.resource[i].clone());
        }
        if let Some(tell) = left_out {
            self.leave_out(own, limits, tell);
        }
        self.within(own, limits)
    }

    /// Takes away what is over the limits, but for the labels of the resource.
    fn leave_out(&mut self, own: usize, limits: &Limits, tell: &mut dyn FnMut(&Wrong)) {
        let mut over = (self.len() + own).saturating_sub(limits.labels_max);
        for i in (0..self.entries.len()).rev() {
            let Entry { name, value } = &self.entries[i];
            let name = of(&self.text, name);
            let is_long = value.len() > limits.label_value_bytes_max;
            let is_own = self.resource.iter().any(|r| of(&self.text, &r.name) == name);
            if is_own || value.is_empty() || !(is_long || over > 0) {
                continue;
            }
            let why =
                if is_long { "its value is over the length limit" } else { "there are more labels than labels_max" };
            tell(&(Reason::LabelLimit, format!("label {}: {why}", quoted(cut(name, 60)))));
            over = over.saturating_sub(1);
            self.entries.remove(i);
        }
    }

    /// Sorts by name. Attributes whose names become the same share a label, with their values in the order of their keys.
    fn merge(&mut self) {
        let (text, entries) = (&mut self.text, &mut self.entries);
        let is_sorted = entries.is_sorted_by(|a, b| of(text, &a.name) < of(text, &b.name));
        if is_sorted {
            return;
        }
        entries.sort_by(|a, b| of(text, &a.name).cmp(of(text, &b.name)));
        entries.dedup_by(|next, first| {
            if of(text, &next.name) != of(text, &first.name) {
                return false;
            }
            if first.value.is_empty() {
                first.value = next.value.clone();
            } else {
                let at = text.len() as u32;
                // What was joined last stands at the end and grows.
                if first.value.end == at {
                    text.push(';');
                } else {
                    text.extend_from_within_range(&first.value);
                    text.push(';');
                    first.value = at..at;
                }
                text.extend_from_within_range(&next.value);
                first.value.end = text.len() as u32;
            }
            true
        });
    }

    fn replace(&mut self, entry: Entry) {
        let text = &self.text;
        match self.entries.binary_search_by(|e| of(text, &e.name).cmp(of(text, &entry.name))) {
            Ok(at) => self.entries[at] = entry,
            Err(at) => self.entries.insert(at, entry),
        }
    }

    /// Are the labels within the limits of a series, with a metric's name and a bucket's bound?
    fn within(&self, own: usize, limits: &Limits) -> Result<(), Wrong> {
        let (count, max) = (self.len() + own, limits.labels_max);
        if count > max {
            return Err((Reason::LabelLimit, format!("it has {count} labels, the limit is {max}")));
        }
        // A joined value may be longer than each of its parts.
        if let Some(e) = self.entries.iter().find(|e| e.value.len() > limits.label_value_bytes_max) {
            let name = of(&self.text, &e.name);
            return Err((Reason::LabelLimit, format!("label {name:?} or its value is over the length limit")));
        }
        Ok(())
    }

    /// How many labels have a value.
    pub(super) fn len(&self) -> usize {
        self.entries.iter().filter(|e| !e.value.is_empty()).count()
    }

    /// The value of a label, or `""`.
    pub(super) fn get(&self, name: &str) -> &str {
        let found = self.entries.iter().find(|e| of(&self.text, &e.name) == name);
        found.map_or("", |e| of(&self.text, &e.value))
    }

    /// Bytes that a metric of so many series takes: each series writes its labels out.
    pub(super) fn bytes(&self, name: &str, series: usize) -> usize {
        let labels: usize = self.entries.iter().map(|e| e.name.len() + e.value.len() + 2).sum();
        (labels + name.len() + SUFFIX_BYTES).saturating_mul(series)
    }

    /// Appends the packed labels of a series; `le` is the bound of a bucket, and replaces a label of that name.
    pub(super) fn pack(&self, metric: &str, le: Option<&str>, out: &mut Vec<u8>) {
        let mut name = Some((METRIC_NAME, metric));
        let mut le = le.map(|v| ("le", v));
        let has_le = le.is_some();
        for e in &self.entries {
            let (n, v) = (of(&self.text, &e.name), of(&self.text, &e.value));
            if let Some((special, value)) = name.take_if(|(special, _)| *special < n) {
                push_packed(out, special, value);
            }
            if let Some((special, value)) = le.take_if(|(special, _)| *special <= n) {
                push_packed(out, special, value);
            }
            if !(v.is_empty() || has_le && n == "le") {
                push_packed(out, n, v);
            }
        }
        for (special, value) in name.into_iter().chain(le) {
            push_packed(out, special, value);
        }
    }
}

/// What is said of an attribute whose name leaves nothing.
fn no_name(key: &str) -> Wrong {
    let text = format!("the name of attribute {} contains no ASCII letter or digit", quoted(cut(key, 60)));
    (Reason::Labels, text)
}

fn push(text: &mut String, part: &str) -> Range<u32> {
    let at = text.len() as u32;
    text.push_str(part);
    at..text.len() as u32
}

fn of<'a>(text: &'a str, range: &Range<u32>) -> &'a str {
    &text[range.start as usize..range.end as usize]
}

trait ExtendFromWithin {
    fn extend_from_within_range(&mut self, range: &Range<u32>);
}

impl ExtendFromWithin for String {
    fn extend_from_within_range(&mut self, range: &Range<u32>) {
        self.extend_from_within(range.start as usize..range.end as usize);
    }
}
