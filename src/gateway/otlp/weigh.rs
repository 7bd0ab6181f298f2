//! What an export takes in memory once it is decoded: found on its wire format, before it is decoded.
//!
//! A message of two bytes becomes a structure of some hundred, so that a few megabytes (compressed: a few kilobytes) could become
//! gigabytes. The walk knows which fields are messages, and charges each with the size of what it becomes.

use opentelemetry_proto::tonic::common::v1::{AnyValue, EntityRef, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, SummaryDataPoint,
};

use crate::write::wire::{Field, Reader};

/// Messages may be nested so deep; the decoder allows a hundred.
const DEPTH_MAX: usize = 128;

/// A growing list holds its items once and a half, and twice while it is moved.
const GROWTH: usize = 2;

#[derive(Clone, Copy)]
enum Kind {
    Export,
    ResourceMetrics,
    Resource,
    Entity,
    ScopeMetrics,
    Scope,
    Metric,
    Numbers,
    Histograms,
    Exponentials,
    Summaries,
    NumberPoint,
    HistogramPoint,
    ExponentialPoint,
    SummaryPoint,
    Buckets,
    Exemplar,
    KeyValue,
    AnyValue,
    Array,
    Pairs,
    Plain,
}

/// What a field of a message holds, and what one of it takes beside what is in it; none where it is no message.
fn child(of: Kind, field: u32) -> Option<(Kind, usize)> {
    use Kind::*;
    let pair = Some((KeyValue, size_of::<self::KeyValue>()));
    let exemplar = Some((Exemplar, size_of::<self::Exemplar>()));
    match (of, field) {
        (Export, 1) => Some((ResourceMetrics, size_of::<self::ResourceMetrics>())),
        (ResourceMetrics, 1) => Some((Resource, 0)),
        (ResourceMetrics, 2) => Some((ScopeMetrics, size_of::<self::ScopeMetrics>())),
        (Resource, 1) | (Scope, 3) | (Metric, 12) | (Pairs, 1) => pair,
        (Resource, 3) => Some((Entity, size_of::<EntityRef>())),
        (Entity, 3 | 4) => Some((Plain, size_of::<String>())),
        (ScopeMetrics, 1) => Some((Scope, 0)),
        (ScopeMetrics, 2) => Some((Metric, size_of::<self::Metric>())),
        (Metric, 5 | 7) => Some((Numbers, 0)),
        (Metric, 9) => Some((Histograms, 0)),
        (Metric, 10) => Some((Exponentials, 0)),
        (Metric, 11) => Some((Summaries, 0)),
        (Numbers, 1) => Some((NumberPoint, size_of::<NumberDataPoint>())),
        (Histograms, 1) => Some((HistogramPoint, size_of::<HistogramDataPoint>())),
        (Exponentials, 1) => Some((ExponentialPoint, size_of::<ExponentialHistogramDataPoint>())),
        (Summaries, 1) => Some((SummaryPoint, size_of::<SummaryDataPoint>())),
        (NumberPoint | SummaryPoint | Exemplar, 7) | (HistogramPoint, 9) | (ExponentialPoint, 1) => pair,
        (NumberPoint, 5) | (HistogramPoint, 8) | (ExponentialPoint, 11) => exemplar,
        (ExponentialPoint, 8 | 9) => Some((Buckets, 0)),
        (SummaryPoint, 6) => Some((Plain, size_of::<ValueAtQuantile>())),
        (KeyValue, 2) => Some((AnyValue, 0)),
        (AnyValue, 5) => Some((Array, 0)),
        (AnyValue, 6) => Some((Pairs, 0)),
        (Array, 1) => Some((AnyValue, size_of::<self::AnyValue>())),
        _ => None,
    }
}

