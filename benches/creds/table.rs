//! The measurements as a table.

use std::fmt::Write;

use crate::load::Measured;
use crate::rig::{Engine, Role};

/// One turn.
pub struct Row {
    pub round: usize,
    pub engine: Engine,
    pub role: Role,
    pub clients: usize,
    pub measured: Measured,
}

/// Markdown: a line for each engine, role and number of clients; medians over the rounds.
pub fn print(what: &str, rows: &[Row]) -> String {
    let mut text = format!(
        "| role | clients | engine | {what} /s: median [min–max] | p50 ms | p99 ms | errors | CPU ms each: host / plugin / \
         database | rate, ours ÷ other: median [each round] |\n|---|---|---|---|---|---|---|---|---|\n"
    );
    let mut kinds: Vec<(Role, usize)> = Vec::new();
    for row in rows {
        if !kinds.contains(&(row.role, row.clients)) {
            kinds.push((row.role, row.clients));
        }
    }
    for (role, clients) in kinds {
        let of = |engine| {
            let mut turns: Vec<&Row> =
                rows.iter().filter(|r| (r.engine, r.role, r.clients) == (engine, role, clients)).collect();
            turns.sort_by_key(|row| row.round);
            turns.into_iter().map(|row| &row.measured).collect::<Vec<&Measured>>()
        };
        let ratios: Vec<f64> =
            of(Engine::Ours).iter().zip(of(Engine::Other)).map(|(ours, other)| ours.rate / other.rate).collect();
        for engine in Engine::BOTH {
            let turns = of(engine);
            let all = |value: fn(&Measured) -> f64| turns.iter().map(|turn| value(turn)).collect::<Vec<f64>>();
            let rates = all(|turn| turn.rate);
            let (least, most) = rates.iter().fold((f64::MAX, 0.0f64), |(l, m), &rate| (l.min(rate), m.max(rate)));
            let ratio = match engine {
                Engine::Other => String::new(),
                Engine::Ours => {
                    let each: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
                    format!("**{:.2}** [{}]", median(&ratios), each.join(", "))
                }
            };
            let _ = writeln!(
                text,
                "| {role} | {clients} | {engine} | {:.0} [{least:.0}–{most:.0}] | {} | {} | {} | {:.2} / {:.2} / {:.2} | \
                 {ratio} |",
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

fn or_dash(value: f64) -> String {
    if value.is_finite() { format!("{value:.1}") } else { "–".to_owned() }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}
