//! Figures with two axes, and the ground that all figures are drawn on.

use overmask::text::printable;
use plotters::backend::SVGBackend;
use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, EmptyElement, PathElement, Polygon};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, RGBColor, TextStyle};

use super::ReportError;
use super::palette::{GRID, INK, series};
use super::scale::{Scale, drawable};

/// The crate writes font sizes divided by this.
const FONT: f64 = 1.24;
/// Size of text, in units of the drawing.
pub(super) const TEXT: f64 = 12.0;

/// A figure: elements of an SVG drawing.
#[derive(Debug)]
pub(super) struct Drawing {
    /// Its width, in units.
    pub(super) width: u32,
    /// Its height.
    pub(super) height: u32,
    /// What is between `<svg>` and `</svg>`.
    pub(super) body: String,
}

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type DrawError = DrawingAreaErrorKind<std::io::Error>;

/// Draws on an empty ground.
pub(super) fn draw(
    title: &str,
    (width, height): (u32, u32),
    with: impl FnOnce(&Area) -> Result<(), DrawError>,
) -> Result<Drawing, ReportError> {
    let failed = |source| ReportError::Draw { figure: title.to_owned(), source };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        with(&area).and_then(|()| area.present()).map_err(|e| failed(e.into()))?;
    }
    // The page puts the drawing into an element of its own, with a title.
    let body = svg.split_once('>').and_then(|(_, rest)| rest.rsplit_once("</svg>"));
    let (body, _) = body.ok_or_else(|| failed("it came out without an <svg> element".into()))?;
    // The crate escapes text, but leaves characters that turn the direction of what follows.
    let body = body.lines().map(|line| printable(line) + "\n").collect();
    Ok(Drawing { width, height, body })
}

/// Text of a figure, anchored where it says.
pub(super) fn text_style<'a>(colour: RGBColor, h: HPos, v: VPos) -> TextStyle<'a> {
    TextStyle { font: ("sans-serif", TEXT * FONT).into_font(), color: colour.to_backend_color(), pos: Pos::new(h, v) }
}

/// Points, and whether a line joins them.
#[derive(Debug)]
pub(super) struct Series {
    /// The number of its colour and shape.
    pub(super) style: usize,
    /// The points.
    pub(super) points: Vec<(f64, f64)>,
    /// A line through them with a mark at its end, rather than a mark at each.
    pub(super) line: bool,
}

/// An axis.
#[derive(Debug)]
pub(super) struct Axis {
    /// What it is, with its unit.
    pub(super) label: String,
    /// Where things are on it.
    pub(super) scale: Scale,
}

/// Half the size of a mark.
const MARK: i32 = 5;

/// The outline of a mark; none for a circle.
pub(super) fn outline(style: usize) -> Option<Vec<(i32, i32)>> {
    let r = MARK;
    match style % 6 {
        0 => None,
        1 => Some(vec![(-r, r), (r, r), (0, -r)]),
        2 => Some(vec![(1 - r, 1 - r), (r - 1, 1 - r), (r - 1, r - 1), (1 - r, r - 1)]),
        3 => Some(vec![(0, -r - 1), (r + 1, 0), (0, r + 1), (-r - 1, 0)]),
        4 => Some(vec![(-r, -r), (r, -r), (0, r)]),
        _ => {
            let (a, b) = (r + 1, 2);
            let quarter = [(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b)];
            let half = [(b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b)];
            Some(quarter.into_iter().chain(half).collect())
        }
    }
}

/// Size of a figure of which two stand side by side.
pub(super) const HALF: (u32, u32) = (560, 340);
/// Size of a figure of which three do.
pub(super) const THIRD: (u32, u32) = (372, 270);

/// A figure of points and lines.
pub(super) fn plot(title: &str, size: (u32, u32), x: &Axis, y: &Axis, all: &[Series]) -> Result<Drawing, ReportError> {
    draw(title, size, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin_top(12)
            .margin_right(18)
            .margin_bottom(4)
            .margin_left(4)
            .x_label_area_size(44)
            .y_label_area_size(62)
            .build_cartesian_2d(x.scale.clone(), y.scale.clone())?;
        let font = ("sans-serif", TEXT * FONT).into_font().color(&INK);
        chart
            .configure_mesh()
            .bold_line_style(GRID)
            .max_light_lines(0)
            .axis_style(INK)
            .x_desc(&x.label)
            .y_desc(&y.label)
            .axis_desc_style(font.clone())
            .label_style(font)
            .x_label_formatter(&|value| x.scale.label(*value))
            .y_label_formatter(&|value| y.scale.label(*value))
            .draw()?;
        for one in all {
            let colour = series(one.style);
            let mut points: Vec<(f64, f64)> =
                one.points.iter().copied().filter(|&(x, y)| drawable(x) && drawable(y)).collect();
            if one.line {
                chart.draw_series([PathElement::new(points.clone(), colour.stroke_width(2))])?;
                // The mark at its end tells a line from others without colours.
                points.drain(..points.len().saturating_sub(1));
            }
            let points = points.into_iter();
            match outline(one.style) {
                None => chart.draw_series(points.map(|at| Circle::new(at, MARK, colour.filled())))?,
                Some(outline) => chart.draw_series(
                    points.map(|at| EmptyElement::at(at) + Polygon::new(outline.clone(), colour.filled())),
                )?,
            };
        }
        Ok(())
    })
}