/// Checks that an export takes at most `max` bytes; the error says what is wrong with it.
pub fn weigh(message: &[u8], max: usize) -> Result<(), String> {
    let mut bytes = 0usize;
    let mut open = vec![(Kind::Export, Reader::new(message))];
    while let Some((kind, reader)) = open.last_mut() {
        let kind = *kind;
        let Some((number, field)) = reader.next_field().map_err(|e| e.to_string())? else {
            open.pop();
            continue;
        };
        let Field::Bytes(inner) = field else {
            bytes = bytes.saturating_add(8);
            continue;
        };
        match child(kind, number) {
            Some((Kind::Plain, size)) => bytes = bytes.saturating_add(size * GROWTH + inner.len()),
            Some((child, size)) => {
                bytes = bytes.saturating_add(size * GROWTH);
                open.push((child, Reader::new(inner)));
            }
            // Counts of buckets take eight bytes each, and at least one in the message.
            None if matches!(kind, Kind::Buckets) => bytes = bytes.saturating_add(8 * GROWTH * inner.len()),
            None => bytes = bytes.saturating_add(inner.len()),
        }
        if bytes > max {
            return Err(format!(
                "it takes more than {max} bytes of memory, the limit on one export: send less at once"
            ));
        }
        if open.len() > DEPTH_MAX {
            return Err("its messages are nested too deep".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        prost::encode_length_delimiter(body.len(), &mut out).unwrap();
        out.extend(body);
        out
    }

    /// `body` as the data of a metric, in an export.
    fn export(data: u8, body: &[u8]) -> Vec<u8> {
        field(1, &field(2, &field(2, &field(data, body))))
    }

    #[test]
    fn empty_messages_are_charged_with_what_they_become() {
        let max = 1 << 20;
        for (data, size) in [
            (5, size_of::<NumberDataPoint>()),
            (7, size_of::<NumberDataPoint>()),
            (9, size_of::<HistogramDataPoint>()),
            (10, size_of::<ExponentialHistogramDataPoint>()),
            (11, size_of::<SummaryDataPoint>()),
        ] {
            let points = |n: usize| export(data, &field(1, &[]).repeat(n));
            assert_eq!(weigh(&points(max / size / 3), max), Ok(()));
            let why = weigh(&points(max / size), max).unwrap_err();
            assert!(why.contains("1048576 bytes of memory"), "{why}");
        }
        // Attributes, exemplars, values of quantiles, buckets, lists in lists.
        let point = |data, body: &[u8]| export(data, &field(1, body));
        for message in [
            point(5, &field(7, &[]).repeat(20_000)),
            point(5, &field(5, &[]).repeat(20_000)),
            point(9, &field(9, &[]).repeat(20_000)),
            point(9, &field(8, &[]).repeat(20_000)),
            point(10, &field(1, &[]).repeat(20_000)),
            point(10, &field(11, &[]).repeat(20_000)),
            point(10, &field(8, &field(2, &[1; 100_000]))),
            point(11, &field(7, &[]).repeat(20_000)),
            point(11, &field(6, &[]).repeat(50_000)),
            point(5, &field(7, &field(2, &field(5, &field(1, &[]).repeat(50_000))))),
            point(5, &field(7, &field(2, &field(6, &field(1, &[]).repeat(50_000))))),
            field(1, &field(1, &field(1, &[]).repeat(20_000))),
            field(1, &field(1, &field(3, &field(3, &[]).repeat(50_000)))),
            field(1, &[]).repeat(20_000),
        ] {
            assert!(weigh(&message, max).is_err_and(|why| why.contains("of memory")), "{} bytes", message.len());
            assert_eq!(weigh(&message, 64 << 20), Ok(()));
        }
    }

    #[test]
    fn what_does_not_parse_or_is_nested_without_end_is_an_error() {
        assert!(weigh(&[0x0a, 5, 1], 1 << 20).is_err());
        let mut value = Vec::new();
        for _ in 0..200 {
            value = field(5, &field(1, &value));
        }
        let message = export(5, &field(1, &field(7, &field(2, &value))));
        assert!(weigh(&message, 1 << 20).is_err_and(|why| why.contains("nested")));
    }
}
