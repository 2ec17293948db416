//! Every route over a store in memory, in-process: replies, encodings, refusals.

mod deletes;
mod encodings;
mod fixture;
mod page;
mod refusals;
mod replies;
mod scans;
