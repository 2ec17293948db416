#![allow(clippy::disallowed_methods, reason = "writes files")]

use super::*;
use esker_store::seams::SystemRandom;

fn file() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    (dir, path)
}

fn make(path: &Path, name: &str, scope: Scope, only: Option<&[&str]>) -> String {
    let only = only.map(|names| names.iter().map(|n| Name::new(*n).unwrap()).collect());
    create(path, name, scope, only, &SystemRandom, 7).unwrap()
}

#[test]
fn a_key_is_found_by_itself_alone() {
    let (_dir, path) = file();
    let keys: Vec<String> = (0..5).map(|i| make(&path, &format!("k{i}"), Scope::Read, None)).collect();
    let ring = Ring::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (i, key) in keys.iter().enumerate() {
        assert!(key.starts_with("esk_") && key.len() == 4 + 43, "{key}");
        assert_eq!(ring.find(key).unwrap().name, format!("k{i}"));
        assert!(ring.find(&key[..key.len() - 1]).is_none());
    }
    assert!(ring.find("").is_none() && ring.find(&"x".repeat(10_000)).is_none());
}

#[test]
fn the_file_holds_no_key_and_is_its_owners_alone() {
    let (_dir, path) = file();
    let key = make(&path, "a", Scope::Admin, None);
    assert!(!std::fs::read_to_string(&path).unwrap().contains(&key[4..]));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
    }
}

#[test]
fn scopes_include_each_other_and_collections_limit() {
    assert!(Scope::Read < Scope::Write && Scope::Write < Scope::Admin);
    let (_dir, path) = file();
    let key = make(&path, "a", Scope::Write, Some(&["notes"]));
    let found = Keys::open(&path).unwrap().ring().find(&key).unwrap();
    assert!(found.reaches(Some("notes")) && !found.reaches(Some("other")) && !found.reaches(None));
}

#[test]
fn a_name_is_taken_once_and_revoked_once() {
    let (_dir, path) = file();
    let key = make(&path, "a", Scope::Read, None);
    make(&path, "b", Scope::Read, None);
    assert_eq!(create(&path, "a", Scope::Read, None, &SystemRandom, 0).unwrap_err().kind(), Kind::Conflict);
    assert!(create(&path, "a b", Scope::Read, None, &SystemRandom, 0).is_err());
    let keys = Keys::open(&path).unwrap();
    revoke(&path, "a").unwrap();
    keys.refresh();
    assert!(keys.ring().find(&key).is_none() && keys.ring().len() == 1);
    assert_eq!(revoke(&path, "a").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_broken_file_is_refused_by_line_and_leaves_the_old_keys() {
    let (_dir, path) = file();
    let key = make(&path, "a", Scope::Read, None);
    let keys = Keys::open(&path).unwrap();
    std::fs::write(&path, "{\"name\":\"a\"}\n").unwrap();
    keys.refresh();
    assert!(keys.ring().find(&key).is_some());
    assert!(Keys::open(&path).unwrap_err().to_string().contains("line 1"));
    std::fs::write(&path, "\n").unwrap();
    assert!(Keys::open(&path).unwrap_err().to_string().contains("holds no key"));
}
