//! Labels of the series of a request, one series after the other.
//!
//! The series of one scrape differ in few labels from those before them. So the labels of a series are compared with the
//! labels before, each in the place where it stands in the message: what is the same to the byte is neither parsed nor
//! checked again, and its packed bytes are copied.
//!
//! ```text
//! before   __name__="a"   device="0"   env="p"   job="n"    packed  │a│0│p│n│
//! now      __name__="a"   device="1"   env="p"   job="n"            copy, put 1, copy
//! repeated     yes            no          yes       yes
//! ```
//!
//! Invariant: a series takes labels from the one before only where that one was right and came in order.

use std::ops::Range;

use quiver_model::labels::{push_packed, quoted};
use quiver_model::{Limits, METRIC_NAME};

use super::wire::{Reader, WireError};
use crate::rejections::Reason;

/// The labels of the series at hand and, at the places not yet come to, those of the one before.
#[derive(Debug, Default)]
pub(super) struct SeriesLabels<'a> {
    /// Names and values.
    pairs: Vec<(&'a str, &'a str)>,
    /// The messages they were in (1.0).
    messages: Vec<&'a [u8]>,
    /// The references they were, two for each (2.0).
    refs: Vec<u64>,
    /// Which of the labels so far are those that stood there before.
    repeated: Vec<bool>,
    /// Where the packed bytes of the series before begin; none where nothing may be taken from it.
    from: Option<u32>,
    /// The same for the next series, once this one is packed.
    packed: Option<u32>,
    /// Where each of its labels ends after that.
    ends: Vec<u32>,
}

/// An empty vector keeps room for so many from one message to the next.
const KEPT_LEN: usize = 1 << 16;

/// An empty vector with the memory of `old`: what borrows from one message cannot be kept for another, its room can.
pub(super) fn emptied<A, B>(mut old: Vec<A>) -> Vec<B> {
    old.clear();
    old.shrink_to(KEPT_LEN);
    old.into_iter().filter_map(|_| None).collect()
}

impl<'a> SeriesLabels<'a> {
    /// Without any labels, for another message.
    pub(super) fn emptied<'b>(self) -> SeriesLabels<'b> {
        let Self { pairs, messages, refs, repeated, ends, .. } = self;
        SeriesLabels {
            pairs: emptied(pairs),
            messages: emptied(messages),
            refs: emptied(refs),
            repeated: emptied(repeated),
            from: None,
            packed: None,
            ends: emptied(ends),
        }
    }

    /// Names and values: as they came until [`SeriesLabels::pack`], then by name.
    pub(super) fn pairs(&self) -> &[(&'a str, &'a str)] {
        &self.pairs
    }

    /// The next series takes no label from this one.
    pub(super) fn forget(&mut self) {
        self.packed = None;
    }

    /// Before the labels of a series are put.
    pub(super) fn begin(&mut self) {
        // Only a series that is packed leaves something to the next: whatever goes wrong before that leaves nothing.
        self.from = self.packed.take();
        if self.from.is_none() {
            self.pairs.clear();
            self.messages.clear();
            self.refs.clear();
        }
        self.repeated.clear();
    }

    /// Labels put so far.
    pub(super) fn len(&self) -> usize {
        self.repeated.len()
    }

    /// The next label of a message of 1.0; false where it is not UTF-8.
    #[inline]
    pub(super) fn put_message(&mut self, message: &'a [u8]) -> Result<bool, WireError> {
        let k = self.repeated.len();
        match self.messages.get_mut(k) {
            Some(before) if *before == message => {
                self.repeated.push(true);
                return Ok(true);
            }
            Some(before) => *before = message,
            None => self.messages.push(message),
        }
        match parse(message)? {
            Some(pair) => {
                self.put(pair);
                Ok(true)
            }
            None => {
                self.pairs.truncate(k);
                self.messages.truncate(k);
                Ok(false)
            }
        }
    }

