//! The pictures of the documentation are what their sources say, and are shown somewhere.

use std::process::Command;

use crate::support::repository;

#[test]
fn pictures_are_what_their_sources_say_and_are_shown() {
    let checked = Command::new(repository().join("scripts/pictures")).arg("--check").output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let read = |file: &str| std::fs::read_to_string(repository().join(file)).unwrap();
    let pages: String = ["README.md", "CONTRIBUTING.md", "docs/operators.md", "docs/jit.md"].map(read).concat();
    let mut pictures = 0;
    for entry in std::fs::read_dir(repository().join("docs/pictures")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".svg") {
            assert!(pages.contains(&format!("pictures/{name})")), "{name} is shown nowhere");
            pictures += 1;
        }
    }
    assert!(pictures >= 3);
}
