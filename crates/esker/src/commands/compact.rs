//! `esker compact`.

use esker_compactor::{Progress, Report, Stage};
use esker_format::{Name, Result};
use esker_store::{Meter, Store};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::known;
use crate::output::{Output, bytes, cost_line, io_json, plural};
use crate::progress::bar;
use crate::settings::{Resources, name};

pub async fn run(collection: &str, url: &str, resources: &Resources, output: &Output) -> Result<()> {
    let collection = name(collection)?;
    let store = resources.open_store(url, false)?;
    let meter = Meter::new();
    let clock = store.client().seams().clock.clone();
    let start = clock.elapsed();
    let report = fold(&store, &meter, &collection, resources, output).await;
    let report = known(&store, &collection, report).await?;
    let ms = (clock.elapsed() - start).as_secs_f64() * 1000.0;
    let mut value = report_json(&report);
    value["collection"] = json!(collection);
    value["took_ms"] = json!(ms);
    output.result(&value, || text(&report, &collection));
    output.dim(cost_line(&report.io, ms));
    Ok(())
}

/// Compacts, with a progress bar.
pub async fn fold(
    store: &Store,
    meter: &Meter,
    collection: &Name,
    resources: &Resources,
    output: &Output,
) -> Result<Report> {
    let handle = store.collection(meter, collection).await?;
    let bar = bar(output, "compacting", None);
    let report = resources.compactor().compact(meter, &handle, &|p| show(&bar, p)).await;
    bar.finish_and_clear();
    report
}

fn show(bar: &ProgressBar, p: Progress) {
    bar.set_message(match p.stage {
        Stage::Read => "reading",
        Stage::Build => "building",
        Stage::Upload => "uploading",
        Stage::Commit => "committing",
    });
    bar.set_length(p.total);
    bar.set_position(p.done);
}

/// `folded 440 rows of 1 log entry; 1 segment with 440 rows, 512 kB written`.
pub fn text(report: &Report, collection: &Name) -> String {
    if !report.committed {
        return format!(
            "nothing to do: {collection} has {} and no log above them",
            segments(report.segments_out)
        );
    }
    let mut parts = vec![format!(
        "folded {} of {}",
        plural(report.folded_rows + report.tombstones, "row", "rows"),
        plural(report.folded_entries, "log entry", "log entries")
    )];
    if report.merged > 0 {
        let copied = match report.copied {
            0 => String::new(),
            n => format!(" and copied the codes of {}", plural(n, "row", "rows")),
        };
        parts.push(format!("rewrote {}{copied}", segments(report.merged)));
    }
    if report.marked > 0 {
        parts.push(format!("marked {} of older segments", plural(report.marked, "row", "rows")));
    }
    format!(
        "{}: {collection} has {} in {} now, {} written (manifest {})",
        parts.join(", "),
        plural(report.live_rows, "row", "rows"),
        segments(report.segments_out),
        bytes(report.bytes_written),
        report.version
    )
}

fn segments(n: usize) -> String {
    plural(n as u64, "segment", "segments")
}

/// The report for programs.
pub fn report_json(r: &Report) -> Value {
    json!({
        "version": r.version, "committed": r.committed, "folded_entries": r.folded_entries,
        "folded_rows": r.folded_rows, "tombstones": r.tombstones, "segments_in": r.segments_in,
        "segments_out": r.segments_out, "merged": r.merged, "rows": r.rows,
        "copied": r.copied, "encoded": r.encoded, "marked": r.marked, "pruned": r.pruned,
        "expired": r.expired, "bytes_written": r.bytes_written, "live_rows": r.live_rows, "io": io_json(&r.io),
    })
}
