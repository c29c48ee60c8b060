//! Figures of rectangles: heat maps and bars.

use plotters::element::{Rectangle, Text};
use plotters::style::text_anchor::{HPos, VPos};
use plotters::style::{Color, RGBColor};

use super::ReportError;
use super::chart::{Area, DrawError, Drawing, TEXT, draw, text_style};
use super::palette::{INK, Ramp, readable_on, series};

/// More rows or columns would be too small to be told apart.
pub(super) const MAX_CELLS: usize = 60;
/// The longest name in a figure; tables have it whole.
const MAX_NAME: usize = 22;

/// A matrix of colours.
#[derive(Debug)]
pub(super) struct HeatMap {
    /// What the rows are.
    pub(super) row_title: String,
    /// Their names.
    pub(super) rows: Vec<String>,
    /// What the columns are.
    pub(super) column_title: String,
    /// Their names.
    pub(super) columns: Vec<String>,
    /// Place of each cell in the range of colours, 0 to 1, and what is written in it; none is blank.
    pub(super) cells: Vec<Vec<Option<(f64, String)>>>,
    /// The colours.
    pub(super) ramp: Ramp,
    /// What the ends of the range are.
    pub(super) ends: [String; 2],
}

/// A name that fits.
fn short(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME) {
        Some(_) => format!("{}…", name.chars().take(MAX_NAME - 1).collect::<String>()),
        None => name.to_owned(),
    }
}

/// About how wide text is: a browser's own font decides, so a little more than most need.
fn width_of(text: &str) -> i32 {
    (text.chars().count() as f64 * TEXT * 0.66).ceil() as i32
}

fn widest(texts: &[String]) -> i32 {
    texts.iter().map(|text| width_of(text)).max().unwrap_or(0)
}

fn text(area: &Area, text: &str, at: (i32, i32), colour: RGBColor, h: HPos, v: VPos) -> Result<(), DrawError> {
    area.draw(&Text::new(text.to_owned(), at, text_style(colour, h, v)))
}

fn rectangle(area: &Area, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> Result<(), DrawError> {
    area.draw(&Rectangle::new([from, to], colour.filled()))
}

impl HeatMap {
    /// Draws it; none where it would be too large to be read, or is empty.
    pub(super) fn draw(&self, title: &str) -> Result<Option<Drawing>, ReportError> {
        let (height, width) = (self.rows.len(), self.columns.len());
        if height == 0 || width == 0 || height > MAX_CELLS || width > MAX_CELLS {
            return Ok(None);
        }
        let rows: Vec<String> = self.rows.iter().map(|name| short(name)).collect();
        let columns: Vec<String> = self.columns.iter().map(|name| short(name)).collect();
        let written = self.cells.iter().flatten().flatten().map(|(_, text)| width_of(text)).max().unwrap_or(0);
        // Large maps go without numbers, which the table has.
        let numbers = width <= 20 && height <= 40;
        // Wide enough for short names.
        let name = Some(widest(&columns) + 6).filter(|&name| name <= 72).unwrap_or(0);
        let cell_w = if numbers { (written + 8).max(34).max(name) } else { 14.max(440 / width as i32) };
        let cell_h = if numbers { 26 } else { 14 };
        // Names that are wider than their column are turned.
        let turned = widest(&columns) > cell_w;
        let left = widest(&rows).max(width_of(&self.row_title)) + 12;
        let top = 26 + if turned { widest(&columns) + 6 } else { 20 };
        let (right, bottom) = (left + cell_w * width as i32, top + cell_h * height as i32);
        let ends = widest(&self.ends);
        let size =
            ((right + 44 + ends).max(left + width_of(&self.column_title)) as u32, (bottom.max(top + 90) + 10) as u32);
        let drawing = draw(title, size, |area| {
            text(area, &self.column_title, ((left + right) / 2, 4), INK, HPos::Center, VPos::Top)?;
            text(area, &self.row_title, (left - 8, top - 8), INK, HPos::Right, VPos::Bottom)?;
            for (i, name) in columns.iter().enumerate() {
                let x = left + cell_w * i as i32 + cell_w / 2;
                if turned {
                    let style = text_style(INK, HPos::Left, VPos::Center);
                    let style = style.transform(plotters::style::FontTransform::Rotate270);
                    area.draw(&Text::new(name.clone(), (x, top - 6), style))?;
                } else {
                    text(area, name, (x, top - 6), INK, HPos::Center, VPos::Bottom)?;
                }
            }
            for (i, (name, cells)) in rows.iter().zip(&self.cells).enumerate() {
                let y = top + cell_h * i as i32;
                text(area, name, (left - 8, y + cell_h / 2), INK, HPos::Right, VPos::Center)?;
                for (j, cell) in cells.iter().enumerate().take(width) {
                    let Some((part, shown)) = cell else { continue };
                    let x = left + cell_w * j as i32;
                    let colour = self.ramp.colour(*part);
                    rectangle(area, (x, y), (x + cell_w - 1, y + cell_h - 1), colour)?;
                    if numbers {
                        let middle = (x + cell_w / 2, y + cell_h / 2);
                        text(area, shown, middle, readable_on(colour), HPos::Center, VPos::Center)?;
                    }
                }
            }
            self.scale(area, (right + 20, top), (bottom - top).clamp(90, 220))
        })?;
        Ok(Some(drawing))
    }

    /// The colours from the highest to the lowest value.
    fn scale(&self, area: &Area, (x, top): (i32, i32), height: i32) -> Result<(), DrawError> {
        const STEPS: i32 = 40;
        for i in 0..STEPS {
            let (from, to) = (top + height * i / STEPS, top + height * (i + 1) / STEPS);
            let colour = self.ramp.colour(1.0 - f64::from(i) / f64::from(STEPS - 1));
            rectangle(area, (x, from), (x + 12, to), colour)?;
        }
        let [low, high] = &self.ends;
        text(area, high, (x + 18, top), INK, HPos::Left, VPos::Top)?;
        text(area, low, (x + 18, top + height), INK, HPos::Left, VPos::Bottom)
    }
}

/// A bar: its name, its length, and what is written at its end.
#[derive(Debug)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) shown: String,
}

