//! The measurements as tables.

use std::fmt::{self, Write as _};

use crate::load::Measured;
use crate::rig::{Engine, Role};

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Engine(Engine),
    /// Nobody in between.
    Sql,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Engine(engine) => engine.fmt(f),
            Who::Sql => f.pad("direct SQL"),
        }
    }
}

/// One turn.
pub struct Row {
    /// What was done: a line above the table.
    pub what: String,
    pub round: usize,
    pub who: Who,
    pub role: Role,
    pub clients: usize,
    pub measured: Measured,
}

/// Ours beside the other, of one kind.
pub struct Ratio {
    pub what: String,
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

type Kind<'a> = (&'a str, Role, usize);

fn kinds(rows: &[Row]) -> Vec<Kind<'_>> {
    let mut kinds: Vec<Kind<'_>> = Vec::new();
    for row in rows {
        let kind = (row.what.as_str(), row.role, row.clients);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

/// The turns of one kind, by round.
fn turns<'a>(rows: &'a [Row], kind: Kind<'_>, who: Who) -> Vec<&'a Measured> {
    let mut turns: Vec<&Row> = rows
        .iter()
        .filter(|row| (row.what.as_str(), row.role, row.clients, row.who) == (kind.0, kind.1, kind.2, who))
        .collect();
    turns.sort_by_key(|row| row.round);
    turns.into_iter().map(|row| &row.measured).collect()
}

fn each_ratio(rows: &[Row], kind: Kind<'_>) -> Vec<f64> {
    let of = |engine| turns(rows, kind, Who::Engine(engine));
    of(Engine::Ours).iter().zip(of(Engine::Other)).map(|(ours, other)| ours.rate / other.rate).collect()
}

/// Markdown: a table for each thing that was done, a line for each who, role and number of clients; medians over the rounds.
pub fn print(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut what = "";
    for kind in kinds(rows) {
        if kind.0 != what {
            what = kind.0;
            let _ = write!(
                text,
                "\n| role | clients | who | {what} /s: median [min–max] | p50 ms | p99 ms | errors | CPU ms each: host / plugin / \
                 database | rate, ours ÷ other: median [each round] |\n|---|---|---|---|---|---|---|---|---|\n"
            );
        }
        let ratios = each_ratio(rows, kind);
        for who in [Who::Engine(Engine::Other), Who::Engine(Engine::Ours), Who::Sql] {
            let turns = turns(rows, kind, who);
            if turns.is_empty() {
                continue;
            }
            let all = |value: fn(&Measured) -> f64| turns.iter().map(|turn| value(turn)).collect::<Vec<f64>>();
            let rates = all(|turn| turn.rate);
            let (least, most) = bounds(&rates);
            let ratio = if who == Who::Engine(Engine::Ours) && !ratios.is_empty() {
                let each: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
                format!("**{:.2}** [{}]", median(&ratios), each.join(", "))
            } else {
                String::new()
            };
            let _ = writeln!(
                text,
                "| {} | {} | {who} | {:.0} [{least:.0}–{most:.0}] | {} | {} | {} | {:.2} / {:.2} / {:.2} | {ratio} |",
                kind.1,
                kind.2,
                median(&rates),
                or_dash(median(&all(|turn| turn.p50))),
                or_dash(median(&all(|turn| turn.p99))),
                turns.iter().map(|turn| turn.errors).sum::<usize>(),
                median(&all(|turn| turn.cpu[0])),
                median(&all(|turn| turn.cpu[1])),
                median(&all(|turn| turn.cpu[2])),
            );
        }
    }
    text
}

/// For the picture.
pub fn ratios(rows: &[Row]) -> Vec<Ratio> {
    let of = |kind: Kind<'_>| {
        let each = each_ratio(rows, kind);
        let (least, most) = bounds(&each);
        let (what, role, clients) = kind;
        (!each.is_empty()).then(|| Ratio {
            what: format!("{what}, {role}, {clients}"),
            median: median(&each),
            least,
            most,
        })
    };
    kinds(rows).into_iter().filter_map(of).collect()
}

fn bounds(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::MAX, 0.0f64), |(least, most), &value| (least.min(value), most.max(value)))
}

fn or_dash(value: f64) -> String {
    if value.is_finite() { format!("{value:.1}") } else { "–".to_owned() }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}
