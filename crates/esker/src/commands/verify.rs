//! `esker verify`.

use std::collections::BTreeMap;

use esker_format::{Error, Kind, Result};
use esker_store::Meter;
use serde_json::{Value, json};

use super::known;
use crate::args::Verify;
use crate::output::{Output, bytes, cost_line, count, plural};
use crate::progress::bar;
use crate::settings::{name, open_store};
use crate::verify::{self, Class, Finding, Options, Progress, Report, StoreReport, Sum};

pub async fn run(args: Verify, url: &str, output: &Output) -> Result<()> {
    let store = open_store(url, false)?;
    let (client, meter) = (store.client(), Meter::new());
    let clock = client.seams().clock.clone();
    let start = clock.elapsed();
    let options = Options { deep: args.deep };
    let bar = bar(output, "verifying", None);
    let listener = |p: Progress| {
        bar.set_message(p.stage);
        bar.set_length(p.total);
        bar.set_position(p.done);
    };
    let (value, text, findings) = match &args.collection {
        Some(collection) => {
            let name = name(collection)?;
            let resolved = verify::resolve(client, &meter, &name).await;
            let (id, of_name) = known(&store, &name, resolved).await?;
            let mut report = verify::collection(client, &meter, &id, options, &listener).await?;
            report.findings.splice(0..0, of_name);
            (json(&report), text(&report), report.count())
        }
        None => {
            let report = verify::store(client, &meter, options, &listener).await?;
            (store_json(&report), store_text(&report), report.count())
        }
    };
    bar.finish_and_clear();
    output.result(&value, || text);
    output.dim(cost_line(&meter.io(), (clock.elapsed() - start).as_secs_f64() * 1000.0));
    match findings {
        0 => Ok(()),
        n => Err(Error::new(Kind::Corrupt, format!("{} found", plural(n, "violation", "violations")))
            .with_hint("docs/operations/verify.md says what each invariant means and what to do")),
    }
}

fn by_class(classes: &BTreeMap<Class, Sum>, of: impl Fn(&Sum) -> u64) -> BTreeMap<&'static str, u64> {
    classes.iter().map(|(class, sum)| (class.as_str(), of(sum))).collect()
}

/// The report for programs.
fn json(r: &Report) -> Value {
    json!({
        "collection": r.collection, "version": r.version, "watermark": r.watermark, "last": r.last,
        "dropped": r.dropped, "objects": r.objects, "objects_by_class": by_class(&r.classes, |s| s.objects),
        "bytes": r.bytes, "bytes_by_class": by_class(&r.classes, |s| s.bytes), "rows": r.rows,
        "hashes": r.hashes, "restarts": r.restarts, "findings": r.findings, "more_findings": r.more,
    })
}

fn store_json(r: &StoreReport) -> Value {
    json!({
        "collections": r.collections.iter().map(json).collect::<Vec<_>>(),
        "objects_by_class": by_class(&r.classes, |s| s.objects),
        "bytes_by_class": by_class(&r.classes, |s| s.bytes), "findings": r.findings, "more_findings": r.more,
    })
}

fn text(r: &Report) -> String {
    let sound = if r.count() == 0 { "sound" } else { "CORRUPT" };
    let mut lines = vec![match r.dropped {
        true => format!("{}: {sound}, dropped by version {}", r.collection, r.version),
        false => format!(
            "{}: {sound} at version {}: {}, {} in segments and {} in log entries {} to {}",
            r.collection,
            r.version,
            plural(r.rows.live, "live row", "live rows"),
            count(r.rows.segments),
            count(r.rows.tail),
            r.watermark + 1,
            r.last
        )
        .replace(&format!(" in log entries {} to {}", r.watermark + 1, r.watermark), " in the log"),
    }];
    lines.extend(class_lines(&r.classes));
    lines.extend(finding_lines(&r.findings, r.more));
    lines.join("\n")
}

fn store_text(r: &StoreReport) -> String {
    let mut lines: Vec<String> = r.collections.iter().map(text).collect();
    lines.push("outside of collections".to_owned());
    lines.extend(class_lines(&r.classes));
    lines.extend(finding_lines(&r.findings, r.more));
    lines.join("\n")
}

fn class_lines(classes: &BTreeMap<Class, Sum>) -> impl Iterator<Item = String> {
    classes.iter().map(|(class, sum)| {
        let meaning = match class {
            Class::Garbage => ", waiting for a collection",
            Class::Orphan => ", under way or left over from a crash",
            _ => "",
        };
        let objects = plural(sum.objects, "object", "objects");
        format!("  {:9} {objects}, {}{meaning}", class.as_str(), bytes(sum.bytes))
    })
}

fn finding_lines(findings: &[Finding], more: u64) -> Vec<String> {
    let line = |f: &Finding| format!("  {}: {}: {}", f.invariant, f.object, f.message);
    let mut lines: Vec<String> = findings.iter().map(line).collect();
    if more > 0 {
        lines.push(format!("  and {} more of these", count(more)));
    }
    lines
}
