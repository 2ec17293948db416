//! The page's tables: request, kind, field, message, hint.

use std::fmt;

use esker_format::Error;

/// What stands in a cell that says nothing.
const NONE: &str = "–";

/// A line of a table.
#[derive(Debug, PartialEq)]
pub struct Row([String; 5]);

impl Row {
    /// The line that an answer makes.
    pub fn of(request: &str, answer: Result<String, Error>) -> Row {
        let text = |t: Option<&str>| t.unwrap_or(NONE).to_owned();
        let request = request.to_owned();
        Row(match answer {
            Ok(answer) => [request, "none".to_owned(), text(None), answer, text(None)],
            Err(e) => [request, e.kind().to_string(), text(e.field()), e.to_string(), text(e.hint())],
        })
    }

    /// The line with its answer written out.
    pub fn expanded(&self) -> Row {
        let [request, answer @ ..] = &self.0;
        let [kind, field, message, hint] = answer.each_ref().map(|cell| expand(cell));
        Row([request.clone(), kind, field, message, hint])
    }

    pub fn request(&self) -> &str {
        &self.0[0]
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [request, kind, field, message, hint] = &self.0;
        write!(f, "| `{request}` | {kind} | {field} | {message} | {hint} |")
    }
}

/// The lines of every table whose first column is `request`.
pub fn rows(page: &str) -> Vec<Row> {
    let (mut rows, mut inside) = (Vec::new(), false);
    for line in page.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        inside = line.starts_with('|') && (inside || cells[1] == "request");
        if !inside || cells[1] == "request" || cells[1].starts_with("---") {
            continue;
        }
        let [_, request, kind, field, message, hint, _] = cells[..] else {
            panic!("a line of the page has another number of cells: {line}");
        };
        let request = request.trim_matches('`');
        rows.push(Row([request, kind, field, message, hint].map(str::to_owned)));
    }
    rows
}

/// Writes out `⟪text⟫×n`: the text n times, `{i}` in it counting from 0.
pub fn expand(request: &str) -> String {
    let Some((before, rest)) = request.split_once('⟪') else { return request.to_owned() };
    let (text, rest) = rest.split_once("⟫×").expect("⟪ is followed by ⟫×");
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let count: usize = rest[..digits].parse().expect("× is followed by a number");
    let mut out = before.to_owned();
    if text.contains("{i}") {
        (0..count).for_each(|i| out.push_str(&text.replace("{i}", &i.to_string())));
    } else {
        out.push_str(&text.repeat(count));
    }
    out + &expand(&rest[digits..])
}
