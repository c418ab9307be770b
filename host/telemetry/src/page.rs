//! What a scrape says of the engine's numbers: lines whose names and labels were written once, and then their values.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::distribution::{Distribution, Tally, Unit};

/// A name with its help and its series.
pub(crate) trait Family: Send + Sync {
    fn write(&self, out: &mut String);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Counter,
    Gauge,
}

/// Counters or gauges of one name.
pub(crate) struct Scalars {
    header: String,
    lines: Vec<(String, Read)>,
}

/// Reads a value when a scrape asks for it; `None` leaves its line out.
pub(crate) type Read = Box<dyn Fn() -> Option<f64> + Send + Sync>;

/// Names of labels with their values.
pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

/// Histograms of one name. Series come and go with what they count.
pub(crate) struct Histograms {
    name: &'static str,
    header: String,
    unit: Unit,
    /// As they are shown, without the infinite one.
    bounds: Vec<f64>,
    /// Held while a scrape writes them, and while one comes or goes; never while something is counted.
    series: Mutex<Vec<Series>>,
}

/// What some distributions of the same bounds hold together.
struct Series {
    labels: String,
    sources: Vec<Arc<Distribution>>,
    /// The line of each bound, and how many of the sources' counts lie within it.
    buckets: Vec<(String, usize)>,
    infinite: String,
    sum: String,
    count: String,
}

impl Scalars {
    pub(crate) fn new(name: &str, kind: Kind, help: &str, series: Vec<(String, Read)>) -> Self {
        let kind = if kind == Kind::Counter { "counter" } else { "gauge" };
        let lines = series.into_iter().map(|(labels, read)| (line(name, "", &labels, None), read)).collect();
        Self { header: header(name, kind, help), lines }
    }
}

impl Family for Scalars {
    fn write(&self, out: &mut String) {
        let mut header = Some(self.header.as_str());
        for (line, read) in &self.lines {
            let Some(value) = read() else { continue };
            out.push_str(header.take().unwrap_or_default());
            put(out, line, value);
        }
    }
}

impl Histograms {
    pub(crate) fn new(name: &'static str, help: &str, unit: Unit, bounds: &[f64]) -> Self {
        Self {
            name,
            header: header(name, "histogram", help),
            unit,
            bounds: bounds.to_vec(),
            series: Mutex::new(Vec::new()),
        }
    }

    /// The sources have the same bounds, this name's among them.
    pub(crate) fn show(&self, labels: String, sources: Vec<Arc<Distribution>>) {
        let series = self.series_of(labels, sources);
        self.lock().push(series);
    }

    /// The distribution that is shown with these labels: a new one if none is.
    pub(crate) fn get(&self, labels: String) -> Arc<Distribution> {
        let mut shown = self.lock();
        let known = shown.iter().find(|series| series.labels == labels);
        if let Some(known) = known.and_then(|series| series.sources.first()) {
            return Arc::clone(known);
        }
        let distribution = Arc::new(Distribution::new(self.unit, &[&self.bounds]));
        shown.push(self.series_of(labels, vec![Arc::clone(&distribution)]));
        distribution
    }

    pub(crate) fn remove(&self, labels: &str) {
        self.lock().retain(|series| series.labels != labels);
    }

