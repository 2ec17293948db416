//! "Did you mean": the nearest of the names that exist.

use datafusion::common::utils::datafusion_strsim::levenshtein;

/// A hint naming what `name` was probably meant to be, or, when nothing is near, some of what there is.
pub(crate) fn hint<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    let lower = name.to_lowercase();
    let length = lower.chars().count();
    let nearest = known
        .iter()
        .filter_map(|k| {
            let (known, own) = (k.to_lowercase(), k.chars().count());
            let most = own.min(length).div_ceil(3);
            // So far apart by their lengths alone, and a name may be as long as a request.
            let near = known.chars().count().abs_diff(length) <= most;
            near.then(|| (levenshtein(&lower, &known), *k)).filter(|(distance, _)| *distance <= most)
        })
        .min();
    if let Some((_, k)) = nearest {
        return Some(format!("did you mean `{k}`?"));
    }
    /// Names listed when none is near.
    const LISTED: usize = 16;
    let (shown, more) = (known.iter().take(LISTED).copied().collect::<Vec<_>>(), known.len() > LISTED);
    (!shown.is_empty()).then(|| format!("{what}: {}{}", shown.join(", "), if more { ", …" } else { "" }))
}

/// The name as SQL spells it: quoted unless it is a plain word.
pub(crate) fn ident(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}
