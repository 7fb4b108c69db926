//! The JSON Schemas in the repository are those of the types. After a change: `HOMEWARD_BLESS=1 cargo test --test schemas`.

#![allow(clippy::disallowed_methods)] // kept from decide only

use std::path::Path;

#[test]
fn the_committed_schemas_of_events_are_those_of_the_types() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/events");
    let schemas = homeward::queue::event::schemas();
    for (name, schema) in &schemas {
        same_as_committed(&directory.join(name), schema);
    }
    let committed = std::fs::read_dir(&directory).unwrap().count();
    assert_eq!(committed, schemas.len(), "{} holds a file that no type makes", directory.display());
}

fn same_as_committed(file: &Path, schema: &schemars::Schema) {
    let made = serde_json::to_string_pretty(schema).unwrap() + "\n";
    if std::env::var_os("HOMEWARD_BLESS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, &made).unwrap();
    }
    let committed = std::fs::read_to_string(file).unwrap_or_default();
    assert_eq!(
        committed,
        made,
        "{} differs from its type; look at the change, then: HOMEWARD_BLESS=1 cargo test --test schemas",
        file.display()
    );
}
