//! `esker gc`.

use esker_compactor::collect::{Progress, Stage};
use esker_compactor::work::lives;
use esker_compactor::{CollectOptions, Collected, Collector, Plan, Reason};
use esker_format::{CollectionId, Result};
use esker_store::Meter;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::known;
use crate::args::Gc;
use crate::output::{Output, bytes, cost_line, io_json, plural};
use crate::progress::bar;
use crate::settings::{name, open_store};

pub async fn run(args: Gc, url: &str, output: &Output) -> Result<()> {
    let collection = name(&args.collection)?;
    let store = open_store(url, false)?;
    let meter = Meter::new();
    let clock = store.client().seams().clock.clone();
    let start = clock.elapsed();
    let lives = known(&store, &collection, lives(&meter, &store, &collection).await).await?;
    let collector = Collector::new(CollectOptions { retain: args.retain, ..CollectOptions::default() });
    let mut done: Vec<(CollectionId, Value, String)> = Vec::new();
    for life in lives {
        let id = life.id().clone();
        let (value, text) = match args.run {
            false => {
                let plan = collector.plan(&meter, &life).await?;
                (json!(plan), plan_text(&plan, &id))
            }
            true => {
                let bar = bar(output, "collecting", None);
                let collected = collector.run(&meter, &life, &|p| show(&bar, p)).await;
                bar.finish_and_clear();
                let collected = collected?;
                (json!(collected), collected_text(&collected, &id))
            }
        };
        done.push((id, value, text));
    }
    let of_each = |(id, mut value, _): (CollectionId, Value, String)| {
        value["id"] = json!(id.to_string());
        value
    };
    let text: Vec<String> = done.iter().map(|(_, _, text)| text.clone()).collect();
    let value = json!({
        "collection": collection,
        "run": args.run,
        "lives": done.into_iter().map(of_each).collect::<Vec<_>>(),
        "io": io_json(&meter.io()),
    });
    output.result(&value, || text.join("\n"));
    if !args.run {
        output.dim("nothing was deleted; `--run` does it. Ages are by this machine's clock here, by the store's then");
    }
    output.dim(cost_line(&meter.io(), (clock.elapsed() - start).as_secs_f64() * 1000.0));
    Ok(())
}

fn show(bar: &ProgressBar, p: Progress) {
    bar.set_message(match p.stage {
        Stage::Look => "looking",
        Stage::Wait => "waiting",
        Stage::Delete => "deleting",
    });
    bar.set_length(p.total);
    bar.set_position(p.done);
}

/// A line per object with its reason, then the totals.
fn plan_text(plan: &Plan, id: &CollectionId) -> String {
    let mut lines: Vec<String> =
        plan.items.iter().map(|i| format!("{} ({}): {}", i.key, bytes(i.bytes), i.reason)).collect();
    if !plan.pinned.is_empty() {
        let versions: Vec<String> = plan.pinned.iter().map(ToString::to_string).collect();
        lines.push(format!("{id}: pinned: {}", versions.join(", ")));
    }
    let stubs = plan.items.iter().filter(|i| matches!(i.reason, Reason::Version { .. })).count();
    lines.push(match plan.items.is_empty() {
        true => format!("{id}: nothing to collect at version {}", plan.version),
        false => format!(
            "{id}: {} to delete, {} to become {}, {} in all{}",
            objects(plan.items.len() - stubs),
            plural(stubs as u64, "version", "versions"),
            if stubs == 1 { "a stub" } else { "stubs" },
            bytes(plan.bytes),
            if plan.raises { floors(&plan.floors) } else { String::new() }
        ),
    });
    lines.join("\n")
}

fn collected_text(done: &Collected, id: &CollectionId) -> String {
    format!(
        "{id}: deleted {}, {} became {}, {} in all{} (manifest {})",
        objects(done.deleted as usize),
        plural(done.stubbed, "version", "versions"),
        if done.stubbed == 1 { "a stub" } else { "stubs" },
        bytes(done.bytes),
        if done.committed { floors(&done.floors) } else { String::new() },
        done.version
    )
}

fn objects(n: usize) -> String {
    plural(n as u64, "object", "objects")
}

fn floors(f: &esker_format::manifest::Floors) -> String {
    format!("; floors: log {}, uploads {}, versions {}", f.wal, f.base, f.version)
}
