use super::*;

fn refused(text: &str) -> String {
    check("filter", text).expect_err(&text[..text.len().min(60)]).to_string()
}

#[test]
fn ordinary_text_passes() {
    check("filter", "a = 1 AND b BETWEEN 2 AND 3 OR NOT c IN (1, 2, 3)").unwrap();
    let vector = vec!["-0.125"; 1536].join(", ");
    check("query", &format!("SELECT id FROM t ORDER BY cosine_distance(vector, [{vector}]) LIMIT 10"))
        .unwrap();
    let ids = (0..5000).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    check("filter", &format!("a IN ({ids})")).unwrap();
}

#[test]
fn terms_are_counted_without_the_and_of_between() {
    let at_limit = vec!["a BETWEEN 1 AND 2"; limits::FILTER_TERMS].join(" AND ");
    check("filter", &at_limit).unwrap();
    assert_eq!(refused(&vec!["a = 1"; 300].join(" OR ")), "the filter has 300 terms, the limit is 256");
}

#[test]
fn every_way_to_grow_deep_is_counted() {
    assert!(refused(&format!("{}1{}", "(".repeat(40), ")".repeat(40))).contains("nested brackets"));
    assert!(refused(&"[".repeat(40)).contains("nested brackets"));
    for chain in
        ["1+", "1-", "a||", "a::int::", "NOT ", "- ", "a IS NULL = ", "x[1][1]", "a -> ", "a IN (1) = "]
    {
        let text = format!("{}1", chain.repeat(2_000));
        assert!(refused(&text).contains("operators"), "{chain}");
    }
    for chain in ["SELECT 1 UNION ALL ", "SELECT 1 FROM a JOIN b ON true JOIN ", "(SELECT 1), "] {
        assert!(refused(&format!("{}SELECT 1", chain.repeat(100))).contains("subqueries"), "{chain}");
    }
    assert!(refused(&format!("SELECT 1 FROM t{}", ", t".repeat(200))).contains("subqueries"));
    assert!(refused(&"x".repeat(70_000)).contains("bytes"));
}

#[test]
fn a_panic_on_the_big_stack_is_an_error() {
    let panicked: Result<()> = on_big_stack(|| panic!("as planned"));
    assert_eq!(panicked.unwrap_err().kind(), esker_format::Kind::Internal);
}
