use super::*;

#[test]
fn a_collection_is_looked_at_again_while_versions_come_of_age() {
    let (start, retain) = (Duration::from_secs(1_000_000), Duration::from_secs(3600));
    let known = Known { version: 7, since: start, at: start, found: false };
    assert!(known.worth(7, start + retain, retain));
    let later = Known { at: start + retain + SELDOM, ..known };
    assert!(!later.worth(7, later.at + SELDOM, retain));
    assert!(later.worth(8, later.at + SELDOM, retain));
    assert!(later.worth(7, later.at + ANYWAY, retain));
    assert!(Known { found: true, ..later }.worth(7, later.at + SELDOM, retain));
}
