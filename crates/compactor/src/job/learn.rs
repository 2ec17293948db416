//! The leaves of a job: trained on a sample, improved by one pass over the rows, every one of them.

use esker_format::Error;
use esker_index::{Leaves, Moments, Training};

use super::bench::{Bench, Stop};
use super::pack::{Pack, Unpack};
use super::sources::Sources;
use crate::build::units::Frame;
use crate::compact::blocking;

/// Row groups whose sums are kept together: sums are as large as a third of a row group's vectors.
const KEPT_TOGETHER: usize = 8;

pub(super) async fn leaves(
    bench: &mut Bench<'_>,
    sources: &Sources<'_>,
    frame: &Frame<'_>,
) -> Result<Leaves, Stop> {
    if let Some(kept) = bench.load("leaves").await? {
        return Ok(blocking(|| unpacked(kept, frame))?);
    }
    let training = trained(bench, sources, frame).await?;
    bench.stage = "refine";
    let leaves = blocking(|| frame.leaves(training.centroids, Vec::new()));
    let (mut moments, mut done) = match bench.last("refine") {
        None => (Moments::new(&leaves), 0),
        Some(done) => {
            let mut kept = bench.load_last("refine", done).await?;
            let moments = Moments::from_parts(&leaves, kept.numbers()?, kept.numbers()?);
            (moments.ok_or_else(|| Error::corrupt(kept.key(), "it has the sums of other leaves"))?, done)
        }
    };
    let mut kept = done;
    while done < sources.groups.len() {
        let turn = bench.turn();
        if turn.is_err() || done == kept + KEPT_TOGETHER {
            if done > kept {
                let (sums, counts) = moments.parts();
                bench.keep(&format!("refine-{done}"), Pack::default().numbers(sums).numbers(counts)).await?;
                kept = done;
            }
            turn?;
        }
        let batch = sources.vectors(bench.meter, sources.groups[done]).await?;
        blocking(|| {
            frame.note(&leaves, &frame.floats(&batch)?, &mut moments);
            Ok::<_, Error>(())
        })?;
        done += 1;
    }
    let refined = blocking(|| frame.refined(leaves, &moments));
    let pack = Pack::default().numbers(refined.centroids()).numbers(refined.expected());
    let kept = bench.keep("leaves", pack).await?;
    Ok(blocking(|| unpacked(kept, frame))?)
}

fn unpacked(mut kept: Unpack, frame: &Frame<'_>) -> Result<Leaves, Error> {
    let (centroids, counts): (Vec<f32>, Vec<u64>) = (kept.numbers()?, kept.numbers()?);
    match centroids.len() == counts.len() * frame.dimension() && !counts.is_empty() {
        true => Ok(frame.leaves(centroids, counts)),
        false => Err(Error::corrupt(kept.key(), "it has no leaves, or other counts than leaves")),
    }
}

async fn trained(bench: &mut Bench<'_>, sources: &Sources<'_>, frame: &Frame<'_>) -> Result<Training, Stop> {
    let mut training = None;
    if let Some(rounds) = bench.last("train") {
        let mut kept = bench.load_last("train", rounds).await?;
        let found = Training { centroids: kept.numbers()?, rounds };
        if !found.goes_on() {
            return Ok(found);
        }
        training = Some(found);
    }
    let sample = sample(bench, sources, frame).await?;
    bench.stage = "train";
    let mut training = match training {
        Some(training) => training,
        None => blocking(|| frame.training(&sample)),
    };
    while training.goes_on() {
        bench.turn()?;
        blocking(|| frame.train(&mut training, &sample));
        let pack = Pack::default().numbers(&training.centroids);
        training.centroids = bench.keep(&format!("train-{}", training.rounds), pack).await?.numbers()?;
    }
    Ok(training)
}

async fn sample(bench: &mut Bench<'_>, sources: &Sources<'_>, frame: &Frame<'_>) -> Result<Vec<f32>, Stop> {
    bench.stage = "sample";
    for (number, group) in sources.groups.iter().enumerate() {
        let name = format!("sample-{number}");
        if bench.has(&name) {
            continue;
        }
        bench.turn()?;
        let batch = sources.vectors(bench.meter, *group).await?;
        let taken = blocking(|| Ok::<_, Error>(frame.sample(number, &frame.floats(&batch)?)))?;
        bench.keep(&name, Pack::default().numbers(&taken)).await?;
    }
    let mut out = Vec::new();
    for mut kept in bench.load_all("sample", sources.groups.len()).await? {
        out.extend(kept.numbers::<4, f32>()?);
    }
    Ok(out)
}
