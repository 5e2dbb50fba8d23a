//! Texts that would like to be SQL.

use crate::support::random::Random;

/// What hostile texts are made of.
const PIECES: &[&str] = &[
    "'",
    "''",
    "\"",
    "\"\"",
    "`",
    "``",
    "\\",
    "\\\\",
    "\\'",
    "\\\"",
    "$",
    "$$",
    "$a$",
    "$tag$",
    ";",
    "; ",
    "--",
    "-- ",
    "#",
    "/*",
    "*/",
    "/*!",
    "/*M!",
    "*/ ",
    "(",
    ")",
    "E'",
    "U&\"",
    "N'",
    "x'00'",
    "{{name}}",
    "{{username}}",
    "{{password}}",
    "{{expiration}}",
    "{{host}}",
    "%",
    "%I",
    "%s",
    "_",
    "?",
    "$1",
    ":a",
    "@",
    "@'%'",
    "@@version",
    " ",
    "\t",
    "\n",
    "\r\n",
    "\u{b}",
    "\u{a0}",
    "\u{2019}",
    "\u{ff07}",
    "\u{2bc}",
    "\u{202e}",
    "\u{200f}",
    "\u{2066}",
    "\u{200b}",
    "\u{feff}",
    "é",
    "e\u{301}",
    "ß",
    "İ",
    "\u{1f600}",
    "\u{10fffd}",
    "\u{1}",
    "\u{7f}",
    "\u{85}",
    "\u{2028}",
    "DROP TABLE canary",
    "DROP ROLE x",
    "CREATE ROLE x SUPERUSER",
    "SUPERUSER",
    "OR 1=1",
    "COMMIT",
    "ROLLBACK",
    "END",
    "NULL",
    "DEFAULT",
    "PUBLIC",
    "CURRENT_USER",
    "root",
    "x",
];

/// Complete attempts.
const ATTEMPTS: &[&str] = &[
    "x\" SUPERUSER; DROP TABLE canary; --",
    "x'; DROP TABLE canary; --",
    "x\\'; DROP TABLE canary; --",
    "x\\\"; DROP TABLE canary; --",
    "x' || (SELECT 1) || '",
    "x$$; DROP TABLE canary; $$",
    "x*/; DROP TABLE canary; /*",
    "x\n; DROP TABLE canary\n",
    "x'@'%' IDENTIFIED BY 'y'; DROP TABLE app.canary; #",
    "x'@'localhost",
    "x` WITH GRANT OPTION; -- ",
    "\\",
    "'",
    "\"",
    "$$",
    "--",
    "x\\",
    "x'\\",
    "\u{202e}\u{2067}x\u{1f600}'",
    "{{password}}'; DROP TABLE canary; --",
    "x\0'; DROP TABLE canary; --",
];

/// Texts of at most `longest` bytes, each ending in `~`, so that none is a plain word: the complete attempts, and `random`
/// more of pieces. The seed is printed; `HOSTILE_SEED` sets it.
pub fn texts(longest: usize, random: usize) -> Vec<String> {
    let seed = std::env::var("HOSTILE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) ^ 0x5eed);
    eprintln!("HOSTILE_SEED={seed}");
    let mut source = Random::new(seed);
    let mut piece = || PIECES[source.below(PIECES.len() as u64) as usize];
    let mut all: Vec<String> = ATTEMPTS.iter().map(|&text| text.to_owned()).collect();
    for number in 0..random {
        let mut text = String::new();
        for _ in 0..=number % 12 {
            let next = piece();
            if text.len() + next.len() < longest {
                text.push_str(next);
            }
        }
        all.push(text);
    }
    all.iter_mut().for_each(|text| text.push('~'));
    all.retain(|text| text.len() <= longest);
    all.sort();
    all.dedup();
    all
}
