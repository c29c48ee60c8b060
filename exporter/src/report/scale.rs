//! Axes and numbers: where the ticks are, and how values are written.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Larger numbers are slips, and would leave no room for the others.
const LARGEST: f64 = 1e15;
/// About how many ticks an axis has.
const TICKS: f64 = 8.0;

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// A fraction, shown in per cent.
    Percent,
    /// A size in bytes.
    Bytes,
    /// A plain number.
    Plain,
}

impl Unit {
    /// That of a metric: what is a share of texts or labels is in per cent.
    pub(super) fn of_metric(name: &str) -> Self {
        if crate::score::is_share(name) { Unit::Percent } else { Unit::Plain }
    }

    /// What stands behind the name of the quantity.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Unit::Percent => " (%)",
            Unit::Bytes => " (bytes)",
            Unit::Plain => "",
        }
    }

    /// A number in a table, without its unit.
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Unit::Percent => format!("{:.2}", 100.0 * value),
            Unit::Bytes => format!("{value:.0}"),
            Unit::Plain if value != 0.0 && (value.abs() < 1e-3 || value.abs() >= 1e6) => format!("{value:.2e}"),
            // Four digits, or three behind the point.
            Unit::Plain => format!("{value:.*}", (3.0 - value.abs().max(1.0).log10().floor()).clamp(0.0, 3.0) as usize),
        }
    }

    /// A number in a sentence, with its unit.
    pub(super) fn say(self, value: f64) -> String {
        match self {
            Unit::Percent => format!("{} %", self.show(value)),
            Unit::Bytes => bytes(value),
            Unit::Plain => self.show(value),
        }
    }

    /// A number at a tick; `step` is the distance of the ticks.
    fn tick(self, value: f64, step: f64) -> String {
        let decimals = |step: f64| (-(step.log10() + 1e-9).floor()).clamp(0.0, 9.0) as usize;
        match self {
            Unit::Percent => format!("{:.*}", decimals(100.0 * step), 100.0 * value),
            Unit::Bytes => bytes(value),
            Unit::Plain if value.abs() >= 1e5 => format!("{value:.0e}"),
            Unit::Plain => format!("{value:.*}", decimals(step)),
        }
    }
}

/// A metric's name as words.
pub(super) fn words(metric: &str) -> String {
    metric.replace('_', " ")
}

/// A size in few characters.
fn bytes(value: f64) -> String {
    for (size, unit) in [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")] {
        if value >= size * 0.9995 {
            let shown = value / size;
            let decimals = usize::from((shown - shown.round()).abs() > 0.05);
            return format!("{shown:.decimals$} {unit}");
        }
    }
    format!("{value:.0} B")
}

/// An axis: its range, its ticks, and how they are written.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    range: Range<f64>,
    ticks: Vec<f64>,
    labels: Vec<String>,
    log: bool,
}

/// Whether a number can be drawn.
pub(super) fn drawable(value: f64) -> bool {
    value.is_finite() && value.abs() <= LARGEST
}

fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|&v| drawable(v)).fold(None, |range, v| {
        let (low, high) = range.unwrap_or((v, v));
        Some((v.min(low), v.max(high)))
    })
}

impl Scale {
    /// An axis on which these numbers have a little room around; none without numbers.
    pub(super) fn linear(values: impl Iterator<Item = f64>, unit: Unit) -> Option<Self> {
        let (low, high) = extent(values)?;
        // A single value gets an axis too, and one that hardly changes is not blown up.
        let part = if low < high { 0.01 } else { 0.05 };
        let size = low.abs().max(high.abs());
        let least = if unit == Unit::Percent { 0.01 } else { size * part };
        // Room that is lost beside a very large number is none.
        let room = ((high - low) * 0.08).max(least).max(1e-9 * size.max(1.0));
        let range = (low - room)..(high + room);
        // Nothing of what is shared out or counted is below 0, and no share above 1.
        let floor = if low >= 0.0 { 0.0 } else { f64::NEG_INFINITY };
        let top = if unit == Unit::Percent && high <= 1.0 { 1.0 } else { f64::INFINITY };
        // A mark at the very edge would be cut: the edge itself gets a little room, but no tick.
        let edge = (range.end - range.start) * 0.02;
        let step = nice_step((range.end - range.start) / TICKS);
        let (first, last) = ((range.start.max(floor) / step).ceil(), (range.end.min(top) / step).floor());
        let count = (last - first).clamp(0.0, 3.0 * TICKS) as i32;
        let ticks: Vec<f64> = (0..=count).map(|i| (first + f64::from(i)) * step).collect();
        let range = range.start.max(floor - edge)..range.end.min(top + edge);
        let labels = ticks.iter().map(|&tick| unit.tick(tick, step)).collect();
        Some(Scale { range, ticks, labels, log: false })
    }

