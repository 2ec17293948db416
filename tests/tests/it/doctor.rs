//! `esker doctor` lets a good store pass and says of a bad one what is wrong with it.

use std::sync::Arc;

use esker_store::{Client, Location, Meter, Seams, StoreEnv, doctor};
use esker_tests::s3::{S3Options, S3Server, Weakness};

fn client(server: &S3Server) -> Client {
    let env: StoreEnv = server.env().into_iter().collect();
    let location = Location::parse(&server.url("store")).unwrap();
    Client::new(esker_store::open(&location, &env, true).unwrap(), Seams::system())
}

/// Text that the verdict must show for a store with this weakness.
fn named(weakness: Weakness) -> &'static str {
    match weakness {
        Weakness::NonAtomicCreate => "of 16 were told that they won",
        Weakness::IgnoreIfNoneMatch => "a create never replaces: a second create replaced the object",
        Weakness::CreateSaysCreated => "a create never replaces: a second create was answered as the first",
        Weakness::IgnoreIfMatch | Weakness::SameETag => {
            "an object was found by the tag of the one it replaced"
        }
        Weakness::ListedETagDiffers => "the tags of a read and of a listing differ",
        Weakness::StaleList => "0 of 1 objects just written were listed",
        Weakness::UnorderedList => "a page of five after 04 was 15, 16, 17, 18, 19",
        Weakness::IgnoreStartAfter => "a page of five after 04 was 00, 01, 02, 03, 04",
        Weakness::ListEndsEarly => "a page of five after 04 was 05, 06, 07, 08, 09 and said to be the last",
        Weakness::IgnoreRange => "ranges and suffixes are exact: GET doctor/",
        Weakness::IgnoreRangeOffset => "bytes 1000..5000 were others than written",
        Weakness::IgnoreSuffixRange => "ranges and suffixes are exact: GET doctor/",
        Weakness::StaleRead => {
            "a read sees what was written before it: a read brought the object that had been replaced"
        }
        Weakness::RemembersMissing => {
            "a read sees what was written before it: an object just written was still missing"
        }
        Weakness::StaleDelete => "a delete is seen at once: a deleted object was read",
        Weakness::MissingIsForbidden => "a missing object is reported missing: instead: GET doctor/",
        Weakness::MissingIsEmpty => {
            "a missing object is reported missing: something was read where nothing was written"
        }
    }
}

#[tokio::test]
async fn a_good_server_passes() {
    let server = S3Server::start(S3Options::default()).unwrap();
    let verdict = doctor::examine(&client(&server), &Meter::new()).await.unwrap();
    assert!(verdict.safe(), "{verdict:#?}");
    assert_eq!(server.world().keys("store/doctor/"), Vec::<String>::new());
}

#[tokio::test]
async fn every_weakness_is_named() {
    let judged = Weakness::ALL.map(async |weakness| {
        let server = S3Server::start(S3Options::default()).unwrap();
        server.weaken(weakness);
        let client = client(&server);
        let verdict = doctor::examine(&client, &Meter::new()).await.unwrap();
        let shown: Vec<String> = verdict.checks.iter().map(ToString::to_string).collect();
        assert!(!verdict.safe(), "{weakness:?} passed");
        assert!(shown.iter().any(|line| line.contains(named(weakness))), "{weakness:?}: {shown:#?}");
        (client, server)
    });
    futures::future::join_all(judged).await;
}

/// The verdict is recorded, and nothing is created where it was bad.
#[tokio::test]
async fn a_store_that_failed_is_refused() {
    let server = S3Server::start(S3Options::default()).unwrap();
    server.weaken(Weakness::IgnoreIfNoneMatch);
    let client = client(&server);
    doctor::examine(&client, &Meter::new()).await.unwrap();
    let store = Arc::new(esker_store::Store::new(client));
    let settings = esker_format::schema::Settings {
        dimension: 4,
        metric: esker_format::schema::Metric::L2,
        vector_type: esker_format::schema::VectorType::F32,
    };
    let name = esker_format::Name::new("notes").unwrap();
    let refused = store.create(&Meter::new(), &name, settings, Default::default()).await.unwrap_err();
    assert!(refused.to_string().contains("would lose writes: BROKEN"), "{refused}");
}
