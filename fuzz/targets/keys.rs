//! Keys, names and ids: what parses is written the same way.
#![no_main]

use esker_format::id::{CollectionId, Name, Token};
use esker_format::keys::{Key, descending, parse_descending};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    esker_fuzz::bounded(data.len(), || {
        Key::parse(text).ok();
        if let Some(n) = parse_descending(text) {
            assert_eq!(descending(n), text);
        }
        if let Ok(name) = Name::new(text) {
            assert_eq!(name.as_str(), text);
        }
        if let Ok(id) = text.parse::<CollectionId>() {
            assert_eq!(id.to_string(), text);
        }
        if let Ok(token) = text.parse::<Token>() {
            assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
        }
    });
});