/// Bars from zero to the right, or to the left where they are negative. None without bars.
pub(super) fn bars(title: &str, label: &str, all: &[Bar]) -> Result<Option<Drawing>, ReportError> {
    const HEIGHT: i32 = 24;
    const WIDTH: f64 = 320.0;
    if all.is_empty() {
        return Ok(None);
    }
    let low = all.iter().map(|bar| bar.value).fold(0.0, f64::min);
    let high = all.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let span = (high - low).max(f64::MIN_POSITIVE);
    let names: Vec<String> = all.iter().map(|bar| short(&bar.name)).collect();
    let values: Vec<String> = all.iter().map(|bar| bar.shown.clone()).collect();
    let room = widest(&values) + 8;
    // Numbers of negative bars stand between these and the names.
    let left = widest(&names) + 16 + if low < 0.0 { room } else { 0 };
    let at = |value: f64| left + (WIDTH * (value - low) / span).round() as i32;
    let top = 26;
    let bottom = top + HEIGHT * all.len() as i32;
    let size = ((left + WIDTH as i32 + room + 12) as u32, (bottom + 10) as u32);
    let drawing = draw(title, size, |area| {
        text(area, label, (at(0.0), 4), INK, if at(0.0) > left + 160 { HPos::Right } else { HPos::Left }, VPos::Top)?;
        for (i, (bar, name)) in all.iter().zip(&names).enumerate() {
            let y = top + HEIGHT * i as i32;
            let names_end = left - 8 - if low < 0.0 { room } else { 0 };
            text(area, name, (names_end, y + HEIGHT / 2), INK, HPos::Right, VPos::Center)?;
            let (from, to) = (at(bar.value.min(0.0)), at(bar.value.max(0.0)));
            rectangle(area, (from, y + 4), (to, y + HEIGHT - 4), series(if bar.value < 0.0 { 1 } else { 0 }))?;
            let (x, anchor) = if bar.value < 0.0 { (from - 5, HPos::Right) } else { (to + 5, HPos::Left) };
            text(area, &bar.shown, (x, y + HEIGHT / 2), INK, anchor, VPos::Center)?;
        }
        rectangle(area, (at(0.0), top), (at(0.0) + 1, bottom), INK)
    })?;
    Ok(Some(drawing))
}