    /// The same with equal ratios at equal distances, for numbers above 0.
    pub(super) fn log(values: impl Iterator<Item = f64>, unit: Unit) -> Option<Self> {
        let (low, high) = extent(values.filter(|&v| v >= 1e-12))?;
        let room = ((high / low).ln() * 0.08).max(0.2).exp();
        let range = low / room..high * room;
        let decades = (range.end / range.start).log10();
        // The closer the ends, the more ticks a decade has.
        let digits: &[f64] = match decades {
            d if d > 4.0 => &[1.0],
            d if d > 2.0 => &[1.0, 3.0],
            d if d > 1.0 => &[1.0, 2.0, 5.0],
            d if d > 0.5 => &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
            _ => &[1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        };
        let exponents = range.start.log10().floor() as i32..=range.end.log10().ceil() as i32;
        let all = exponents.flat_map(|e| digits.iter().map(move |digit| digit * 10f64.powi(e)));
        let ticks: Vec<f64> = all.filter(|tick| range.contains(tick)).collect();
        let labels = ticks.iter().map(|&tick| unit.tick(tick, tick)).collect();
        Some(Scale { range, ticks, labels, log: true })
    }

    /// How a tick is written.
    pub(super) fn label(&self, value: f64) -> String {
        let tick = self.ticks.iter().position(|&tick| tick == value);
        tick.map(|i| self.labels[i].clone()).unwrap_or_default()
    }
}

/// The next larger of 1, 2 and 5 times a power of ten.
fn nice_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let digit = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * power >= step * (1.0 - 1e-9));
    digit.unwrap_or(10.0) * power
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let place = |v: f64| if self.log { v.max(f64::MIN_POSITIVE).ln() } else { v };
        let (low, high) = (place(self.range.start), place(self.range.end));
        let part = ((place(*value) - low) / (high - low)).clamp(0.0, 1.0);
        from + (part * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Scale {
    fn format_ext(&self, value: &f64) -> String {
        self.label(*value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ticks_are_round_numbers_in_their_unit() {
        let axis = Scale::linear([0.812, 0.94].into_iter(), Unit::Percent).unwrap();
        assert_eq!(axis.labels, ["82", "84", "86", "88", "90", "92", "94"]);
        let axis = Scale::log([12_000.0, 1_300_000.0].into_iter(), Unit::Bytes).unwrap();
        assert_eq!(axis.labels, ["10 kB", "30 kB", "100 kB", "300 kB", "1 MB"]);
        let axis = Scale::linear([0.0, 120.0].into_iter(), Unit::Plain).unwrap();
        assert_eq!(axis.labels, ["0", "20", "40", "60", "80", "100", "120"]);
        assert!(axis.label(40.0) == "40" && axis.label(41.0).is_empty());
        // A share that is none has room around it as well.
        let axis = Scale::linear([-6e14].into_iter(), Unit::Percent).unwrap();
        assert!(axis.range.contains(&-6e14) && axis.range.start < -6e14);
    }

    #[test]
    fn numbers_are_written_in_few_characters() {
        assert_eq!([999.0, 1000.0, 1536.0, 2.5e6, 1e9].map(bytes), ["999 B", "1 kB", "1.5 kB", "2.5 MB", "1 GB"]);
        assert_eq!(Unit::Percent.show(0.94), "94.00");
        assert_eq!([0.0, 0.25, 1e-5, -2e7].map(|v| Unit::Plain.show(v)), ["0.000", "0.250", "1.00e-5", "-2.00e7"]);
        assert_eq!([-9.5, 12.345, 167.6, 54321.0].map(|v| Unit::Plain.show(v)), ["-9.500", "12.35", "167.6", "54321"]);
        assert_eq!((Unit::of_metric("macro_f1"), Unit::of_metric("matthews")), (Unit::Percent, Unit::Plain));
        assert_eq!([Unit::Percent, Unit::Bytes, Unit::Plain].map(|unit| unit.say(2.0)), ["200.00 %", "2 B", "2.000"]);
    }

    proptest! {
        /// Any numbers whatever give an axis with a few ticks, or none at all.
        #[test]
        fn an_axis_holds_what_can_be_drawn(values in prop::collection::vec(any::<f64>(), 0..5), log in any::<bool>()) {
            let make = if log { |v: &[f64]| Scale::log(v.iter().copied(), Unit::Plain) }
                else { |v: &[f64]| Scale::linear(v.iter().copied(), Unit::Percent) };
            let wanted: Vec<f64> = values.iter().copied()
                .filter(|&v| drawable(v) && (!log || v >= 1e-12)).collect();
            match make(&values) {
                None => prop_assert!(wanted.is_empty()),
                Some(axis) => {
                    prop_assert!(axis.ticks.len() <= 32 && axis.ticks.len() == axis.labels.len());
                    for value in wanted {
                        prop_assert!(axis.range.contains(&value), "{value} {:?}", axis.range);
                        prop_assert!((10..=90).contains(&axis.map(&value, (10, 90))));
                    }
                }
            }
        }

        #[test]
        fn what_is_larger_is_further_right(a in 1.0f64..1e6, b in 1.0f64..1e6, log in any::<bool>()) {
            let values = [a, b].into_iter();
            let axis = if log { Scale::log(values, Unit::Bytes) } else { Scale::linear(values, Unit::Plain) }.unwrap();
            let (x, y) = (axis.map(&a, (0, 1000)), axis.map(&b, (0, 1000)));
            let in_order = if a < b { x <= y } else { x >= y };
            prop_assert!(in_order);
            prop_assert!(!axis.ticks.is_empty());
        }
    }
}
