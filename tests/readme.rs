//! What the pages for people tell them to type exists: verbs and their arguments, make's targets, files.

// decide/ has no environment; a test has.
#![allow(clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::process::Command;

const PAGES: [&str; 6] =
    ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/openldap.md", "docs/389ds.md", "docs/console.md"];
/// Folders of this tree: a word that begins with one is a file that must be there.
const FOLDERS: [&str; 6] = ["agent/", "config/", "docs/", "schemas/", "systemd/", "tests/"];

fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn page(name: &str) -> String {
    std::fs::read_to_string(repository(name)).unwrap()
}

/// Lines of code blocks, without comments, and spans of code in the text: all that looks like something to type.
fn code(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            let command = line.split(" # ").next().unwrap_or_default();
            found.extend(command.split(';').map(|part| part.trim().to_owned()));
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// The rest of what begins with this program, with or without sudo.
fn calls(pages: &[&str], program: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for name in pages {
        for line in code(&page(name)) {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let words = words.strip_prefix(&["sudo".to_owned()]).unwrap_or(&words);
            if let [first, rest @ ..] = words
                && first == program
            {
                found.push((format!("{name}: {line}"), rest.to_vec()));
            }
        }
    }
    found
}

#[test]
fn every_command_of_the_readme_is_one_that_the_program_knows() {
    let calls = calls(&["README.md", "docs/openldap.md", "docs/389ds.md", "docs/console.md"], "homeward");
    assert!(calls.len() > 20, "the pages still tell what to type: {calls:?}");
    for (line, arguments) in calls {
        // Arguments before --help must parse.
        let output = Command::new(env!("CARGO_BIN_EXE_homeward")).args(&arguments).arg("--help").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("Usage: homeward"),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn every_target_named_is_in_the_makefile() {
    let makefile = page("Makefile");
    let calls = calls(&PAGES, "make");
    assert!(calls.len() > 5, "{calls:?}");
    for (line, arguments) in calls {
        // `make` alone, too, is told.
        for target in arguments.iter().filter(|word| !word.contains('=')) {
            assert!(makefile.contains(&format!("\n{target}: ")), "{line}: no such target");
        }
    }
}

#[test]
fn every_target_of_the_makefile_tells_what_it_is_for() {
    let makefile = page("Makefile");
    let phony = makefile.lines().find_map(|line| line.strip_prefix(".PHONY: ")).unwrap();
    for target in phony.split_whitespace() {
        let line = makefile.lines().find(|line| line.starts_with(&format!("{target}:")));
        assert!(line.is_some_and(|line| line.contains(" ## ")), "{target}");
    }
}

#[test]
fn every_file_named_is_there() {
    for name in PAGES {
        let text = page(name);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let from = repository(name);
            let folder = from.parent().expect("a page is in a folder");
            assert!(folder.join(link).exists(), "{name}: {link}");
        }
        for line in code(&text) {
            for word in line.split_whitespace() {
                let word = word.trim_end_matches([',', '.']);
                if FOLDERS.iter().any(|folder| word.starts_with(folder)) && !word.contains('*') {
                    assert!(repository(word).exists(), "{name}: {word} in: {line}");
                }
            }
        }
    }
}
