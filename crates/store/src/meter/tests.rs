use super::*;

#[test]
fn waves_count_dependent_rounds() {
    let meter = Meter::recording();
    let a = meter.start(Method::Get, "a", None, 0);
    let b = meter.start(Method::List, "b/", None, 0);
    a.finish(10);
    // Started after `a` completed: it may depend on it, though `b` is still under way.
    let c = meter.start(Method::Get, "c", Some(0..5), 0);
    b.finish(0);
    c.finish(5);
    let d = meter.start(Method::Create, "d", None, 7);
    d.finish(0);
    let io = meter.io();
    assert_eq!((io.waves, io.gets, io.lists, io.puts), (3, 2, 1, 1));
    assert_eq!((io.bytes_read, io.bytes_written), (15, 7));
    let list: Vec<String> = meter.requests().iter().map(ToString::to_string).collect();
    assert_eq!(list, ["1 GET a", "1 LIST b/", "2 GET c 0..5", "3 CREATE d"]);
}

#[test]
fn a_request_given_up_makes_no_wave() {
    let meter = Meter::new();
    drop(meter.start(Method::Get, "hedge", None, 0));
    meter.start(Method::Get, "a", None, 0).finish(1);
    assert_eq!(meter.io().waves, 1);
    assert_eq!(meter.io().gets, 2);
    assert!(meter.requests().is_empty());
}

#[test]
fn prices_follow_the_list() {
    let io = Io { gets: 1000, puts: 1000, lists: 1000, deletes: 1000, ..Io::default() };
    assert!((io.usd() - 0.0104).abs() < 1e-12);
}

#[test]
fn forks_do_not_wait_for_each_other() {
    let meter = Meter::new();
    let (a, b) = (meter.fork(), meter.fork());
    a.start(Method::Get, "a", None, 0).finish(0);
    a.start(Method::Get, "a again", None, 0).finish(0);
    b.start(Method::Get, "b", None, 0).finish(0);
    assert_eq!(meter.io().waves, 2);
    meter.start(Method::Get, "c", None, 0).finish(0);
    assert_eq!((meter.io().waves, meter.io().gets), (3, 4));
}
