//! One picture of one or more runs: loss, learning rate, flips and zeros over steps.
//!
//! `.svg` and `.png` look the same and need no font of the system: letters are measured, and in PNG drawn, with a
//! font that is built into the program.

mod curves;

use std::ops::Range;
use std::path::{Path, PathBuf};

use bonsai_runtime::Error as RuntimeError;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

use crate::error::{Error, Result};
use curves::{Curve, Curves, smoothed};

const SIZE: (u32, u32) = (1200, 900);
const FONT: &str = "sans-serif";
const TEXT: RGBColor = RGBColor(51, 51, 51);
const AXIS: RGBColor = RGBColor(130, 130, 130);
const GRID: RGBColor = RGBColor(228, 228, 228);

/// Curves that can be told apart.
pub const MOST: usize = 7;

/// Okabe and Ito's palette without its yellow, which is hard to see on white: different for all kinds of eyes.
const PALETTE: [RGBColor; MOST] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// One of the curves of a run.
type Of = fn(&Curves) -> &Curve;

/// What a plotting backend may answer; the kinds of error differ by backend and only their text is of use.
type Drawn<T, B> = std::result::Result<T, DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// What a run is called beside its curve: the name of its directory, or of a metrics file of another name.
pub fn label(run: &Path) -> String {
    let named = match run.file_name() {
        Some(name) if name == crate::metrics::FILE => run.parent().and_then(Path::file_name),
        Some(name) if run.is_dir() => Some(name),
        _ => run.file_stem(),
    };
    named.unwrap_or(run.as_os_str()).to_string_lossy().into_owned()
}

/// Draws `runs` (label, and metrics.jsonl or run directory) over each other into `out`, a `.svg` or `.png` file.
pub fn plot(runs: &[(String, PathBuf)], out: &Path) -> Result<()> {
    let curves: Vec<Curves> =
        runs.iter().map(|(label, path)| Curves::read(label, path)).collect::<Result<_>>()?;
    if curves.is_empty() {
        return Err(Error::Config(
            "nothing to plot: name one or more metrics.jsonl files or run directories".into(),
        ));
    }
    // A second registration replaces the first by the same font.
    register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| failed(out, "the built-in font cannot be read"))?;
    match out.extension().and_then(|end| end.to_str()) {
        Some("svg") => {
            let mut svg = String::new();
            draw(SVGBackend::with_string(&mut svg, SIZE).into_drawing_area(), &curves)
                .map_err(|error| failed(out, error))?;
            Ok(std::fs::write(out, svg).map_err(RuntimeError::io(out))?)
        }
        Some("png") => draw(BitMapBackend::new(out, SIZE).into_drawing_area(), &curves)
            .map_err(|error| failed(out, error)),
        _ => Err(Error::Config(format!("{}: plots are written as .svg or .png, choose one", out.display()))),
    }
}

fn failed(out: &Path, error: impl std::fmt::Display) -> Error {
    Error::Data { path: out.to_path_buf(), message: format!("cannot draw: {error}") }
}

fn draw<B: DrawingBackend>(root: DrawingArea<B, Shift>, runs: &[Curves]) -> Drawn<(), B> {
    root.fill(&WHITE)?;
    let steps = steps(runs);
    let panels: [(&str, Of); 7] = [
        ("learning rate", |run| &run.rate),
        ("codes changed (%)", |run| &run.flips),
        ("zero weights (%)", |run| &run.zeros),
        ("gradient norm", |run| &run.gradients),
        ("move (scales)", |run| &run.way),
        ("scale / first scale", |run| &run.scales),
        ("divergence from teacher", |run| &run.divergence),
    ];
    let present: Vec<_> =
        panels.iter().filter(|(_, of)| runs.iter().any(|run| !of(run).is_empty())).collect();
    let (top, bottom) = root.split_vertically(match present.len() {
        0 => SIZE.1,
        1..5 => SIZE.1 * 64 / 100,
        _ => SIZE.1 * 50 / 100,
    });
    loss_panel(&top.margin(16, 8, 12, 24), runs, steps.clone())?;
    if !present.is_empty() {
        let rows = if present.len() > 4 { 2 } else { 1 };
        let areas = bottom.split_evenly((rows, present.len().div_ceil(rows)));
        for (area, (title, of)) in areas.iter().zip(present) {
            let lines: Vec<&Curve> = runs.iter().map(of).collect();
            small_panel(&area.margin(8, 12, 12, 24), title, &lines, steps.clone())?;
        }
    }
    root.present()
}

