//! Data on stdout, talk on stderr.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use arrow::temporal_conversions::timestamp_ms_to_datetime;
use comfy_table::{ContentArrangement, Table, TableComponent, presets};
use esker_format::Error;
use esker_store::Io;
use serde::Serialize;

use crate::args::Format;

/// Where a command's results and its talk go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    format: Format,
    /// stderr is a terminal: progress bars and dim lines.
    pub terminal: bool,
}

impl Output {
    /// Output in a format.
    pub fn new(format: Format) -> Self {
        Output { format, terminal: std::io::stderr().is_terminal() }
    }

    /// Whether results are printed as JSON.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// A result: `text` for people, `value` for programs.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) {
        match self.format {
            Format::Text => self.data(&text()),
            Format::Json => self.data(&serde_json::to_string(value).unwrap_or_else(|e| format!("\"{e}\""))),
        }
    }

    /// One line (or more) of data. A reader that went away is not our error.
    pub fn data(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{}", text.trim_end_matches('\n'));
        let _ = out.flush();
    }

    /// Data as it is, in pieces: whether there is still somebody who reads it.
    pub fn piece(&self, bytes: &[u8]) -> bool {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).is_ok()
    }

    /// A line of talk.
    pub fn say(&self, text: impl Display) {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    /// A line of talk that matters less.
    pub fn dim(&self, text: impl Display) {
        match self.terminal {
            true => self.say(format_args!("\x1b[2m{text}\x1b[0m")),
            false => self.say(text),
        }
    }

    /// An error with its hint; for programs, the object of WIRE §4 on stderr.
    pub fn error(&self, e: &Error) {
        if self.is_json() {
            let error = serde_json::json!({"error": {
                "kind": e.kind(), "message": e.to_string(), "field": e.field(), "hint": e.hint(),
                "token": e.token(),
            }});
            return self.say(error);
        }
        let message = e.to_string();
        let field = e.field().filter(|f| !message.contains(f)).map(|f| format!(" ({f})")).unwrap_or_default();
        self.say(format_args!("error: {message}{field}"));
        let mut source = std::error::Error::source(e);
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.contains(&text) {
                self.say(format_args!("  because: {text}"));
            }
            source = cause.source();
        }
        if let Some(token) = e.token() {
            self.say(format_args!("token: {token}"));
        }
        if let Some(hint) = e.hint() {
            self.say(format_args!("hint: {hint}"));
        }
    }
}

/// A table for people.
pub fn table(heading: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table
        .set_style(TableComponent::HeaderLines, '─')
        .set_style(TableComponent::MiddleHeaderIntersections, '─');
    if !std::io::stdout().is_terminal() {
        table.set_width(120);
    }
    table.set_header(heading.iter().copied());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// The table without blanks at the ends of its lines.
pub fn table_text(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `12,345`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 row`, `2 rows`.
pub fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// `2.9 MB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{n} B"),
        _ if value < 10.0 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// `3 waves · 41 GETs · 2.9 MB · 162 ms · $0.000021`.
pub fn cost_line(io: &Io, ms: f64) -> String {
    let mut line =
        format!("{} · {}", plural(u64::from(io.waves), "wave", "waves"), plural(io.gets, "GET", "GETs"));
    if io.puts > 0 {
        line.push_str(&format!(" · {}", plural(io.puts, "PUT", "PUTs")));
    }
    line.push_str(&format!(" · {} · {ms:.0} ms · ${:.6}", bytes(io.bytes_read + io.bytes_written), io.usd()));
    if io.cache_hit_bytes > 0 {
        line.push_str(&format!(" · {} from cache", bytes(io.cache_hit_bytes)));
    }
    line
}

/// `2026-11-21 16:28:16.569 UTC`.
pub fn time(ms: i64) -> String {
    timestamp_ms_to_datetime(ms).map_or_else(|| format!("{ms} ms"), |t| format!("{t} UTC"))
}

/// What `io` was, for programs.
pub fn io_json(io: &Io) -> serde_json::Value {
    serde_json::json!({
        "waves": io.waves, "gets": io.gets, "lists": io.lists, "puts": io.puts, "bytes": io.bytes_read,
        "bytes_written": io.bytes_written,
        "cache_hit_bytes": io.cache_hit_bytes, "usd": io.usd(),
    })
}
