//! Lines over two axes, as SVG that takes its colours from the page around it.

use std::fmt::Write;

/// How large a chart is, in points of the page: text keeps its size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    width: f64,
    height: f64,
}

/// As wide as the page.
pub const WIDE: Size = Size { width: 1020.0, height: 330.0 };

/// One of a few beside each other.
pub const SMALL: Size = Size { width: 340.0, height: 180.0 };

/// Room for the numbers of the axes.
const LEFT: f64 = 58.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 30.0;

/// Points with a mark each: more would hide the line.
const MARKED: usize = 24;

/// How numbers become places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from nought on.
    Linear,
    /// By their powers of ten.
    Logarithmic,
    /// Percentages, each nine as far from the one before: 90, 99, 99.9, …
    Nines,
}

/// A line.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it shows.
    pub name: String,
    /// Where it goes.
    pub points: Vec<(f64, f64)>,
}

/// An axis: its scale, and how a number on it is written.
pub struct Axis<'a> {
    /// How numbers become places.
    pub scale: Scale,
    /// How one is written.
    pub label: &'a dyn Fn(f64) -> String,
}

/// The chart; empty if there is nothing to show.
pub fn chart(Size { width, height }: Size, lines: &[Line], x: &Axis, y: &Axis) -> String {
    let drawn: Vec<&Line> = lines.iter().filter(|line| !line.points.is_empty()).collect();
    if drawn.is_empty() {
        return String::new();
    }
    let all = |of: fn(&(f64, f64)) -> f64| drawn.iter().flat_map(|line| &line.points).map(of).collect::<Vec<_>>();
    let across = Span::of(x.scale, &all(|point| point.0), LEFT, width - RIGHT);
    let up = Span::of(y.scale, &all(|point| point.1), height - BOTTOM, TOP);
    let mut svg = String::new();
    let _infallible = write!(
        svg,
        r#"<svg viewBox="0 0 {width} {height}" role="img" preserveAspectRatio="xMidYMid meet"><g class="grid">"#
    );
    for tick in up.ticks() {
        let (at, label) = (up.place(tick), (y.label)(tick));
        let _infallible = write!(
            svg,
            r#"<line x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{label}</text>"#,
            width - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
    }
    for tick in across.ticks() {
        let (at, label) = (across.place(tick), (x.label)(tick));
        let _infallible =
            write!(svg, r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#, height - BOTTOM + 20.0);
    }
    svg.push_str("</g>");
    for (number, line) in drawn.iter().enumerate() {
        draw(&mut svg, number, line, (&across, &up), (x, y));
        if drawn.len() == 1 {
            fill(&mut svg, line, (&across, &up), height - BOTTOM);
        }
    }
    svg.push_str("</svg>");
    svg
}

/// What is under the only line.
fn fill(svg: &mut String, line: &Line, (across, up): (&Span, &Span), floor: f64) {
    let (Some(first), Some(last)) = (line.points.first(), line.points.last()) else { return };
    let (from, to) = (across.place(first.0), across.place(last.0));
    let path = path(line, across, up);
    let _infallible = write!(svg, r#"<polygon class="fill c0" points="{from:.1},{floor} {path} {to:.1},{floor}"/>"#);
}

fn draw(svg: &mut String, number: usize, line: &Line, (across, up): (&Span, &Span), (x, y): (&Axis, &Axis)) {
    let colour = number % 6;
    let _infallible = write!(svg, r#"<polyline class="line c{colour}" points="{}"/>"#, path(line, across, up));
    if line.points.len() <= MARKED {
        for point in &line.points {
            let (name, at, value) = (escape(&line.name), (x.label)(point.0), (y.label)(point.1));
            let _infallible = write!(
                svg,
                r#"<circle class="mark c{colour}" cx="{:.1}" cy="{:.1}" r="3"><title>{name} {at}: {value}</title></circle>"#,
                across.place(point.0),
                up.place(point.1)
            );
        }
    }
}

fn path(line: &Line, across: &Span, up: &Span) -> String {
    let places = line.points.iter().map(|point| format!("{:.1},{:.1}", across.place(point.0), up.place(point.1)));
    places.collect::<Vec<_>>().join(" ")
}

/// Text that may stand anywhere in a page.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// Numbers from `low` to `high`, and the places they have on the page.
struct Span {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

/// What is not below one in ten thousand stands at the end of the nines.
const LAST_NINE: f64 = 99.999;

impl Span {
    fn of(scale: Scale, numbers: &[f64], from: f64, to: f64) -> Self {
        let (least, most) =
            numbers.iter().fold((f64::MAX, f64::MIN), |(least, most), number| (least.min(*number), most.max(*number)));
        let (low, high) = match scale {
            Scale::Linear => (least.min(0.0), if most > 0.0 { most * 1.05 } else { 1.0 }),
            // A decade at least, or equal numbers would have no place.
            Scale::Logarithmic => {
                let low = 10_f64.powf(least.max(1.0).log10().floor());
                (low, most.max(low * 10.0) * 1.1)
            }
            Scale::Nines => (0.0, 100.0),
        };
        Self { scale, low, high, from, to }
    }

    fn place(&self, number: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (number - self.low) / (self.high - self.low).max(f64::MIN_POSITIVE),
            Scale::Logarithmic => {
                let (low, high) = (self.low.log10(), self.high.log10());
                (number.max(self.low).log10() - low) / (high - low)
            }
            Scale::Nines if number > LAST_NINE => 1.0,
            // Five nines, and a place beyond them for the longest of all.
            Scale::Nines => -(1.0 - number / 100.0).log10() / 5.3,
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                // Few, or the numbers of a small chart would touch.
                let step = step(self.high - self.low);
                let mut ticks = vec![(self.low / step).ceil() * step];
                while let Some(next) = ticks.last().map(|last| last + step).filter(|next| *next <= self.high) {
                    ticks.push(next);
                }
                ticks
            }
            Scale::Logarithmic => {
                let mut ticks = vec![self.low];
                while let Some(next) = ticks.last().map(|last| last * 10.0).filter(|next| *next <= self.high) {
                    ticks.push(next);
                }
                ticks
            }
            Scale::Nines => vec![0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0],
        }
    }
}

/// A step of 1, 2 or 5 with its power of ten that divides a length into about four.
fn step(length: f64) -> f64 {
    let rough = (length / 4.0).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = rough / power;
    power
        * if factor < 1.5 {
            1.0
        } else if factor < 3.5 {
            2.0
        } else if factor < 7.5 {
            5.0
        } else {
            10.0
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(number: f64) -> String {
        number.to_string()
    }

    #[test]
    fn nines_are_equally_far_apart_and_the_longest_is_at_the_end() {
        let span = Span::of(Scale::Nines, &[0.0, 100.0], 0.0, 530.0);
        let places = [0.0, 90.0, 99.0, 99.9, 99.99, 100.0].map(|number| span.place(number).round());
        for (place, wanted) in places.into_iter().zip([0.0, 100.0, 200.0, 300.0, 400.0, 530.0]) {
            assert!((place - wanted).abs() < 1.0, "{place} in place of {wanted}");
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        for (high, wanted) in [(1.0, 0.2), (93.0, 20.0), (1234.0, 200.0), (0.004, 0.001), (160.0, 50.0)] {
            assert!((step(high) - wanted).abs() < wanted * 1e-6, "{} in place of {wanted}", step(high));
        }
        assert!(Span::of(Scale::Linear, &[0.0, 37.0], 0.0, 1.0).ticks().len() <= 8);
        let decades = Span::of(Scale::Logarithmic, &[350.0, 90_000.0], 0.0, 1.0).ticks();
        assert_eq!(decades.len(), 3, "{decades:?}");
    }

    #[test]
    fn a_chart_has_a_line_for_each_and_none_for_nothing() {
        let axis = Axis { scale: Scale::Linear, label: &plain };
        let line = |name: &str, points: &[(f64, f64)]| Line { name: name.to_owned(), points: points.to_vec() };
        let svg = chart(
            SMALL,
            &[line("a<b", &[(0.0, 1.0), (1.0, 2.0)]), line("c", &[(0.0, 0.0)]), line("d", &[])],
            &axis,
            &axis,
        );
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains("a&lt;b") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(chart(WIDE, &[], &axis, &axis), "");
    }

    #[test]
    fn equal_and_absent_numbers_have_a_place_too() {
        for scale in [Scale::Linear, Scale::Logarithmic, Scale::Nines] {
            for numbers in [&[0.0, 0.0][..], &[5.0], &[-3.0, 4.0]] {
                let span = Span::of(scale, numbers, 10.0, 20.0);
                let is_placed = |number: &f64| (10.0..=20.0).contains(&span.place(*number));
                assert!(numbers.iter().all(is_placed), "{scale:?} {numbers:?}");
            }
        }
    }
}