/// Loss: thin as measured, thick smoothed, points for validation.
fn loss_panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    runs: &[Curves],
    steps: Range<f64>,
) -> Drawn<(), B> {
    let range = loss_range(runs);
    let mut chart = ChartBuilder::on(area)
        .caption("loss (nats per token) over steps", (FONT, 22, &TEXT))
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d(steps, range.clone())?;
    mesh(&mut chart, 16, 10)?;
    for (run, color) in runs.iter().zip(PALETTE.iter().cycle()) {
        // A spike above the picture is drawn as high as the picture goes.
        let clip = |curve: &Curve| -> Curve {
            curve.iter().map(|&(step, loss)| (step, loss.min(range.end))).collect()
        };
        chart.draw_series(LineSeries::new(clip(&run.train), color.mix(0.3).stroke_width(1)))?;
        chart.draw_series(LineSeries::new(smoothed(&clip(&run.train)), color.stroke_width(3)))?;
        let dot = |point| {
            EmptyElement::at(point)
                + Circle::new((0, 0), 6, WHITE.filled())
                + Circle::new((0, 0), 5, color.filled())
        };
        let points = chart.draw_series(clip(&run.valid).into_iter().map(dot))?;
        points.label(&run.label).legend(move |(x, y)| {
            EmptyElement::at((x, y))
                + PathElement::new([(0, 0), (26, 0)], color.stroke_width(3))
                + Circle::new((13, 0), 5, color.filled())
        });
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .legend_area_size(34)
        .margin(14)
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .label_font((FONT, 17, &TEXT))
        .draw()
}

/// One quantity of all runs.
fn small_panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    title: &str,
    lines: &[&Curve],
    steps: Range<f64>,
) -> Drawn<(), B> {
    let values = lines.iter().flat_map(|line| line.iter().map(|point| point.1));
    let (low, high) =
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 18, &TEXT))
        .x_label_area_size(30)
        .y_label_area_size(64)
        .build_cartesian_2d(steps, padded(low, high))?;
    mesh(&mut chart, 14, 5)?;
    for (line, color) in lines.iter().zip(PALETTE.iter().cycle()) {
        chart.draw_series(LineSeries::new(line.iter().copied(), color.stroke_width(2)))?;
    }
    Ok(())
}

type Chart<'a, B> = ChartContext<
    'a,
    B,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn mesh<B: DrawingBackend>(chart: &mut Chart<'_, B>, letters: u32, labels: usize) -> Drawn<(), B> {
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(AXIS)
        .x_labels(labels)
        .y_labels(labels)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .label_style((FONT, letters, &TEXT))
        .draw()
}

/// A number as people write it on an axis: 1500, 2.5, 0.02, 3e-4.
fn short(value: f64) -> String {
    let size = value.abs();
    if size < 1e-12 {
        "0".into()
    } else if (1e-2..1e6).contains(&size) {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        let text = format!("{value:.1e}");
        text.replace(".0e", "e")
    }
}

fn steps(runs: &[Curves]) -> Range<f64> {
    let all = runs.iter().flat_map(|run| run.train.iter().chain(&run.valid)).map(|point| point.0);
    let (first, last) =
        all.fold((f64::MAX, f64::MIN), |(first, last), step| (first.min(step), last.max(step)));
    first..last.max(first + 1.0)
}

/// From the smallest loss to the largest that is not a rare spike.
fn loss_range(runs: &[Curves]) -> Range<f64> {
    let mut low = f64::MAX;
    let mut high = f64::MIN;
    for run in runs {
        let mut train: Vec<f64> = run.train.iter().map(|point| point.1).collect();
        train.sort_unstable_by(f64::total_cmp);
        let calm = train.get((train.len() * 199 / 200).saturating_sub(1)).copied();
        for value in run.valid.iter().map(|point| point.1).chain(train.first().copied()).chain(calm) {
            (low, high) = (low.min(value), high.max(value));
        }
    }
    padded(low, high)
}

fn padded(low: f64, high: f64) -> Range<f64> {
    let margin = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-9);
    low - margin..high + margin
}
