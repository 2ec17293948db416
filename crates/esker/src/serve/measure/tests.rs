use super::*;

/// The rows of a Markdown table, as cells.
fn table(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with("| `esker_"));
    rows.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

#[test]
fn the_documentation_lists_every_metric() {
    let text = include_str!("../../../../../docs/operations/metrics.md");
    let expected: Vec<Vec<String>> = METRICS
        .iter()
        .map(|(name, sort, labels, help)| {
            let sort = format!("{sort:?}").to_lowercase();
            vec![format!("`{name}`"), sort, (*labels).to_owned(), (*help).to_owned()]
        })
        .collect();
    assert_eq!(table(text), expected);
}

#[test]
fn what_the_code_counts_is_in_the_table() {
    let sources = [
        include_str!("../admission.rs"),
        include_str!("../background.rs"),
        include_str!("../guard.rs"),
        include_str!("../listen.rs"),
        include_str!("../measure.rs"),
        include_str!("../reply.rs"),
        include_str!("../routes.rs"),
    ];
    for source in sources {
        for call in source.split("!(\"esker_").skip(1) {
            let name = format!("esker_{}", call.split('"').next().unwrap());
            assert!(METRICS.iter().any(|(known, ..)| *known == name), "{name}");
        }
    }
}

#[test]
fn a_process_knows_its_memory() {
    assert!(!cfg!(target_os = "linux") || resident_bytes().unwrap() > 1 << 20);
}