    /// The next label of a message of 2.0.
    #[inline]
    pub(super) fn put_refs(&mut self, name: u64, value: u64, symbols: &[Option<&'a str>]) -> Result<(), String> {
        let at = 2 * self.repeated.len();
        match self.refs.get_mut(at..at + 2) {
            Some([n, v]) if (*n, *v) == (name, value) => {
                self.repeated.push(true);
                return Ok(());
            }
            Some(before) => before.copy_from_slice(&[name, value]),
            None => self.refs.extend([name, value]),
        }
        self.put((symbol(symbols, name)?, symbol(symbols, value)?));
        Ok(())
    }

    #[inline]
    fn put(&mut self, pair: (&'a str, &'a str)) {
        match self.pairs.get_mut(self.repeated.len()) {
            Some(place) => *place = pair,
            None => self.pairs.push(pair),
        }
        self.repeated.push(false);
    }

    /// After the last label was put.
    pub(super) fn end(&mut self) {
        let labels = self.repeated.len();
        self.pairs.truncate(labels);
        self.messages.truncate(labels);
        self.refs.truncate(2 * labels);
    }

    /// Sets labels that are not in the message: in place of those of the same name, unless the value is empty. The next series
    /// takes nothing from one with such labels.
    pub(super) fn replace(&mut self, labels: [(&'a str, &'a str); 2]) {
        self.pairs.retain(|(n, _)| labels.iter().all(|(name, _)| n != name));
        self.pairs.extend(labels.iter().filter(|(_, value)| !value.is_empty()));
        self.repeated.clear();
        self.repeated.resize(self.pairs.len(), false);
        self.from = None;
        self.messages.clear();
        self.refs.clear();
    }

    /// Checks the labels and appends them, sorted and packed; nothing is appended where something is wrong with them: that is
    /// returned.
    pub(super) fn pack(&mut self, limits: &Limits, out: &mut Vec<u8>) -> Result<(), (Reason, String)> {
        let at = out.len() as u32;
        let from = self.from.take();
        if self.are_right(limits) {
            self.pack_after(from.unwrap_or(at), out);
            self.packed = Some(at);
            return Ok(());
        }
        // Before they are sorted, which looks at all of each name.
        let over = self.pairs.iter().find_map(|pair| over_length(pair, limits));
        over.map_or(Ok(()), |why| Err((Reason::LabelLimit, why)))?;
        if self.pairs.len() > limits.labels_max {
            return Err((Reason::LabelLimit, too_many(self.pairs.len(), limits)));
        }
        self.pairs.sort_by(|a, b| a.0.cmp(b.0));
        check(&self.pairs).map_or(Ok(()), |why| Err((Reason::Labels, why)))?;
        self.pairs.iter().for_each(|(n, v)| push(n, v, out));
        Ok(())
    }

    /// Are the labels sorted and as [`check`] wants them? What two neighbours repeat was looked at before.
    fn are_right(&self, limits: &Limits) -> bool {
        // The first name must follow the empty one.
        let (mut name_before, mut is_repeated_before) = ("", true);
        for ((n, v), is_repeated) in self.pairs.iter().zip(&self.repeated) {
            if !is_repeated && (n.len() > limits.label_name_bytes_max || v.len() > limits.label_value_bytes_max) {
                return false;
            }
            if !(*is_repeated && is_repeated_before) && *n <= name_before {
                return false;
            }
            (name_before, is_repeated_before) = (n, *is_repeated);
        }
        self.pairs.len() <= limits.labels_max && self.pairs.iter().any(|(n, v)| *n == METRIC_NAME && !v.is_empty())
    }

    /// Packs labels that came sorted, where those before them begin at `from`: runs of repeated labels are copied.
    fn pack_after(&mut self, from: u32, out: &mut Vec<u8>) {
        let at = out.len();
        let copy = |run: &mut Range<u32>, out: &mut Vec<u8>| {
            out.extend_from_within((from + run.start) as usize..(from + run.end) as usize);
            *run = 0..0;
        };
        // Where the label before this one ended in the series before, and the run that is not copied yet.
        let (mut end_before, mut run) = (0, 0..0);
        for (k, ((n, v), is_repeated)) in self.pairs.iter().zip(&self.repeated).enumerate() {
            let old_end = self.ends.get(k).copied().unwrap_or(end_before);
            if *is_repeated {
                if run.is_empty() {
                    run.start = end_before;
                }
                run.end = old_end;
            } else {
                copy(&mut run, out);
                push(n, v, out);
            }
            let end = (out.len() - at) as u32 + (run.end - run.start);
            match self.ends.get_mut(k) {
                Some(place) => *place = end,
                None => self.ends.push(end),
            }
            end_before = old_end;
        }
        copy(&mut run, out);
    }
}

/// Appends a label to packed bytes, unless its value is empty.
#[inline]
fn push(name: &str, value: &str, out: &mut Vec<u8>) {
    if !value.is_empty() {
        push_packed(out, name, value);
    }
}

/// Name and value of a label's message; none where they are not UTF-8.
#[inline]
pub(super) fn parse(message: &[u8]) -> Result<Option<(&str, &str)>, WireError> {
    // As it is mostly written: `0a length name 12 length value`. Tags and short lengths are ASCII, so that one look at the whole
    // tells of both texts.
    if let [0x0a, n @ 0..=0x7f, rest @ ..] = message
        && let Some([0x12, v @ 0..=0x7f, value @ ..]) = rest.get(usize::from(*n)..)
        && value.len() == usize::from(*v)
        && let Ok(text) = std::str::from_utf8(rest)
        && let Some(pair) = text.get(..usize::from(*n)).zip(text.get(usize::from(*n) + 2..))
    {
        return Ok(Some(pair));
    }
    parse_any_form(message)
}

fn parse_any_form(message: &[u8]) -> Result<Option<(&str, &str)>, WireError> {
    let (mut name, mut value) = (&message[..0], &message[..0]);
    let mut r = Reader::new(message);
    while let Some((n, f)) = r.next_field()? {
        match n {
            1 => name = f.bytes(1)?,
            2 => value = f.bytes(2)?,
            _ => {}
        }
    }
    Ok(std::str::from_utf8(name).ok().zip(std::str::from_utf8(value).ok()))
}

/// The text behind a reference of 2.0.
#[inline]
pub(super) fn symbol<'a>(symbols: &[Option<&'a str>], i: u64) -> Result<&'a str, String> {
    match usize::try_from(i).ok().and_then(|i| symbols.get(i)) {
        Some(Some(s)) => Ok(s),
        Some(None) => Err(format!("symbol {i} is not valid UTF-8")),
        None => Err(format!("labelRefs {i} points out of symbols table of {} strings", symbols.len())),
    }
}

