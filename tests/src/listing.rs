//! One page of a sorted listing, as ListObjectsV2 defines it.

/// A page of keys. `next` is the last name given out, from which the following page starts; `None` on the last page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub keys: Vec<String>,
    pub prefixes: Vec<String>,
    pub next: Option<String>,
}

/// Cuts one page out of `keys`, which must be sorted by their bytes.
///
/// Keys that share what follows `prefix` up to and including `delimiter` are rolled up into one common prefix. Each
/// key or common prefix counts as one of `max`. `after` is exclusive, and skips what a common prefix named by it
/// stands for.
pub(crate) fn page<'a>(
    keys: impl Iterator<Item = &'a str>,
    prefix: &str,
    delimiter: Option<&str>,
    after: Option<&str>,
    max: usize,
) -> Page {
    let delimiter = delimiter.filter(|d| !d.is_empty());
    let mut page = Page::default();
    let mut last: Option<&str> = None;
    for key in keys.skip_while(|key| *key < prefix).take_while(|key| key.starts_with(prefix)) {
        let common = delimiter.and_then(|d| {
            let rest = &key[prefix.len()..];
            rest.find(d).map(|at| &key[..prefix.len() + at + d.len()])
        });
        let name = common.unwrap_or(key);
        if after.is_some_and(|after| name <= after) || last == Some(name) {
            continue;
        }
        if page.keys.len() + page.prefixes.len() == max {
            page.next = last.map(str::to_owned);
            return page;
        }
        match common {
            Some(common) => page.prefixes.push(common.to_owned()),
            None => page.keys.push(key.to_owned()),
        }
        last = Some(name);
    }
    page
}

#[cfg(test)]
mod tests;
