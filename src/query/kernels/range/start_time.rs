//! What start timestamps tell about counters: 0 is unknown, a start equal to the sample's own time is OpenTelemetry's
//! "unknown start".

/// Did the counter start anew between two neighbouring samples, judged by their start timestamps?
#[inline]
pub(crate) fn is_reset(previous_start: i64, previous_time: i64, start: i64, time: i64) -> bool {
    if previous_start == start || start == 0 || start >= time || start < previous_time {
        return false;
    }
    if start > previous_time {
        return true;
    }
    // It starts exactly at the sample before, as deltas do. A cumulative series of unknown start looks the same, but
    // then the sample before has no start that makes sense.
    previous_start != 0 && previous_start < previous_time
}

/// Did the counter start anew after `t`, as seen by one sample?
#[inline]
pub(crate) fn is_reset_after(t: i64, start: i64, time: i64) -> bool {
    start > t && time > t && is_reset(t, t, start, time)
}

/// Does a sample start before the one before it ended, without sharing its start?
#[inline]
pub(crate) fn overlaps(previous_start: i64, previous_time: i64, start: i64) -> bool {
    start != 0 && start < previous_time && start != previous_start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_by_start() {
        assert!(is_reset(0, 100, 150, 200));
        assert!(!is_reset(50, 100, 50, 200), "same start");
        assert!(!is_reset(50, 100, 0, 200), "unknown");
        assert!(!is_reset(50, 100, 200, 200), "starts at itself");
        assert!(!is_reset(50, 100, 99, 200), "before the last sample");
        assert!(is_reset(50, 100, 100, 200), "delta");
        assert!(!is_reset(0, 100, 100, 200), "unknown before");
        assert!(!is_reset(100, 100, 100, 200) && !is_reset(120, 100, 100, 200));
        assert!(is_reset_after(100, 150, 200) && !is_reset_after(150, 150, 200) && !is_reset_after(100, 200, 200));
        assert!(overlaps(10, 100, 50) && !overlaps(50, 100, 50) && !overlaps(10, 100, 100) && !overlaps(10, 100, 0));
    }
}
