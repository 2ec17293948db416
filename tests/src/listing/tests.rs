use super::*;

const KEYS: [&str; 6] = ["a", "b/1", "b/2", "b/c/3", "d", "e/4"];

fn cut(prefix: &str, delimiter: Option<&str>, after: Option<&str>, max: usize) -> Page {
    page(KEYS.into_iter(), prefix, delimiter, after, max)
}

#[test]
fn pages_follow_each_other_without_gap_or_overlap() {
    for delimiter in [None, Some("/")] {
        for max in 1..7 {
            let whole = cut("", delimiter, None, 100);
            let (mut keys, mut prefixes, mut after) = (vec![], vec![], None);
            loop {
                let page = cut("", delimiter, after.as_deref(), max);
                keys.extend(page.keys);
                prefixes.extend(page.prefixes);
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            assert_eq!((keys, prefixes), (whole.keys, whole.prefixes), "max {max}, delimiter {delimiter:?}");
        }
    }
}

#[test]
fn common_prefixes_are_counted_once() {
    let page = cut("b/", Some("/"), None, 100);
    assert_eq!(page.keys, ["b/1", "b/2"]);
    assert_eq!(page.prefixes, ["b/c/"]);
    assert_eq!(cut("", Some("/"), None, 2).next.as_deref(), Some("b/"));
}

#[test]
fn a_page_of_nothing_is_the_last() {
    assert_eq!(cut("", None, None, 0), Page::default());
    assert_eq!(cut("zz", None, None, 10), Page::default());
}
