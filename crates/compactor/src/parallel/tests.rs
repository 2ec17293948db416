use esker_format::Error;

use super::*;

#[test]
fn items_are_seen_in_order_up_to_the_first_error() {
    for threads in [1, 2] {
        let mut seen = Vec::new();
        let items = (0..5).map(|i| if i == 3 { Err(Error::internal("the third")) } else { Ok(i) });
        let failed = ahead(threads, items, |i| {
            seen.push(i);
            Ok(())
        });
        assert!(failed.unwrap_err().to_string().contains("the third"));
        assert_eq!(seen, [0, 1, 2]);
        // Who does not want more does not get it.
        let mut seen = 0;
        let refused = ahead(threads, (0..).map(Ok), |i| {
            seen = i;
            if i == 7 { Err(Error::internal("enough")) } else { Ok(()) }
        });
        assert!(refused.is_err());
        assert_eq!(seen, 7);
    }
}