/// That there are more labels than a series may have.
pub(super) fn too_many(labels: usize, limits: &Limits) -> String {
    format!("series has {labels} labels, the limit is {}", limits.labels_max)
}

/// Which limit on its length a label is over, if any.
pub(super) fn over_length((n, v): &(&str, &str), limits: &Limits) -> Option<String> {
    if n.len() > limits.label_name_bytes_max {
        return Some(format!("label name of {} bytes, the limit is {}", n.len(), limits.label_name_bytes_max));
    }
    let max = limits.label_value_bytes_max;
    (v.len() > max).then(|| format!("value of label {} has {} bytes, the limit is {max}", shortened(n), v.len()))
}

/// What is wrong with sorted labels, if anything is.
fn check(pairs: &[(&str, &str)]) -> Option<String> {
    let mut has_name = false;
    let mut last = None;
    for (n, v) in pairs {
        if n.is_empty() {
            return Some("invalid labels for series: empty label name".into());
        }
        if last == Some(n) {
            return Some(format!("invalid labels for series: duplicated label {n}"));
        }
        last = Some(n);
        if *n == METRIC_NAME {
            has_name = !v.is_empty();
        }
    }
    if !has_name {
        return Some("invalid metric name or labels: no metric name (__name__)".into());
    }
    None
}

/// Bytes of a text that are shown in a message.
const SHOWN_BYTES: usize = 200;

/// The beginning of a text.
fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(SHOWN_BYTES)]
}

/// At most a few labels, for a message.
pub(super) fn show(pairs: &[(&str, &str)]) -> String {
    let shown = |(n, v): &(&str, &str)| format!("{}={}", shortened(n), quoted(shortened(v)));
    let list: Vec<_> = pairs.iter().take(8).map(shown).collect();
    let more = if pairs.len() > 8 { ", …" } else { "" };
    format!("{{{}{more}}}", list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A label's message of any form: fields in any order, twice, unknown ones.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let text =
            prop_oneof![Just("é".as_bytes().to_vec()), proptest::collection::vec(0x60..0x62u8, 0..3), Just(vec![0xc3])];
        let field = (prop_oneof![4 => Just(0x0au8), 4 => Just(0x12), 1 => Just(0x1a)], text);
        let fields = proptest::collection::vec(field, 0..4);
        (fields, proptest::option::of(any::<(prop::sample::Index, u8)>())).prop_map(|(fields, flip)| {
            let mut out = Vec::new();
            for (tag, text) in fields {
                out.extend([tag, text.len() as u8]);
                out.extend(text);
            }
            if let Some((at, byte)) = flip
                && !out.is_empty()
            {
                let at = at.index(out.len());
                out[at] = byte;
            }
            out
        })
    }

    proptest! {
        #[test]
        fn a_label_is_the_same_whichever_way_it_is_parsed(message in message()) {
            prop_assert_eq!(parse(&message), parse_any_form(&message));
        }
    }
}
