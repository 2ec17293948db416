use super::count::Sample;
use super::*;
use crate::commands::cost::text;

/// Prices of which each is another, so that no line can have another's.
fn prices() -> Prices {
    let mut prices = Prices::read(None).unwrap();
    prices.s3_put_per_1000 = 2.0;
    prices.s3_get_per_1000 = 3.0;
    prices.s3_gib_month = 5.0;
    prices.lambda_per_million = 7.0;
    prices.lambda_gib_second = 0.0;
    prices.gateway_per_million = 11.0;
    prices
}

async fn counted(rows: usize) -> Counted {
    let (source, name, queries) = reference(rows, 8, 4).await.unwrap();
    count(&source, &name, &queries, 50).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bill_is_counted_requests_times_prices() {
    let counted = counted(600).await;
    assert_eq!((counted.rows, counted.cold.calls, counted.rows_per_call), (600, 4, 50));
    let load = Workload { queries: 1_000_000, upserts: 1_000_000 };
    let prices = prices();
    let [cold, warm, upserts, idle, ticks] = &bills(&counted, load, &prices)[..] else { panic!() };

    let store = |io: &Io| (io.puts + io.lists) as f64 / 1e3 * 2.0 + io.gets as f64 / 1e3 * 3.0;
    let close = |is: f64, should: f64| assert!((is - should).abs() < 1e-9 * should.max(1.0), "{is} {should}");
    for (bill, sample) in [(cold, &counted.cold), (warm, &counted.warm)] {
        close(bill.usd, 11.0 + 7.0 + store(&sample.io) * 1e6 / 4.0);
    }
    // A call's body is below the 512 KiB that the gateway meters.
    let (writes, compactions) = (&counted.writes, &counted.compactions);
    let times = 1e6 / (50 * writes.calls) as f64;
    let calls = (writes.calls as f64 * 18.0 + compactions.calls as f64 * 7.0) * times / 1e6;
    close(upserts.usd, calls + (store(&writes.io) + store(&compactions.io)) * times);
    close(idle.usd, counted.stored_bytes as f64 / (1u64 << 30) as f64 * 5.0);
    close(ticks.usd, 60.0 * 7.0 / 1e6 + store(&counted.tick.io) * 30.0);
    for bill in [cold, warm, upserts, idle, ticks] {
        close(bill.usd, bill.lines.iter().map(|l| l.quantity / l.per * l.price).sum());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idling_costs_storage_alone() {
    let counted = counted(200).await;
    let bills = bills(&counted, Workload { queries: 0, upserts: 0 }, &Prices::read(None).unwrap());
    assert_eq!(bills[..3].iter().map(|b| b.usd).sum::<f64>(), 0.0);
    let items: Vec<&str> = bills[3].lines.iter().map(|l| l.item.as_str()).collect();
    assert_eq!(items, ["S3: storage"]);
    assert!(bills[3].usd > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_is_the_same_every_time() {
    // Bytes are not: times of day are in them.
    let requests = |s: &Sample| (s.calls, s.io.waves, s.io.gets, s.io.lists, s.io.puts);
    let of = |c: Counted| [c.cold, c.warm, c.writes, c.compactions, c.tick].map(|s| requests(&s));
    assert_eq!(of(counted(300).await), of(counted(300).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_asks_what_the_protocol_says() {
    let counted = counted(100).await;
    // One put of the slot and one read of the register each; marks by the first after a fold and each 16th; and the
    // manifest and head of the first write, which brings the columns.
    let (writes, compactions) = (&counted.writes, &counted.compactions);
    assert!(writes.io.gets >= writes.calls && writes.io.gets <= writes.calls + 8, "{writes:?}");
    assert_eq!(writes.io.puts, writes.calls + compactions.calls + 2, "{writes:?} {compactions:?}");
    assert!(counted.rows_compacted > 0 && counted.rows_compacted <= writes.calls * 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documentation_has_what_the_command_prints() {
    let (source, name, queries) = reference(REFERENCE_ROWS, REFERENCE_DIMENSION, QUERIES).await.unwrap();
    let counted = count(&source, &name, &queries, ROWS_PER_CALL).await.unwrap();
    let load = Workload { queries: 1_000_000, upserts: 1_000_000 };
    let prices = Prices::read(None).unwrap();
    let printed = text(&counted, &bills(&counted, load, &prices), &prices);
    let page = include_str!("../../../../docs/operations/cost.md");
    assert!(
        page.contains(&format!("$ esker cost\n{printed}\n```")),
        "docs/operations/cost.md should have\n{printed}"
    );
}

#[test]
fn prices_that_are_none_are_refused() {
    let mut prices = serde_json::to_value(Prices::read(None).unwrap()).unwrap();
    prices["s3_gib_month"] = serde_json::json!(-1.0);
    let e = Prices::parse(&prices.to_string(), "prices.json").unwrap_err();
    assert!(e.to_string().contains("-1 is no price"), "{e}");
    prices["s3_gib_month"] = serde_json::json!(1.0);
    prices["s3_gb_month"] = serde_json::json!(1.0);
    let e = Prices::parse(&prices.to_string(), "prices.json").unwrap_err();
    assert!(e.to_string().contains("s3_gb_month"), "{e}");
}
