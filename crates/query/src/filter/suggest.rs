//! "Did you mean": the nearest of the names that exist.

use datafusion::common::utils::datafusion_strsim::levenshtein;

/// A hint naming what `name` was probably meant to be, or, when nothing is near, some of what there is.
pub(crate) fn hint<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    let lower = name.to_lowercase();
    let nearest = known
        .iter()
        .map(|k| (levenshtein(&lower, &k.to_lowercase()), *k))
        .filter(|(distance, k)| *distance <= k.chars().count().min(name.chars().count()).div_ceil(3))
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