    fn series_of(&self, labels: String, sources: Vec<Arc<Distribution>>) -> Series {
        let within = |bound| sources.first().map_or(0, |source| source.counts_within(self.unit.counted(bound)));
        let bucket = |&bound: &f64| {
            let le = format!("{bound:?}");
            (line(self.name, "_bucket", &labels, Some(&le)), within(bound))
        };
        Series {
            buckets: self.bounds.iter().map(bucket).collect(),
            infinite: line(self.name, "_bucket", &labels, Some("+Inf")),
            sum: line(self.name, "_sum", &labels, None),
            count: line(self.name, "_count", &labels, None),
            labels,
            sources,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Family for Histograms {
    fn write(&self, out: &mut String) {
        let shown = self.lock();
        if !shown.is_empty() {
            out.push_str(&self.header);
        }
        for series in shown.iter() {
            series.write(self.unit, out);
        }
    }
}

impl<F: Family> Family for Arc<F> {
    fn write(&self, out: &mut String) {
        F::write(self, out);
    }
}

impl Series {
    fn write(&self, unit: Unit, out: &mut String) {
        let mut tally = Tally::default();
        for source in &self.sources {
            source.add_to(&mut tally);
        }
        let (mut cumulative, mut taken) = (0, 0);
        for (line, within) in &self.buckets {
            cumulative += tally.counts[taken..*within].iter().sum::<u64>();
            taken = *within;
            put(out, line, cumulative);
        }
        let count: u64 = tally.counts.iter().sum();
        put(out, &self.infinite, count);
        put(out, &self.sum, unit.shown(tally.sum));
        put(out, &self.count, count);
    }
}

/// Labels as they stand in a line, without the braces.
pub(crate) fn labels(labels: Labels<'_>) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        let value = value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
        let comma = if text.is_empty() { "" } else { "," };
        let _infallible = write!(text, r#"{comma}{name}="{value}""#);
    }
    text
}

fn header(name: &str, kind: &str, help: &str) -> String {
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
}

/// Everything of a line that comes before its value.
fn line(name: &str, suffix: &str, labels: &str, bound: Option<&str>) -> String {
    let comma = if labels.is_empty() { "" } else { "," };
    match bound {
        Some(bound) => format!(r#"{name}{suffix}{{{labels}{comma}le="{bound}"}} "#),
        None if labels.is_empty() => format!("{name}{suffix} "),
        None => format!("{name}{suffix}{{{labels}}} "),
    }
}

fn put(out: &mut String, line: &str, value: impl std::fmt::Display) {
    out.push_str(line);
    let _infallible = writeln!(out, "{value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_sums_its_sources_and_counts_up() {
        let bounds: &[f64] = &[0.5, 1.0];
        let sources: Vec<_> = (0..2).map(|_| Arc::new(Distribution::new(Unit::Time, &[bounds, &[0.75]]))).collect();
        for (source, value) in [(0, 500_000_000), (1, 750_000_000), (0, 1_000_000_001)] {
            sources[source].observe(value);
        }
        let family = Histograms::new("wait_seconds", "How long.", Unit::Time, bounds);
        family.show(labels(&[("model", "a\"b\\")]), sources);
        let mut text = String::new();
        family.write(&mut text);
        assert_eq!(
            text,
            r#"# HELP wait_seconds How long.
# TYPE wait_seconds histogram
wait_seconds_bucket{model="a\"b\\",le="0.5"} 1
wait_seconds_bucket{model="a\"b\\",le="1.0"} 2
wait_seconds_bucket{model="a\"b\\",le="+Inf"} 3
wait_seconds_sum{model="a\"b\\"} 2.250000001
wait_seconds_count{model="a\"b\\"} 3
"#
        );
    }

    #[test]
    fn a_family_without_values_is_not_named() {
        let mut text = String::new();
        let absent: Read = Box::new(|| None);
        Scalars::new("absent", Kind::Gauge, "Not there.", vec![(String::new(), absent)]).write(&mut text);
        Histograms::new("empty", "Not there.", Unit::Tokens, &[1.0]).write(&mut text);
        assert_eq!(text, "");
        let present: Read = Box::new(|| Some(2.0));
        Scalars::new("there_total", Kind::Counter, "There.", vec![(String::new(), present)]).write(&mut text);
        assert_eq!(text, "# HELP there_total There.\n# TYPE there_total counter\nthere_total 2\n");
    }

    #[test]
    fn the_same_labels_are_the_same_distribution_until_they_are_removed() {
        let family = Histograms::new("cost_seconds", "What it costs.", Unit::Time, &[1.0]);
        let first = family.get(labels(&[("policy", "calm")]));
        assert!(Arc::ptr_eq(&first, &family.get(labels(&[("policy", "calm")]))));
        family.remove(r#"policy="calm""#);
        assert!(!Arc::ptr_eq(&first, &family.get(labels(&[("policy", "calm")]))));
    }
}
