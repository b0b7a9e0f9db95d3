//! The table and the JSON.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde_json::{Value, json};

use super::Outcome;

/// What a figure counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    /// Shown as microseconds or milliseconds.
    Seconds,
    /// Requests or handshakes.
    PerSecond,
    /// Shown as MB of 1,000,000 bytes.
    Bytes,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::PerSecond => "1/s",
            Self::Bytes => "bytes",
        }
    }

    /// `value` for people.
    fn show(self, value: f64) -> String {
        match self {
            Self::Seconds if value < 0.000_999_5 => format!("{:.0} us", value * 1e6),
            Self::Seconds if value < 0.1 => format!("{:.2} ms", value * 1e3),
            Self::Seconds => format!("{:.0} ms", value * 1e3),
            Self::PerSecond => thousands(value),
            Self::Bytes => format!("{:.1} MB", value / 1e6),
        }
    }

    /// A range without its unit, which stands at the median.
    fn show_range(self, samples: &[f64]) -> String {
        let (low, high) = (self.show(minimum(samples)), self.show(maximum(samples)));
        if low == high { String::new() } else { format!("[{low} .. {high}]") }
    }
}

/// What is asked of the daemon.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// At most this, in the row's unit.
    Most(f64),
    /// At most so many times a floor's.
    MostTimes(f64, &'static str),
    /// At least so many times a floor's.
    LeastTimes(f64, &'static str),
}

/// One figure: the daemon's and the floor's samples, one for each round.
pub(crate) struct Row {
    /// `section/what`; what a name filter looks at.
    pub(crate) name: String,
    /// What the samples count.
    pub(crate) unit: Unit,
    /// The daemon's.
    pub(crate) ours: Vec<f64>,
    /// Each floor's, by its name.
    pub(crate) floors: Vec<(&'static str, Vec<f64>)>,
    /// What must be reached, if anything.
    pub(crate) target: Option<Target>,
}

impl Row {
    /// A figure without samples yet.
    pub(crate) fn new(name: &str, unit: Unit, target: Option<Target>) -> Self {
        Self { name: name.to_owned(), unit, ours: Vec::new(), floors: Vec::new(), target }
    }

    /// Adds a sample of the daemon's (no `floor`) or of a floor's.
    pub(crate) fn add(&mut self, floor: Option<&'static str>, sample: f64) {
        let Some(floor) = floor else { return self.ours.push(sample) };
        match self.floors.iter_mut().find(|(name, _)| *name == floor) {
            Some((_, samples)) => samples.push(sample),
            None => self.floors.push((floor, vec![sample])),
        }
    }

    /// Whether nothing was measured.
    pub(crate) fn is_empty(&self) -> bool {
        self.ours.is_empty() && self.floors.is_empty()
    }

    /// Daemon divided by floor, round by round, so that what slows the machine for a while weighs
    /// on both sides of each.
    fn ratios(&self, floor: &str) -> Option<Vec<f64>> {
        let (_, samples) = self.floors.iter().find(|(name, _)| *name == floor)?;
        if self.ours.is_empty() || samples.is_empty() {
            return None;
        }
        if self.ours.len() == samples.len() {
            return Some(self.ours.iter().zip(samples).map(|(ours, floor)| ours / floor).collect());
        }
        Some(vec![median(&self.ours) / median(samples)])
    }

    /// Whether the target is met; `None` without one or without what it is held against.
    fn met(&self) -> Option<bool> {
        if self.ours.is_empty() {
            return None;
        }
        Some(match self.target? {
            Target::Most(limit) => median(&self.ours) <= limit,
            Target::MostTimes(limit, floor) => median(&self.ratios(floor)?) <= limit,
            Target::LeastTimes(limit, floor) => median(&self.ratios(floor)?) >= limit,
        })
    }

    fn target_text(&self) -> String {
        match self.target {
            None => String::new(),
            Some(Target::Most(limit)) => format!("<= {}", self.unit.show(limit)),
            Some(Target::MostTimes(limit, floor)) => format!("<= {limit} x {floor}"),
            Some(Target::LeastTimes(limit, floor)) => format!(">= {limit} x {floor}"),
        }
    }

    fn json(&self) -> Value {
        let mut floors = serde_json::Map::new();
        for (name, samples) in &self.floors {
            let mut floor = summary(samples);
            if let (Some(ratios), Some(floor)) = (self.ratios(name), floor.as_object_mut()) {
                floor.insert("oursDividedByIt".to_owned(), summary(&ratios));
            }
            floors.insert((*name).to_owned(), floor);
        }
        json!({
            "name": self.name,
            "unit": self.unit.name(),
            "ours": summary(&self.ours),
            "floors": floors,
            "target": self.target.map(|_| self.target_text()),
            "met": self.met(),
        })
    }
}

/// The whole report for people.
pub(crate) fn table(rows: &[Row], about: &Value) -> String {
    let mut lines = vec![["", "", "median", "range", "ours / it", "target", ""].map(str::to_owned)];
    for row in rows {
        let mut first = true;
        let ours = [("ours", &row.ours)].into_iter().filter(|(_, samples)| !samples.is_empty());
        let floors = row.floors.iter().map(|(name, samples)| (*name, samples));
        for (who, samples) in ours.chain(floors) {
            let is_ours = first && !row.ours.is_empty();
            let ratio = match row.ratios(who) {
                Some(ratios) if ratios.len() > 1 => {
                    format!("{:.2} [{:.2} .. {:.2}]", median(&ratios), minimum(&ratios), maximum(&ratios))
                }
                Some(ratios) => format!("{:.2}", median(&ratios)),
                None => String::new(),
            };
            let verdict = match row.met() {
                Some(true) if is_ours => "met",
                Some(false) if is_ours => "not yet",
                Some(_) | None => "",
            };
            lines.push([
                if first { row.name.clone() } else { String::new() },
                if is_ours { "pi-remote".to_owned() } else { format!("floor {who}").replace("floor floor", "floor") },
                row.unit.show(median(samples)),
                row.unit.show_range(samples),
                ratio,
                if first { row.target_text() } else { String::new() },
                verdict.to_owned(),
            ]);
            first = false;
        }
    }
    let mut widths = [0; 7];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let told = |name: &str| about.get(name).map(|value| value.to_string().replace('"', "")).unwrap_or_default();
    let mut text = format!(
        "pi-remote {}, {} cores, Linux {}, load average before {}; {} rounds, {} s; range: lowest .. highest\n\n",
        told("version"),
        told("cores"),
        told("kernel"),
        told("loadAverageBefore"),
        told("rounds"),
        told("seconds"),
    );
    for line in &lines {
        let mut padded = String::new();
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Figures stand under each other by their right edge.
            let _ = if column == 2 { write!(padded, "{cell:>width$}  ") } else { write!(padded, "{cell:<width$}  ") };
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}

/// The whole report for programs.
pub(crate) fn json(rows: &[Row], about: Value, failures: &[String]) -> Value {
    json!({ "about": about, "rows": rows.iter().map(Row::json).collect::<Vec<_>>(), "failures": failures })
}

/// One line on stdout.
pub(crate) fn line(text: &str) -> Outcome<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// One line on stderr: what goes on, and what failed.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The middle sample, or the mean of the two.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match (sorted.get(half), sorted.get(half.wrapping_sub(1))) {
        (Some(upper), Some(lower)) if sorted.len().is_multiple_of(2) => f64::midpoint(*upper, *lower),
        (Some(middle), _) => *middle,
        (None, _) => f64::NAN,
    }
}

fn minimum(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::INFINITY, f64::min)
}

fn maximum(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

fn summary(samples: &[f64]) -> Value {
    if samples.is_empty() {
        return Value::Null;
    }
    json!({ "median": median(samples), "min": minimum(samples), "max": maximum(samples), "samples": samples })
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
