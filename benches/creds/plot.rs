//! The measurements as pictures: SVG, written by hand.

use std::fmt::Write as _;

use crate::scale::Level;
use crate::table::Ratio;

const WIDTH: f64 = 860.0;
/// Where bars and lines begin.
const LEFT: f64 = 230.0;
const RIGHT: f64 = 70.0;
const LINE: f64 = 22.0;

fn begin(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n<text x=\"10\" y=\"20\" \
         font-size=\"14\">{title}</text>\n"
    )
}

/// Where a value stands on a logarithmic axis from `least` to `most`.
fn along(value: f64, least: f64, most: f64) -> f64 {
    let part = (value / least).ln() / (most / least).ln();
    LEFT + part.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
}

/// Ours beside the other: a bar for each kind, from 1 to the median, with the least and the most of all rounds.
pub fn ratios(ratios: &[Ratio]) -> String {
    let all = || ratios.iter().flat_map(|ratio| [ratio.least, ratio.most]).filter(|value| *value > 0.0);
    let least = all().fold(0.5_f64, f64::min);
    let most = all().fold(2.0_f64, f64::max);
    let height = 60.0 + LINE * ratios.len() as f64;
    let mut svg = begin(height, "Operations a second, ours ÷ other (medians; lines: all rounds; logarithmic)");
    for tick in [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0] {
        if (least..=most).contains(&tick) {
            let x = along(tick, least, most);
            let colour = if tick == 1.0 { "black" } else { "#ddd" };
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"42\" y2=\"{:.1}\" stroke=\"{colour}\"/><text x=\"{x:.1}\" y=\"38\" \
                 text-anchor=\"middle\" fill=\"#555\">{tick}</text>",
                height - 10.0
            );
        }
    }
    for (number, ratio) in ratios.iter().enumerate() {
        let y = 50.0 + LINE * number as f64;
        let (one, end) = (along(1.0, least, most), along(ratio.median, least, most));
        let (x, width) = (one.min(end), (end - one).abs());
        let colour = if ratio.median >= 1.0 { "#4a8" } else { "#c75" };
        let (from, to, middle) = (along(ratio.least, least, most), along(ratio.most, least, most), y + 7.0);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"14\" fill=\"{colour}\"/><line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" \
             stroke=\"black\"/><text x=\"{:.1}\" y=\"{:.1}\">{:.2}</text>",
            LEFT - 8.0,
            y + 11.0,
            ratio.what,
            to.max(end) + 6.0,
            y + 11.0,
            ratio.median
        );
    }
    svg + "</svg>\n"
}

/// One line of the curve: what it shows of a level.
type Value = fn(&Level) -> f64;

/// CPU time of plugin and database for each mint and revocation, by the number of users.
pub fn scale(curve: &[Level]) -> String {
    const HEIGHT: f64 = 340.0;
    const BOTTOM: f64 = 300.0;
    const TOP: f64 = 60.0;
    let users = |level: &Level| level.users.max(1) as f64;
    let first = curve.iter().map(users).fold(f64::MAX, f64::min);
    let last = curve.iter().map(users).fold(first * 10.0, f64::max);
    let lines: [(&str, &str, Value); 4] = [
        ("mint: database", "#27b", |level| level.mint.cpu[2]),
        ("mint: plugin", "#8bd", |level| level.mint.cpu[1]),
        ("revoke: database", "#b52", |level| level.revoke.cpu[2]),
        ("revoke: plugin", "#da8", |level| level.revoke.cpu[1]),
    ];
    let values = lines.iter().flat_map(|(.., value)| curve.iter().map(value)).filter(|value| value.is_finite());
    let most = values.fold(0.1_f64, f64::max);
    let up = |value: f64| BOTTOM - value / most * (BOTTOM - TOP);
    let mut svg = begin(HEIGHT, "CPU milliseconds each, by users in the database (one round of hashing)");
    for level in curve {
        let x = along(users(level), first, last);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\" stroke=\"#ddd\"/><text x=\"{x:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{}</text>",
            BOTTOM + 18.0,
            level.users
        );
    }
    for part in [0.0, 0.5, 1.0] {
        let y = up(most * part);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{:.2}</text>",
            LEFT - 12.0,
            y + 4.0,
            most * part
        );
    }
    for (number, (name, colour, value)) in lines.iter().enumerate() {
        let points: Vec<String> = curve
            .iter()
            .filter(|level| value(level).is_finite())
            .map(|level| format!("{:.1},{:.1}", along(users(level), first, last), up(value(level))))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"10\" y=\"{:.1}\" \
             fill=\"{colour}\">{name}</text>",
            points.join(" "),
            TOP + 20.0 * number as f64
        );
    }
    svg + "</svg>\n"
}
