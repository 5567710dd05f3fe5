//! ARCHITECTURE.md beside the tree: whatever lies in a crate's `src` has its place in the table of rooms.

use std::path::Path;

#[test]
fn every_room_is_in_the_table() {
    let netsy = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = netsy.parent().and_then(Path::parent).unwrap();
    let page = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let table: String = page
        .lines()
        .skip_while(|line| !line.starts_with("| room |"))
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert!(table.len() > 1_000, "there is a table: {table}");
    let mut lost = Vec::new();
    for entry in std::fs::read_dir(netsy.join("src")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_there = if path.is_dir() {
            table.contains(&format!("`netsy/{name}`")) || table.contains(&format!("`{name}/`"))
        } else {
            name == "lib.rs" || table.contains(&format!("`{name}`"))
        };
        if !is_there {
            lost.push(name.to_owned());
        }
    }
    assert!(lost.is_empty(), "no room is named for {lost:?}");
}
