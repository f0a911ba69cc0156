//! A scrape as text: `OpenMetrics` 1.0, and the text format 0.0.4 of Prometheus.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::families::{FAMILIES, Family, Kind, Values};
use super::scrape::{Scrape, Value};
use crate::mutants::mutant;

/// The two texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// Prometheus 0.0.4.
    Prometheus,
}

/// The value of a label as it stands between quotes.
pub(super) fn escaped(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', '"', '\n']) || mutant!(MetricLabelNotEscaped) {
        return Cow::Borrowed(value);
    }
    let mut out = String::with_capacity(value.len() + 8);
    for each in value.chars() {
        match each {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            _ => out.push(each),
        }
    }
    Cow::Owned(out)
}

fn push_count(out: &mut String, many: u64) {
    out.push_str(itoa::Buffer::new().format(many));
}

fn push_level(out: &mut String, level: f64) {
    if level.is_finite() {
        out.push_str(zmij::Buffer::new().format_finite(level));
    } else if level.is_nan() {
        out.push_str("NaN");
    } else {
        out.push_str(if level > 0.0 { "+Inf" } else { "-Inf" });
    }
}

/// The labels of a series, each with a comma behind it, without the braces.
fn push_labels(out: &mut String, family: &'static Family, key: usize) {
    for (label, number) in family.numbers(key) {
        out.push_str(label.name);
        out.push_str("=\"");
        out.push_str(match label.values {
            Values::Closed(all) => all[number],
            Values::Capped(names) => names.escaped(number),
        });
        out.push_str("\",");
    }
}

/// The labels in their braces, or nothing.
fn push_braces(out: &mut String, labels: &str) {
    if let Some(labels) = labels.strip_suffix(',') {
        out.push('{');
        out.push_str(labels);
        out.push('}');
    }
    out.push(' ');
}

fn push_spread(out: &mut String, family: &Family, labels: &str, buckets: &[u64], sum: f64) {
    let mut until_here = 0;
    for (at, many) in buckets.iter().enumerate() {
        until_here = if mutant!(MetricBucketsNotAddedUp) {
            *many
        } else {
            until_here + many
        };
        out.push_str(family.name);
        out.push_str("_bucket{");
        out.push_str(labels);
        out.push_str("le=\"");
        push_level(out, family.buckets.get(at).copied().unwrap_or(f64::INFINITY));
        out.push_str("\"} ");
        push_count(out, until_here);
        out.push('\n');
    }
    out.push_str(family.name);
    out.push_str("_sum");
    push_braces(out, labels);
    push_level(out, sum);
    out.push('\n');
    out.push_str(family.name);
    out.push_str("_count");
    push_braces(out, labels);
    push_count(out, until_here);
    out.push('\n');
}

fn push_head(out: &mut String, family: &Family, format: Format) {
    let name = match format {
        Format::OpenMetrics => family.name,
        Format::Prometheus => family.sample,
    };
    for part in [
        "# HELP ",
        name,
        " ",
        family.help,
        "\n# TYPE ",
        name,
        " ",
        family.kind.name(),
        "\n",
    ] {
        out.push_str(part);
    }
    if let (Format::OpenMetrics, Some(unit)) = (format, family.unit()) {
        for part in ["# UNIT ", name, " ", unit, "\n"] {
            out.push_str(part);
        }
    }
}

/// Everything that was measured, as text. A family without series is left out.
pub fn render(scrape: &Scrape, format: Format) -> String {
    /// The text is about as long as the last one.
    static LENGTH: AtomicUsize = AtomicUsize::new(16 * 1024);
    let last = LENGTH.load(Ordering::Relaxed);
    let mut out = String::with_capacity(last + last / 8);
    push_families(&mut out, &FAMILIES, scrape, format);
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    LENGTH.store(out.len(), Ordering::Relaxed);
    out
}

fn push_families(out: &mut String, families: &'static [Family], scrape: &Scrape, format: Format) {
    let mut labels = String::new();
    for family in families {
        let mut has_head = false;
        scrape.each(family, |key, value| {
            if !has_head {
                push_head(out, family, format);
                has_head = true;
            }
            labels.clear();
            push_labels(&mut labels, family, key);
            if let (Kind::Histogram, Value::Spread(buckets, sum)) = (family.kind, value) {
                return push_spread(out, family, &labels, buckets, sum);
            }
            out.push_str(family.sample);
            push_braces(out, &labels);
            match value {
                Value::Count(many) => push_count(out, many),
                Value::Level(level) | Value::Spread(_, level) => push_level(out, level),
            }
            out.push('\n');
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Id;

    #[test]
    fn a_value_of_a_label_cannot_leave_its_quotes() {
        assert_eq!(escaped("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
        assert_eq!(escaped("grüße"), "grüße");
    }

    #[test]
    fn what_a_room_says_adds_up_and_stands_in_both_texts() {
        let room = |scrape: &mut Scrape| {
            scrape.count(Id::RefusedAttempts, &["legacy"], 2);
            scrape.count(Id::RefusedAttempts, &["legacy"], 3);
            scrape.level(Id::EnginesActive, &[], 4.0);
        };
        let scrape = Scrape::of(&[room, room]);
        let open = render(&scrape, Format::OpenMetrics);
        assert!(open.contains("# TYPE isolane_refused_attempts counter\n"), "{open}");
        assert!(
            open.contains("\nisolane_refused_attempts_total{boundary=\"legacy\"} 10\n"),
            "{open}"
        );
        assert!(
            open.contains("\nisolane_refused_attempts_total{boundary=\"publish\"} 0\n"),
            "{open}"
        );
        assert!(open.contains("\nisolane_engines_active 8.0\n"), "{open}");
        assert!(open.ends_with("\n# EOF\n"));
        let plain = render(&scrape, Format::Prometheus);
        assert!(plain.contains("# TYPE isolane_refused_attempts_total counter\n") && !plain.contains("# EOF"));
        assert!(!plain.contains("# UNIT"));
    }

    /// More than the caps let a process have.
    #[test]
    fn ten_thousand_series_are_a_text_in_less_than_ten_milliseconds() {
        let many: &'static [Family] = Box::leak(Box::new([Family::for_test("isolane_many", 100)]));
        let family = &many[0];
        for name in 0..100 {
            let index = family.labels[0].index(&format!("name-{name}")).expect("it is capped");
            for number in 0..100 {
                family.cell(family.key(&[index, number])).increase(1_000_000);
            }
        }
        let scrape = Scrape::default();
        let times = (0..20).map(|_| {
            let mut out = String::new();
            let began = std::time::Instant::now();
            push_families(&mut out, many, &scrape, Format::OpenMetrics);
            let took = began.elapsed();
            assert_eq!(out.lines().count(), 10_002);
            took
        });
        let best = times.min().expect("there were some");
        assert!(best.as_millis() < 10, "{best:?}");
    }
}
