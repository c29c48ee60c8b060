//! Colours: told apart by colour-blind readers, on light and on dark grounds.
//!
//! Series take those of Okabe & Ito (*Color Universal Design*, 2008) and differ in shape too. What a
//! figure is drawn with is for light grounds; a style sheet replaces these colours on dark ones.

use std::fmt::Write as _;

use plotters::style::RGBColor;

/// Text and axes.
pub(super) const INK: RGBColor = RGBColor(0x20, 0x21, 0x24);
/// Lines of the grid.
pub(super) const GRID: RGBColor = RGBColor(0xDD, 0xE0, 0xE4);

/// Of each: for light grounds, for dark ones.
const SERIES: [(RGBColor, RGBColor); 8] = [
    (RGBColor(0x00, 0x72, 0xB2), RGBColor(0x4F, 0xA8, 0xE0)),
    (RGBColor(0xD5, 0x5E, 0x00), RGBColor(0xFF, 0x8A, 0x3D)),
    (RGBColor(0x00, 0x9E, 0x73), RGBColor(0x2D, 0xC9, 0x9B)),
    (RGBColor(0xCC, 0x79, 0xA7), RGBColor(0xE5, 0x9C, 0xC4)),
    (RGBColor(0xE6, 0x9F, 0x00), RGBColor(0xF2, 0xB6, 0x32)),
    (RGBColor(0x56, 0xB4, 0xE9), RGBColor(0x9A, 0xD8, 0xFA)),
    (RGBColor(0x6A, 0x51, 0xA3), RGBColor(0xA9, 0x94, 0xE0)),
    (RGBColor(0x55, 0x55, 0x55), RGBColor(0xBB, 0xBB, 0xBB)),
];
const INKS: [(RGBColor, RGBColor); 2] = [(INK, RGBColor(0xE6, 0xE8, 0xEB)), (GRID, RGBColor(0x3A, 0x3F, 0x46))];

/// The colour of a series.
pub(super) fn series(i: usize) -> RGBColor {
    SERIES[i % SERIES.len()].0
}

/// The rules of the style sheet that replace the colours of figures on a dark ground.
pub(super) fn dark_rules() -> String {
    let mut rules = String::new();
    for (light, dark) in INKS.into_iter().chain(SERIES) {
        let (light, dark) = (hex(light), hex(dark));
        let _ = writeln!(rules, "svg [fill=\"{light}\"]{{fill:{dark}}}svg [stroke=\"{light}\"]{{stroke:{dark}}}");
    }
    rules
}

/// A colour as figures write it.
pub(super) fn hex(RGBColor(r, g, b): RGBColor) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

/// A colour for a part of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ramp {
    /// From little to much.
    Sequential,
    /// From less over the same to more.
    Diverging,
}

impl Ramp {
    /// The colour of a part, 0 to 1.
    pub(super) fn colour(self, part: f64) -> RGBColor {
        const SEQUENTIAL: [RGBColor; 4] = [
            RGBColor(0xF1, 0xF5, 0xFA),
            RGBColor(0x9E, 0xC4, 0xE3),
            RGBColor(0x3A, 0x87, 0xBD),
            RGBColor(0x08, 0x30, 0x6B),
        ];
        const DIVERGING: [RGBColor; 5] = [
            RGBColor(0x9C, 0x45, 0x04),
            RGBColor(0xF0, 0xA8, 0x62),
            RGBColor(0xF5, 0xF4, 0xF2),
            RGBColor(0x86, 0xB7, 0xDD),
            RGBColor(0x0B, 0x4A, 0x86),
        ];
        let stops: &[RGBColor] = match self {
            Ramp::Sequential => &SEQUENTIAL,
            Ramp::Diverging => &DIVERGING,
        };
        let at = part.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
        let low = (at.floor() as usize).min(stops.len() - 2);
        let (a, b, t) = (stops[low], stops[low + 1], at - low as f64);
        let mix = |a: u8, b: u8| (f64::from(a) + t * (f64::from(b) - f64::from(a))).round() as u8;
        RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
    }
}

/// What can be read on a ground: by its relative luminance (WCAG 2.2).
pub(super) fn readable_on(RGBColor(r, g, b): RGBColor) -> RGBColor {
    let linear = |c: u8| {
        let c = f64::from(c) / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    };
    let luminance = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    // Not INK and not paper: cells keep their colours on dark grounds, and so must what is in them.
    if luminance > 0.2 { RGBColor(0x11, 0x11, 0x11) } else { RGBColor(0xFE, 0xFE, 0xFE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ramps_reach_their_ends_and_stay_in_them() {
        assert_eq!(Ramp::Sequential.colour(0.0), RGBColor(0xF1, 0xF5, 0xFA));
        assert_eq!(Ramp::Sequential.colour(1.0), RGBColor(0x08, 0x30, 0x6B));
        assert_eq!(Ramp::Diverging.colour(0.5), RGBColor(0xF5, 0xF4, 0xF2));
        assert_eq!(Ramp::Sequential.colour(7.0), Ramp::Sequential.colour(1.0));
        assert_eq!(readable_on(RGBColor(0x08, 0x30, 0x6B)), RGBColor(0xFE, 0xFE, 0xFE));
        assert_eq!(readable_on(RGBColor(0xF1, 0xF5, 0xFA)), RGBColor(0x11, 0x11, 0x11));
    }

    #[test]
    fn no_cell_has_a_colour_that_dark_grounds_replace() {
        let rules = dark_rules();
        for ramp in [Ramp::Sequential, Ramp::Diverging] {
            for i in 0..=1000 {
                let cell = ramp.colour(f64::from(i) / 1000.0);
                assert!(!rules.contains(&format!("fill=\"{}\"", hex(cell))));
                assert!(!rules.contains(&format!("fill=\"{}\"", hex(readable_on(cell)))));
            }
        }
    }
}
